"""Time the input pipeline on a manifest, as a whole and part by part.

    taskset -c 0 python -m benchmarks.input_pipeline --manifest data/an4/train.jsonl --threads 1 \
        --augment benchmarks/augmentation.json --on_device --rounds 5

Prints one JSON line. `end_to_end` (batches loaded by grain, with augmentation if --augment is given, including the start of
--workers; the median of --rounds) and `parts` (each part alone, as often as the augmentation file applies it) are in seconds of
audio per CPU second. `share` is the fraction of the end-to-end time that each part takes, `rest` the remainder: padding,
batching, grain. `audio_s_per_s` is end to end, per second of wall time. `host` is what 16 such cores would deliver.

With --on_device, `inputs` compares what batches bring to the device, measured in turn in each round: features that the host has
computed, and samples as float32 or int16 (config.features.on_device and transfer): the speed relative to features, kB for a
second of audio with its padding, and the largest and the mean difference of features made of samples, in four batches.
"""

import argparse
import collections
import json
import os
import resource
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import soxr
from absl import flags
from tqdm import tqdm

from input_pipeline import audio, manifest
from input_pipeline.audio.features import KINDS, FeatureSettings, extract, feature_size
from input_pipeline.audio.front_end import FeatureStats, FrontEnd, normalise
from input_pipeline.augment import Augmentation, rng_for
from input_pipeline.batches.corpus import Corpus
from input_pipeline.batches.inputs import SampleInput
from input_pipeline.batches.loader import LoadSettings
from input_pipeline.batches.plan import BatchSettings
from input_pipeline.storage import console

WARM_UP = 50  # clips processed before timing starts
HOST_CORES = 16
COMPARED = 4  # batches whose features are compared
INPUTS = {"features": "", "float32": "float32", "int16": "int16"}


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


class Load(NamedTuple):
    """Loading the batches of an epoch once."""

    cpu_s: float
    wall_s: float
    nbytes: int  # of the arrays in all batches


def time_loading(corpus: Corpus) -> Load:
    """Load the batches of an epoch as a training does."""
    specs = corpus.plan_epoch(0)
    start, clock, nbytes = cpu_s(), time.perf_counter(), 0
    for batch in tqdm(corpus.batches(specs), total=len(specs), desc="end to end", delay=2):
        nbytes += sum(array.nbytes for name, array in batch.items() if name != "problem")
    return Load(cpu_s() - start, time.perf_counter() - clock, nbytes)


def feature_differences(host: Corpus, other: Corpus) -> dict[str, float]:
    """Return the largest and the mean difference between features that the host computes and those of the other's samples."""
    import jax  # the loading above is timed without it

    from ds2_jax.recognition.device_features import make_front_end

    assert isinstance(other.inputs, SampleInput)
    front_end = jax.jit(make_front_end(other.inputs))
    specs = host.plan_epoch(0)[:COMPARED]
    differences = []
    for features, samples in zip(host.batches(specs), other.batches(specs), strict=True):
        samples.pop("problem")
        inside = np.arange(features["spectrogram"].shape[1]) < features["frames"][:, None]
        differences.append(np.abs(front_end(samples) - features["spectrogram"])[inside].ravel())
    return {"largest": float(np.max(np.concatenate(differences))), "mean": float(np.mean(np.concatenate(differences)))}


def compare_inputs(loads: dict[str, list[Load]], seconds: float) -> dict[str, dict[str, float]]:
    """Return speed, that of a host, speed relative to features (median of the rounds' ratios), and kB for each kind of input."""
    compared: dict[str, dict[str, float]] = {}
    for name, measured in loads.items():
        speed = seconds / np.median([load.cpu_s for load in measured])
        ratios = [own.cpu_s / load.cpu_s for own, load in zip(loads["features"], measured, strict=True)]
        compared[name] = {
            "end_to_end": round(speed),
            "host": round(HOST_CORES * speed),
            "relative": round(float(np.median(ratios)), 3),
            "kb_per_s": round(measured[0].nbytes / seconds / 1000, 1),
        }
    return compared


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
    parser.add_argument("--on_device", action="store_true", help="also load samples, for features made on the device")
    parser.add_argument("--rounds", type=int, default=1, help="how often all batches are loaded")
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
    front_end = FrontEnd(settings, "corpus", identity_stats(settings))
    corpora = {
        name: Corpus(clips, None, front_end, plan, augmentation, load=load, transfer=transfer)
        for name, transfer in INPUTS.items()
        if a.on_device or not transfer
    }
    rounds = [{name: time_loading(corpus) for name, corpus in corpora.items()} for _ in range(a.rounds)]
    loads = {name: [measured[name] for measured in rounds] for name in corpora}
    end_to_end_s = float(np.median([load.cpu_s for load in loads["features"]]))
    wall_s = float(np.median([load.wall_s for load in loads["features"]]))
    share = {part: part_s / end_to_end_s for part, part_s in parts.items()}
    share["rest"] = 1 - sum(share.values())
    result = {
        "benchmark": "input_pipeline",
        "audio_s": round(seconds, 1),
        "end_to_end": round(seconds / end_to_end_s),
        "audio_s_per_s": round(seconds / wall_s, 1),
        "host": round(HOST_CORES * seconds / end_to_end_s),
        "parts": {part: round(seconds / max(part_s, 1e-9)) for part, part_s in parts.items()},
        "share": {part: round(value, 3) for part, value in share.items()},
        "padding": round(corpora["features"].plan_epoch(0).padding, 4),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
    }
    if a.on_device:
        inputs = compare_inputs(loads, seconds)
        for name in ("float32", "int16"):
            inputs[name] |= feature_differences(corpora["features"], corpora[name])
        result["inputs"] = inputs
    print(json.dumps(result | {"options": vars(a)}))


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:  # a missing or invalid manifest or augmentation file
        raise SystemExit(f"python -m benchmarks.input_pipeline: {error}") from None
