"""Time the input pipeline on a manifest, as a whole and part by part.

    taskset -c 0 python -m benchmarks.input_pipeline --manifest data/an4/train.jsonl --threads 1 \
        --augment benchmarks/augmentation.json

Prints one JSON line. `end_to_end` (batches loaded by grain, with augmentation if --augment is given, including the start of
--workers) and `parts` (each part alone, as often as the augmentation file applies it) are in seconds of audio per CPU second.
`share` is the fraction of the end-to-end time that each part takes, `rest` the remainder: padding, batching, grain.
`audio_s_per_s` is end to end, per second of wall time.
"""

import argparse
import collections
import json
import os
import resource
import time
from collections.abc import Sequence

import numpy as np
import soxr
from absl import flags
from tqdm import tqdm

from input_pipeline import audio, manifest
from input_pipeline.audio.features import KINDS, FeatureSettings, extract, feature_size
from input_pipeline.audio.front_end import FeatureStats, FrontEnd, normalise
from input_pipeline.augment import Augmentation, rng_for
from input_pipeline.batches.corpus import Corpus
from input_pipeline.batches.loader import LoadSettings
from input_pipeline.batches.plan import BatchSettings
from input_pipeline.storage import console

WARM_UP = 50  # clips processed before timing starts


def cpu_s() -> float:
    """Return the CPU seconds of this process and of its finished child processes."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def identity_stats(settings: FeatureSettings) -> FeatureStats:
    """Return statistics that leave features unchanged but take as long to apply as real ones."""
    size = feature_size(settings)
    return FeatureStats(np.zeros(size, np.float32), np.ones(size, np.float32))


class Laps:
    """CPU seconds of named parts."""

    def __init__(self) -> None:
        self.parts: dict[str, float] = collections.defaultdict(float)
        self.start()

    def start(self) -> None:
        """Start a part; the time before counts towards none."""
        self._start = time.thread_time()

    def end(self, part: str) -> None:
        """Add the time since the last call to a part and start the next one."""
        now = time.thread_time()
        self.parts[part] += now - self._start
        self._start = now


def time_parts(
    paths: Sequence[str], settings: FeatureSettings, augmentation: Augmentation
) -> tuple[float, dict[str, float]]:
    """Run the parts of the pipeline clip by clip, so that memory does not grow with the corpus.

    Returns the seconds of audio before augmentation, and the CPU seconds of each part.
    """
    stats, laps = identity_stats(settings), Laps()
    rates = augmentation.speed_rates(len(paths), 0, 0)
    audio_s = 0.0
    for row, path in enumerate(tqdm(paths, desc="part by part", delay=2)):
        laps.start()
        samples, own_rate_hz = audio.read(path)
        laps.end("decode")
        if own_rate_hz != settings.sample_rate_hz:
            samples = soxr.resample(samples, own_rate_hz, settings.sample_rate_hz, quality="HQ")
            laps.end("resample")
        audio_s += len(samples) / settings.sample_rate_hz
        rate, rng = float(rates[row]), rng_for(0, 0, row)
        for entry in augmentation.entries:
            if hasattr(entry.augmentor, "apply_features"):
                continue  # timed below, after the features
            laps.start()
            samples = Augmentation((entry,)).apply_audio(samples, settings.sample_rate_hz, rate=rate, rng=rng)
            if entry.kind == "speed":
                rate = 1.0
            laps.end(entry.kind)
        features = normalise(extract(samples, settings), "corpus", stats)
        laps.end("features")
        augmentation.apply_features(features, rng)
        laps.end("masks")
    return audio_s, dict(laps.parts)


@console.command
def main() -> None:
    """Run the benchmark and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--kind", choices=KINDS, default="linear")
    parser.add_argument("--augment", default="", help="JSON file of augmentors")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--buckets", type=int, default=12)
    parser.add_argument("--workers", type=int, default=0, help="worker processes; 0: threads")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=int, default=0, help="number of utterances; 0: all")
    a = parser.parse_args()
    flags.FLAGS.mark_as_parsed()  # grain's worker processes read flags
    clips = manifest.read(a.manifest, need_text=False)
    if a.limit:
        clips = clips.select(np.arange(min(a.limit, len(clips))))
    settings = FeatureSettings(kind=a.kind)

    augmentation = Augmentation.load(a.augment, settings.sample_rate_hz)
    time_parts(clips.audio[:WARM_UP], settings, augmentation)
    seconds, parts = time_parts(clips.audio, settings, augmentation)
    plan = BatchSettings(size=a.batch, buckets=a.buckets, sortagrad=False)
    load = LoadSettings(workers=a.workers, threads=a.threads)
    corpus = Corpus(clips, None, FrontEnd(settings, "corpus", identity_stats(settings)), plan, augmentation, load=load)
    specs = corpus.plan_epoch(0)
    start, clock = cpu_s(), time.perf_counter()
    for _ in tqdm(corpus.batches(specs), total=len(specs), desc="end to end", delay=2):
        pass
    end_to_end_s, wall_s = cpu_s() - start, time.perf_counter() - clock
    share = {part: part_s / end_to_end_s for part, part_s in parts.items()}
    share["rest"] = 1 - sum(share.values())
    result = {
        "benchmark": "input_pipeline",
        "audio_s": round(seconds, 1),
        "end_to_end": round(seconds / end_to_end_s),
        "audio_s_per_s": round(seconds / wall_s),
        "parts": {part: round(seconds / max(part_s, 1e-9)) for part, part_s in parts.items()},
        "share": {part: round(value, 3) for part, value in share.items()},
        "padding": round(specs.padding, 4),
        "cores": os.cpu_count(),
    }
    print(json.dumps(result | {"options": vars(a)}))


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:  # a missing or invalid manifest or augmentation file
        raise SystemExit(f"python -m benchmarks.input_pipeline: {error}") from None
