"""Mean and standard deviation of the features of a corpus.

`python -m input_pipeline.stats train.jsonl --output=stats.npz`.
"""

import argparse
import concurrent.futures
import dataclasses
import logging
import multiprocessing
import os
import sys
from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from input_pipeline import audio, manifest
from input_pipeline.features import FeatureSettings, FeatureStats, extract, feature_size

CHUNK = 25  # clips that are summed at a time; fixed, so that the result does not depend on the number of workers
FEW = 300  # clips; for these, threads are sooner ready than processes
MAX_BAD_SHARE = 0.05
MAX_NAMED = 5

logger = logging.getLogger("input_pipeline")

Moments = tuple[int, np.ndarray, np.ndarray]  # frames, mean [F], sum of squared deviations [F], in float64


class StatsError(ValueError):
    """Statistics that cannot be made; the message says why."""


def compute(
    paths: Sequence[str],
    settings: FeatureSettings,
    *,
    num_samples: int = 2000,
    seed: int = 0,
    workers: int = 0,
    progress: bool = True,
) -> FeatureStats:
    """Measure a random sample (all, if fewer) of the clips of manifests, on all cores unless `workers` says how many.

    Clips that cannot be read are named and left out; more than 5 % of them raise StatsError.
    """
    clips = [clip for path in paths for clip in manifest.read(path, need_text=False).audio]
    if len(clips) > num_samples:
        chosen = np.random.default_rng(seed).choice(len(clips), num_samples, replace=False)
        clips = [clips[index] for index in np.sort(chosen)]
    chunks = [(clips[start : start + CHUNK], settings) for start in range(0, len(clips), CHUNK)]
    total: Moments = (0, np.zeros(feature_size(settings)), np.zeros(feature_size(settings)))
    problems: list[str] = []
    bar = tqdm(total=len(clips), desc="feature statistics", unit=" clips", delay=2.0, leave=False, disable=not progress)
    with bar, _pool(workers or os.cpu_count() or 1, len(clips)) as pool:
        for chunk, (moments, bad) in zip(chunks, pool.map(_measure, chunks), strict=True):
            total = _merge(total, moments)
            problems += bad
            bar.update(len(chunk[0]))
    _report(problems, len(clips))
    frames, mean, squares = total
    std = np.sqrt(squares / frames)
    if (std <= 0).any():
        raise StatsError(f"feature {int(np.argmin(std))} never changes in {', '.join(paths)}; look at the audio")
    return FeatureStats(mean.astype(np.float32), std.astype(np.float32))


def _pool(workers: int, clips: int) -> concurrent.futures.Executor:
    if clips <= FEW or workers == 1:
        return concurrent.futures.ThreadPoolExecutor(workers)
    # Not forked: whoever calls may have threads, JAX's for instance.
    return concurrent.futures.ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))


def _measure(chunk: tuple[list[str], FeatureSettings]) -> tuple[Moments, list[str]]:
    clips, settings = chunk
    moments: Moments = (0, np.zeros(feature_size(settings)), np.zeros(feature_size(settings)))
    problems = []
    for path in clips:
        try:
            features = extract(audio.read(path, settings.sample_rate_hz)[0], settings).astype(np.float64)
        except (ValueError, OSError) as error:
            problems.append(f"{path}: {error}")
            continue
        mean = features.mean(0)
        moments = _merge(moments, (len(features), mean, np.square(features - mean).sum(0)))
    return moments, problems


def _merge(a: Moments, b: Moments) -> Moments:
    """Join two sets of moments without loss of accuracy (Chan, Golub and LeVeque 1979)."""
    frames = a[0] + b[0]
    if frames == 0:
        return a
    delta = b[1] - a[1]
    return frames, a[1] + delta * (b[0] / frames), a[2] + b[2] + np.square(delta) * (a[0] * b[0] / frames)


def _report(problems: list[str], clips: int) -> None:
    if not problems:
        return
    named = "\n".join(f"  {problem}" for problem in problems[:MAX_NAMED])
    message = f"{len(problems)} of {clips} clips cannot be used for feature statistics:\n{named}"
    if len(problems) > MAX_BAD_SHARE * clips:
        raise StatsError(f"{message}\nMend the manifest: python -m input_pipeline.manifest check")
    logger.warning("%s", message)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m input_pipeline.stats", description=__doc__)
    parser.add_argument("manifests", nargs="+", metavar="MANIFEST")
    parser.add_argument("--output", required=True, help=".npz to write")
    parser.add_argument("--num_samples", type=int, default=2000, help="clips, drawn at random (default 2000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=0, help="processes; 0 (default): one a core")
    for field in dataclasses.fields(FeatureSettings):
        kind = {"True": True, "true": True, "1": True}.get if field.type is bool else type(field.default)
        parser.add_argument(f"--{field.name}", type=kind, default=field.default, help=f"default {field.default}")
    args = parser.parse_args(argv)
    try:
        settings = FeatureSettings(**{f.name: getattr(args, f.name) for f in dataclasses.fields(FeatureSettings)})
        stats = compute(args.manifests, settings, num_samples=args.num_samples, seed=args.seed, workers=args.workers)
        stats.save(args.output)
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    print(f"{args.output}: mean {stats.mean.mean():.3f}, std {stats.std.mean():.3f} over {len(stats.mean)} features")
    return 0


if __name__ == "__main__":
    sys.exit(main())
