"""Time the input pipeline on a manifest, part by part.

    python -m benchmarks.input_pipeline --manifest data/an4/train.jsonl [--augment configs/augmentation.json] [--workers 2]

Prints one JSON line, in seconds of audio a second and core (a second of the processor's time): `decode` (read and resample),
`features` (spectrogram), `end_to_end` (batches through grain, augmented if asked for; with --workers, their start included).
`audio_s_per_s` is end to end by the clock.
"""

import argparse
import json
import os
import resource
import time
from collections.abc import Sequence

import numpy as np
from absl import flags
from tqdm import tqdm

from input_pipeline import audio, manifest
from input_pipeline.augment import Augmentation
from input_pipeline.batch_plan import BatchSettings
from input_pipeline.corpus import Corpus, Loading
from input_pipeline.features import KINDS, FeatureSettings, FeatureStats, extract, feature_size


def processor_s() -> float:
    """Return the processor's seconds of this process and of its ended children."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def time_parts(paths: Sequence[str], settings: FeatureSettings) -> tuple[float, float, float]:
    """Decode and transform clip by clip, so that memory does not grow with the corpus.

    Returns the audio's seconds and the processor's for decoding and for features.
    """
    audio_s = decode_s = features_s = 0.0
    for path in tqdm(paths, desc="decode, features", delay=2):
        start = time.process_time()
        samples, _ = audio.read(path, settings.sample_rate_hz)
        decoded = time.process_time()
        extract(samples, settings)
        features_s += time.process_time() - decoded
        decode_s += decoded - start
        audio_s += len(samples) / settings.sample_rate_hz
    return audio_s, decode_s, features_s


def main() -> None:
    """Parse, time, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--kind", choices=KINDS, default="linear")
    parser.add_argument("--augment", default="", help="JSON file of augmentors")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--buckets", type=int, default=12)
    parser.add_argument("--workers", type=int, default=0, help="processes; 0: threads")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=int, default=0, help="utterances; 0: all")
    a = parser.parse_args()
    flags.FLAGS.mark_as_parsed()  # grain's worker processes read flags
    clips = manifest.read(a.manifest, need_text=False)
    if a.limit:
        clips = clips.select(np.arange(min(a.limit, len(clips))))
    settings = FeatureSettings(kind=a.kind)

    seconds, decode_s, features_s = time_parts(clips.audio, settings)
    size = feature_size(settings)
    stats = FeatureStats(np.zeros(size, np.float32), np.ones(size, np.float32))
    plan = BatchSettings(size=a.batch, buckets=a.buckets, sortagrad=False)
    augmentation = Augmentation.load(a.augment, settings.sample_rate_hz)
    loading = Loading(workers=a.workers, threads=a.threads)
    corpus = Corpus(clips, None, settings, "corpus", stats, plan, augmentation, loading=loading)
    specs = corpus.epoch(0)
    start, clock = processor_s(), time.perf_counter()
    for _ in tqdm(corpus.batches(specs), total=len(specs), desc="end to end", delay=2):
        pass
    end_to_end_s, wall_s = processor_s() - start, time.perf_counter() - clock
    result = {
        "benchmark": "input_pipeline",
        "audio_s": round(seconds, 1),
        "decode": round(seconds / decode_s),
        "features": round(seconds / features_s),
        "end_to_end": round(seconds / end_to_end_s),
        "audio_s_per_s": round(seconds / wall_s),
        "padding": round(corpus.padding(0), 4),
        "cores": os.cpu_count(),
    }
    print(json.dumps(result | {"options": vars(a)}))


if __name__ == "__main__":
    main()
