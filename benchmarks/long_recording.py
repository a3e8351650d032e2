"""Join the clips of a manifest to a long recording; compare its error rate, speed and memory with those of the clips.

    python -m benchmarks.long_recording --model=models/an4 --manifest=data/an4/test.jsonl --minutes=60

Clips are repeated to the length. --pause: longest pause between them in seconds, of noise at the level of a clip's ends.
Prints one JSON line; memory is that above the loaded model.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

import ds2_jax
from benchmarks import measure
from decoding.scoring.error_rate import summarise
from ds2_jax.recognition.clips import Audio
from input_pipeline import audio, manifest
from input_pipeline.storage import console
from input_pipeline.text import ScoringRules

EDGE = 1600  # samples at both ends of a clip whose level its pause has


def write(path: Path, clips: list[np.ndarray], order: list[int], rate_hz: int, pause_s: float) -> None:
    """Write clips in this order as one file, with pauses of up to `pause_s`."""
    rng = np.random.default_rng(0)
    with soundfile.SoundFile(path, "w", rate_hz, 1) as file:
        for index in order:
            clip = clips[index]
            level = np.std(np.concatenate([clip[:EDGE], clip[-EDGE:]]))
            file.write(clip)
            if pause_s:
                file.write(level * rng.standard_normal(int(rng.uniform(pause_s / 4, pause_s) * rate_hz)))


@console.command
def main() -> None:
    """Run the benchmark and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/an4")
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--pause", type=float, default=0.0)
    arguments = parser.parse_args()
    model = ds2_jax.load(arguments.model)
    rate_hz, rules = model.sample_rate_hz, ScoringRules.for_language(model.meta.language)
    rows = manifest.read_many(arguments.manifest)
    clips = [audio.read(clip, rate_hz)[0] for clip in rows.clips]
    short: list[Audio] = [(clip, rate_hz) for clip in clips]
    model.transcribe(short)  # compiles
    start = time.perf_counter()
    hypotheses = [transcript.text for transcript in model.transcribe(short)]
    short_s = time.perf_counter() - start
    audio_s = sum(map(len, clips)) / rate_hz
    order = [n % len(clips) for n in range(max(1, round(len(clips) * arguments.minutes * 60 / audio_s)))]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "joined.flac")
        write(path, clips, order, rate_hz, arguments.pause)
        before_mb = measure.peak_memory_mb()
        start = time.perf_counter()
        transcript = model.transcribe(path)
        long_s = time.perf_counter() - start
    texts = [rows.text[index] for index in range(len(clips))]
    joined = [" ".join(texts[index] for index in order)]
    result = {
        "benchmark": "long_recording",
        "wer_clips": summarise(texts, hypotheses, rules=rules).as_dict()["wer"],
        "wer_joined": summarise(joined, [transcript.text], rules=rules).as_dict()["wer"],
        "audio_s": round(transcript.duration_s, 1),
        "audio_s_per_s_clips": round(audio_s / short_s, 1),
        "audio_s_per_s_joined": round(transcript.duration_s / long_s, 1),
        "memory_above_clips_mb": round(measure.peak_memory_mb() - before_mb),
    }
    print(json.dumps(result | {"options": vars(arguments)}))


if __name__ == "__main__":
    main()
