"""Time planning the batches of a large corpus, and the steps before and after it on each host.

    python -m benchmarks.batch_plan --utterances=1000000 [--batch 16] [--shuffle batch_shuffle] [--speed]

Writes a manifest with this many utterances (no audio) and prints one JSON line.
CPU seconds: `read_s` to read the manifest, `encode_s` to encode its transcripts, `plan_s` to choose the bucket shapes and
plan one epoch (`plan_clock_s`: its wall time), `to_worker_s` to pickle what a worker process receives (`to_worker_mb`).
Memory: `imported_mb`, `read_mb` and `encode_mb` remain in use after importing, reading and encoding; `plan_mb` is the
additional peak during planning, and `process_peak_mb` the peak of the whole process during planning.
"""

import argparse
import json
import pickle
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from tqdm import tqdm

from benchmarks.measure import machine, peak_memory_mb, reset_peak_memory, resident_memory_mb
from input_pipeline import manifest
from input_pipeline.audio.features import FeatureSettings
from input_pipeline.audio.front_end import FrontEnd
from input_pipeline.augment import Augmentation
from input_pipeline.batches.corpus import Corpus
from input_pipeline.batches.labels import encode_transcripts
from input_pipeline.batches.loader import EpochSpecs
from input_pipeline.batches.plan import SHUFFLES, BatchSettings
from input_pipeline.storage import console
from input_pipeline.text import TextRules, Vocabulary

WORDS = ["the", "of", "and", "to", "in", "that", "it", "was", "for", "with", "his", "they", "this", "from", "what"]
WORDS_PER_S = 2.7
Result = TypeVar("Result")


def write_manifest(path: Path, utterances: int) -> None:
    """Write records like LibriSpeech's: 1 to 17 s, speaker and chapter in the path, a `speaker` key."""
    rng = np.random.default_rng(0)

    def record(row: int) -> dict:
        seconds = round(float(rng.triangular(1, 15, 17)), 3)
        words = rng.integers(0, len(WORDS), int(seconds * WORDS_PER_S))
        speaker, chapter = row % 2500, row // 50
        return {
            "audio_filepath": f"train/{speaker}/{chapter}/{speaker}-{chapter}-{row % 50:04d}.flac",
            "duration": seconds,
            "text": " ".join(map(WORDS.__getitem__, words)),
            "speaker": str(speaker),
        }

    manifest.write(path, map(record, tqdm(range(utterances), desc="write manifest", delay=2, leave=False)))


def timed(call: Callable[[], Result]) -> tuple[Result, float, float]:
    """Return the result of a call, its CPU seconds and its wall time in seconds."""
    start, clock = time.process_time(), time.perf_counter()
    result = call()
    return result, round(time.process_time() - start, 2), round(time.perf_counter() - clock, 2)


@console.command
def main() -> None:
    """Run the benchmark and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--utterances", type=int, default=1_000_000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--buckets", type=int, default=8)
    parser.add_argument("--shuffle", choices=SHUFFLES, default="batch_shuffle")
    parser.add_argument("--speed", action="store_true", help="include the augmentor that changes clip lengths")
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "train.jsonl")
        write_manifest(path, a.utterances)
        size_mb = path.stat().st_size / 1e6
        imported_mb = resident_memory_mb()
        utterances, read_s, _ = timed(lambda: manifest.read(path))
        read_mb = resident_memory_mb()
        augment = Path(folder, "augment.json")
        params = {"min_speed_rate": 0.9, "max_speed_rate": 1.1}
        augment.write_text(json.dumps([{"type": "speed", "params": params, "prob": 1}] if a.speed else []))
        augmentation = Augmentation.load(augment, 16000)
    vocabulary = Vocabulary(tuple(" abcdefghijklmnopqrstuvwxyz'"))
    (labels, _), encode_s, _ = timed(lambda: encode_transcripts(utterances, vocabulary, TextRules()))
    settings = BatchSettings(size=a.batch, buckets=a.buckets, shuffle=a.shuffle)
    front_end = FrontEnd(FeatureSettings(), "utterance")

    def plan() -> tuple[Corpus, EpochSpecs]:
        corpus = Corpus(utterances, labels, front_end, settings, augmentation)
        return corpus, corpus.plan_epoch(1)

    before_mb = resident_memory_mb()
    reset_peak_memory()
    (corpus, specs), plan_s, plan_clock_s = timed(plan)
    peak_mb = peak_memory_mb()
    sent, to_worker_s, _ = timed(lambda: len(pickle.dumps((specs, corpus.make_loader()))))
    result = {
        "benchmark": "batch_plan",
        "utterances": len(utterances),
        "batches": len(specs),
        "manifest_mb": round(size_mb, 1),
        "imported_mb": round(imported_mb, 1),
        "read_s": read_s,
        "read_mb": round(read_mb - imported_mb, 1),
        "encode_s": encode_s,
        "encode_mb": round(before_mb - read_mb, 1),
        "plan_s": plan_s,
        "plan_clock_s": plan_clock_s,
        "plan_mb": round(peak_mb - before_mb, 1),
        "process_peak_mb": round(peak_mb, 1),
        "to_worker_mb": round(sent / 1e6, 1),
        "to_worker_s": to_worker_s,
        "machine": machine(),
    }
    print(json.dumps(result | {"options": vars(a)}))


if __name__ == "__main__":
    main()
