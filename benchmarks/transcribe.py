"""Time transcribing a manifest on one core: reading, features, network and greedy decoding.

    python -m benchmarks.transcribe --model=models/an4 --manifest=data/an4/test.jsonl

Prints one JSON line: seconds of audio per second, with all shapes already compiled, and the word error rate.
"""

import argparse
import json
import os
import statistics
import time

import numpy as np

from benchmarks import measure
from decoding.scoring.error_rate import summarise
from ds2_jax.artifacts.load import load_model
from ds2_jax.parallel import sharding
from ds2_jax.recognition.evaluation import EvaluationSettings, Evaluator
from input_pipeline import manifest as manifests
from input_pipeline.batches.loader import LoadSettings
from input_pipeline.batches.plan import BatchSettings
from input_pipeline.cores import usable_cores
from input_pipeline.storage import console
from input_pipeline.text import ScoringRules


@console.command
def main() -> None:
    """Run the benchmark and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/an4")
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--buckets", type=int, default=8, help="number of lengths of batches")
    parser.add_argument("--limit", type=int, default=0, help="number of utterances; 0: all")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--cores", choices=("1", "all"), default="1")
    a = parser.parse_args()
    if a.cores == "1" and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])  # before JAX starts its threads
    meta, variables = load_model(a.model)
    manifest = manifests.read(a.manifest)
    if a.limit:
        manifest = manifest.select(np.arange(min(a.limit, len(manifest))))
    batch = BatchSettings(size=a.batch, buckets=a.buckets, shuffle="none")
    settings = EvaluationSettings(batch, LoadSettings(threads=usable_cores()))
    evaluator = Evaluator(meta, sharding.make_mesh(), settings)
    corpus = evaluator.corpus(manifest)
    evaluator.transcribe(variables, corpus)  # compiles
    seconds = []
    for _ in range(a.runs):
        start = time.perf_counter()
        transcription = evaluator.transcribe(variables, corpus)
        seconds.append(time.perf_counter() - start)
    rows = sorted(transcription.hypotheses)
    texts = [[manifest.text[row] for row in rows], [transcription.hypotheses[row].text for row in rows]]
    result = {
        "benchmark": "transcribe",
        "versions": measure.versions(),
        "cores": usable_cores(),
        "audio_s": round(float(manifest.duration.sum()), 1),
        "audio_s_per_s": round(float(manifest.duration.sum()) / statistics.median(seconds), 1),
        "wer": summarise(*texts, rules=ScoringRules.for_language(meta.language)).as_dict()["wer"],
        "peak_memory_mb": round(measure.peak_memory_mb()),
    }
    print(json.dumps(result | {"options": vars(a)}))


if __name__ == "__main__":
    main()
