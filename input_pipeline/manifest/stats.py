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
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from input_pipeline import audio, manifest
from input_pipeline.audio.features import FeatureError, FeatureSettings, extract, feature_size
from input_pipeline.audio.front_end import FeatureStats
from input_pipeline.cores import usable_cores
from input_pipeline.manifest.sample_rates import warn_about_upsampling
from input_pipeline.shards import source as shard_source
from input_pipeline.storage import console
from input_pipeline.storage.paths import refuse_inputs

CHUNK = 25  # clips summed in one step; fixed, so that the result does not depend on the number of workers
FEW = 300  # clips, for which threads are faster than starting processes
MAX_BAD_SHARE = 0.05
MAX_NAMED = 5
# Above the original bandwidth of upsampled clips, only rounding noise varies. Divided by its standard deviation (2e-4 for
# telephone speech at 16 kHz), audio of full bandwidth would be amplified ten thousand times.
STD_FLOOR = 0.05

logger = logging.getLogger("input_pipeline")


class StatsError(ValueError):
    """Statistics that cannot be computed; the message says why."""


@dataclass
class Moments:
    """Frames of some clips, with their mean [F] and sum of squared deviations [F] in float64, and the unusable clips."""

    frames: int
    mean: np.ndarray
    squares: np.ndarray
    problems: list[str] = field(default_factory=list)

    def add(self, other: "Moments") -> None:
        """Add the moments of other clips, without loss of accuracy (Chan, Golub and LeVeque 1979)."""
        self.problems += other.problems
        if not other.frames:
            return
        frames = self.frames + other.frames
        delta = other.mean - self.mean
        self.mean = self.mean + delta * (other.frames / frames)
        self.squares = self.squares + other.squares + np.square(delta) * (self.frames * other.frames / frames)
        self.frames = frames


def compute(
    clips: manifest.Segments,
    settings: FeatureSettings,
    *,
    num_samples: int = 2000,
    seed: int = 0,
    workers: int = 0,
    max_bad_share: float = MAX_BAD_SHARE,
) -> FeatureStats:
    """Measure the features of a random sample of clips (all, if there are fewer), with `workers` processes (0: one a core).

    The result does not depend on the number of workers. Clips that cannot be used are named and left out; if their share
    exceeds `max_bad_share`, raises StatsError. A standard deviation below 0.05 is raised to it.
    """
    if num_samples < 1 or workers < 0:
        raise StatsError(f"num_samples is {num_samples}, workers {workers}: use 1 or more, and 0 (all cores) or more")
    if len(clips) > num_samples:
        clips = clips.take(np.sort(np.random.default_rng(seed).choice(len(clips), num_samples, replace=False)))
    with shard_source.prefetch(clips.path):
        total = _measure_all(list(clips), settings, workers or usable_cores())
    _report(total.problems, len(clips), max_bad_share)
    std = np.sqrt(total.squares / total.frames)
    if (std < STD_FLOOR).any():
        logger.warning("%d of %d features hardly vary over %d clips", (std < STD_FLOOR).sum(), len(std), len(clips))
    return FeatureStats(total.mean.astype(np.float32), np.maximum(std, STD_FLOOR).astype(np.float32))


def _measure_all(clips: list[audio.Source], settings: FeatureSettings, workers: int) -> Moments:
    chunks = [(clips[start : start + CHUNK], settings) for start in range(0, len(clips), CHUNK)]
    bar = tqdm(total=len(clips), desc="feature statistics", unit=" clips", delay=2.0, leave=False)
    total = _no_frames(settings)
    pool: concurrent.futures.Executor
    if workers == 1 or len(clips) <= FEW:
        pool = concurrent.futures.ThreadPoolExecutor(workers)
    else:  # spawned, not forked: the caller may have threads, such as JAX's
        context = multiprocessing.get_context("spawn")
        pool = concurrent.futures.ProcessPoolExecutor(min(workers, len(chunks)), mp_context=context)
    try:
        with bar:
            for chunk, moments in zip(chunks, pool.map(_measure, chunks), strict=True):
                total.add(moments)
                bar.update(len(chunk[0]))
    except BrokenProcessPool as error:
        raise StatsError("a worker process was killed, perhaps for lack of memory; use fewer workers") from error
    finally:
        pool.shutdown(cancel_futures=True)
    return total


def _no_frames(settings: FeatureSettings) -> Moments:
    return Moments(0, np.zeros(feature_size(settings)), np.zeros(feature_size(settings)))


def _measure(chunk: tuple[list[audio.Source], FeatureSettings]) -> Moments:
    """Return the moments of a chunk of clips; runs in a worker."""
    clips, settings = chunk
    total = _no_frames(settings)
    for clip in clips:
        try:
            features = extract(audio.read(clip, settings.sample_rate_hz)[0], settings)
        except (FeatureError, MemoryError) as error:
            total.problems.append(f"{audio.name_of(clip)}: {str(error) or 'does not fit into memory; split it'}")
            continue
        except audio.AudioError as error:  # its message names the file
            total.problems.append(str(error))
            continue
        mean = features.mean(axis=0, dtype=np.float64)
        squares = np.square(features - mean).sum(axis=0)
        total.add(Moments(len(features), mean, squares))
    return total


def _report(problems: Sequence[str], clips: int, max_bad_share: float) -> None:
    if not problems:
        return
    named = "\n".join(f"  {problem}" for problem in problems[:MAX_NAMED])
    message = f"{len(problems)} of {clips} clips cannot be used for feature statistics:\n{named}"
    if len(problems) > max_bad_share * clips:
        raise StatsError(
            f"{message}\nCorrect the manifest: python -m input_pipeline.manifest check FILE --output=CLEANED"
        )
    logger.warning("%s", message)


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text.lower() in ("true", "1")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m input_pipeline.stats", description=__doc__)
    parser.add_argument("manifests", nargs="+", metavar="MANIFEST")
    parser.add_argument("--output", required=True, help=".npz to write")
    parser.add_argument("--num_samples", type=int, default=2000, help="clips drawn at random (default 2000)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (default 0)")
    parser.add_argument("--workers", type=int, default=0, help="processes (default 0: one per core)")
    parser.add_argument("--ignore_keys", default="", help="comma-separated keys of rows that mean no part of a file")
    for setting in dataclasses.fields(FeatureSettings):
        kind = _boolean if setting.type is bool else type(setting.default)
        parser.add_argument(f"--{setting.name}", type=kind, default=setting.default, help=f"default {setting.default}")
    return parser


@console.command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 for success, 1 for failure, 2 for wrong usage."""
    parser = _parser()
    args = parser.parse_args(argv)
    try:
        folder = Path(args.output).absolute().parent
        if not os.access(folder, os.W_OK):  # reported now rather than after the work
            raise StatsError(f"--output={args.output}: {folder} is not a folder that can be written; create it first")
        refuse_inputs([args.output], args.manifests)
        settings = FeatureSettings(**{f.name: getattr(args, f.name) for f in dataclasses.fields(FeatureSettings)})
        ignored = manifest.parse_ignored(args.ignore_keys)
        corpora = [manifest.read(path, need_text=False, ignore_keys=ignored) for path in args.manifests]
        for corpus in corpora:
            warn_about_upsampling(corpus, settings.sample_rate_hz, logger)
        clips = manifest.Segments.concatenate([corpus.clips for corpus in corpora])
        stats = compute(clips, settings, num_samples=args.num_samples, seed=args.seed, workers=args.workers)
        stats.save(args.output)
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(f"{args.output}: mean {stats.mean.mean():.3f}, std {stats.std.mean():.3f} over {len(stats.mean)} features")
    return 0
