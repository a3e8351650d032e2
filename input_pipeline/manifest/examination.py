"""Read and measure the clips of a manifest, in several processes if there are many."""

import hashlib
import math
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import NamedTuple

import numpy as np
import soundfile
from tqdm import tqdm

from input_pipeline import audio
from input_pipeline.shards import source as shard_source
from input_pipeline.shards.format import parse_reference
from input_pipeline.storage.paths import why_missing

FULL_SCALE = 0.999
CLIPS_PER_WORKER = 32  # for fewer, another process takes longer to start than it saves
NO_SHARD = "there is no shard "


class ExaminationError(ValueError):
    """The clips cannot be examined."""


class Clip(NamedTuple):
    """What was found in an audio file; `fault` is the kind of problem that makes it unusable, or ''."""

    fault: str = ""
    message: str = ""
    samples: int = 0
    rate_hz: int = 1
    level_db: float = -math.inf
    clipped_share: float = 0.0
    digest: bytes = b""
    remarks: tuple[str, ...] = ()  # on a header that is wrong, and on channels

    @property
    def duration_s(self) -> float:
        return self.samples / self.rate_hz


def examine_all(clips: Sequence[audio.Source], workers: int) -> list[Clip]:
    """Examine clips, in processes if there are many. Raises ExaminationError."""
    workers = min(workers, len(clips) // CLIPS_PER_WORKER)
    bar = {"total": len(clips), "desc": "read audio", "unit": " clips", "leave": False}
    if workers <= 1:
        return [examine(clip) for clip in tqdm(clips, **bar)]
    chunk = max(1, min(64, len(clips) // (4 * workers)))
    # Spawned, not forked: the caller's libraries may have threads, which a forked process lacks.
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        return list(tqdm(pool.map(examine, clips, chunksize=chunk), **bar))
    except BrokenProcessPool as error:
        raise ExaminationError(
            "a worker process was killed, perhaps for lack of memory; use fewer --workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def examine(source: audio.Source) -> Clip:
    """Read a clip at its own sample rate and measure it."""
    path = str(source.source if isinstance(source, audio.Segment) else source)
    if not audio.is_there(path):
        reference = parse_reference(path)
        if reference is not None:
            return Clip("missing", f"{NO_SHARD}{reference.shard}; copy it there, or pack again")
        return Clip("missing", _why_missing(path))
    try:
        samples, rate_hz, remarks = audio.load(source)
    except (audio.AudioError, OSError, MemoryError) as error:
        return Clip("empty", "no samples") if _has_no_samples(path) else Clip("unreadable", str(error))
    power = float(np.dot(samples, samples)) / len(samples)
    if not math.isfinite(power):
        return Clip("unreadable", "samples that are not finite numbers")
    return Clip(
        samples=len(samples),
        rate_hz=rate_hz,
        level_db=10.0 * math.log10(power) if power > 0.0 else -math.inf,
        clipped_share=np.count_nonzero(np.abs(samples) >= FULL_SCALE) / len(samples),
        digest=hashlib.blake2b(np.ascontiguousarray(samples).data, digest_size=16, salt=str(rate_hz).encode()).digest(),
        remarks=remarks,
    )


def _why_missing(path: str) -> str:
    if os.path.isdir(path):
        return "a folder, not a file"
    reason = why_missing(path)
    return f"no such file; {reason}" if reason else "no such file"


def _has_no_samples(path: str) -> bool:
    try:
        source = shard_source.resolve(path)
        return (source == path and os.path.getsize(path) == 0) or soundfile.info(source).frames == 0
    except (ValueError, soundfile.LibsndfileError, OSError):
        return False
