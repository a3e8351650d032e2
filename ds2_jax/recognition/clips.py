"""Read clips for recognition: their features, in threads ahead of use, and grouped into batches of similar length."""

import collections
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from ds2_jax.artifacts.bundle import ModelMeta
from ds2_jax.recognition.batched_network import LONGEST_S, BatchedNetwork, Shape
from input_pipeline import audio
from input_pipeline.audio.features import SilenceError
from input_pipeline.audio.long_reader import LongSource, stated_s
from input_pipeline.cores import usable_cores
from input_pipeline.shards.format import parse_reference
from input_pipeline.storage.object_store import is_remote

MOST_READ_S = 20 * LONGEST_S  # of a record of a shard, or an object in a store; a header may promise any
READ_AHEAD = 32  # clips

Audio = str | os.PathLike | bytes | BinaryIO | audio.Segment | tuple[np.ndarray, int]


@dataclass(frozen=True)
class Clip:
    """Features of a clip, and facts about its recording."""

    index: int
    features: np.ndarray  # [T, F]
    duration_s: float
    sample_rate_hz: int
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class Long:
    """A recording that is recognised in parts."""

    index: int
    source: LongSource


@dataclass(frozen=True)
class Failure:
    """An unusable clip and its error."""

    index: int
    error: Exception


class ClipReader:
    """Reads clips for a network."""

    def __init__(self, meta: ModelMeta, network: BatchedNetwork):
        self._front_end = meta.front_end
        self._rate_hz = meta.features.sample_rate_hz
        self._network = network

    def read(self, source: Audio, index: int = 0, *, whole: bool = True) -> Clip | Long:
        """Read a clip and compute its features; leave long recordings alone. Raises AudioError, TypeError.

        source, whole: as for `Recogniser.transcribe_each`.
        """
        if _is_long(source):
            return Long(index, source)
        remarks: tuple[str, ...] = ()
        if isinstance(source, tuple):
            if len(source) != 2 or not isinstance(source[0], np.ndarray):
                raise TypeError("the tuple is not (samples, sample_rate_hz): pass (numpy array, 16000)")
            samples, source_rate_hz = audio.from_array(*source, self._rate_hz), int(source[1])
        elif isinstance(source, str | os.PathLike | bytes | audio.Segment) or hasattr(source, "read"):
            samples, source_rate_hz, remarks = audio.load(source, self._rate_hz, whole=whole, longest_s=MOST_READ_S)
        else:
            raise TypeError(
                f"{type(source).__name__} is not an audio source: pass a path, bytes, a file object or "
                "(samples, sample_rate_hz)"
            )
        name = source if isinstance(source, str | os.PathLike | audio.Segment) else "the clip"
        duration_s = len(samples) / self._rate_hz
        if duration_s > LONGEST_S:  # of a record of a shard
            return Long(index, (samples, self._rate_hz))
        try:
            features = self._front_end(samples)
        except SilenceError:  # has no level as an utterance; in parts, it has no speech
            return Long(index, source)
        except ValueError as error:  # does not name the file
            raise audio.AudioError(f"{name}: {error}") from error
        return Clip(index, features, duration_s, source_rate_hz, remarks)

    def batches(
        self, sources: Iterable[Audio], *, whole: bool = True, separate: bool = False
    ) -> Iterator[list[Clip] | Long | Failure]:
        """Read clips in threads and group those of similar length; yield failures immediately.

        separate: channels are speakers, so every source is recognised as a long recording. Clips do not wait for a long
        recording, which may take hours.
        """
        waiting: dict[Shape | None, list[Clip]] = collections.defaultdict(list)
        for clip in self._read_ahead(sources, whole=whole, separate=separate):
            if isinstance(clip, Long):
                yield from self._rest(waiting)
                waiting.clear()
            if isinstance(clip, Failure | Long):
                yield clip
                continue
            shape = self._network.shape_of_batch(len(clip.features))
            waiting[shape].append(clip)
            if shape is None or len(waiting[shape]) == shape.rows:
                yield waiting.pop(shape)
        yield from self._rest(waiting)

    def _rest(self, waiting: Mapping[Shape | None, Sequence[Clip]]) -> Iterator[list[Clip]]:
        """Yield clips of which there are too few for a batch of one shape."""
        yield from self._network.batches_of(itertools.chain(*waiting.values()), lambda clip: len(clip.features))

    def _read_ahead(self, sources: Iterable[Audio], *, whole: bool, separate: bool) -> Iterator[Clip | Long | Failure]:
        """Read the sources in threads, ahead of use; yield them in order."""

        def attempt(index: int, source: Audio) -> Clip | Long | Failure:
            try:
                return Long(index, source) if separate else self.read(source, index, whole=whole)
            except (ValueError, OSError, TypeError) as error:
                return Failure(index, error)
            except MemoryError:
                return Failure(index, audio.AudioError("the clip does not fit into memory; split it"))

        pending: collections.deque[Future] = collections.deque()
        with ThreadPoolExecutor(usable_cores(), "read") as pool:
            for index, source in enumerate(sources):
                pending.append(pool.submit(attempt, index, source))
                if len(pending) >= READ_AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()


def _is_long(source: Audio) -> bool:
    """Return whether a source has more than LONGEST_S, or only ffmpeg knows; a record of a shard is read to know it."""
    if isinstance(source, tuple):
        samples, rate_hz = source if len(source) == 2 else (None, 0)
        known = isinstance(samples, np.ndarray) and samples.ndim in (1, 2) and isinstance(rate_hz, int | np.integer)
        return bool(known and rate_hz > 0 and len(samples) > LONGEST_S * rate_hz)
    file = source.source if isinstance(source, audio.Segment) else source
    if isinstance(file, str | os.PathLike):
        return not parse_reference(os.fspath(file)) and not is_remote(os.fspath(file)) and stated_s(source) > LONGEST_S
    return (isinstance(file, bytes) or hasattr(file, "read")) and stated_s(source) > LONGEST_S
