"""Noise clips and impulse responses, read on demand and cached up to a limit of memory."""

import threading
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import ClassVar, Generic, Protocol, Self, TypeVar

import numpy as np
from tqdm import tqdm

from input_pipeline import audio
from input_pipeline.augment.params import AugmentationError
from input_pipeline.manifest import Manifest

CACHE_BYTES = 128 * 2**20  # for each manifest, in each worker process
CHECKED = 1000  # maximum number of clips per manifest that are read before the training starts


class CachedClip(Protocol):
    """A clip in the form in which it is used and cached."""

    FIRST_CHANNEL: ClassVar[bool]  # use the first of several channels instead of their average

    @classmethod
    def from_samples(cls, samples: np.ndarray, /) -> Self:
        """Build the clip from samples [M] float32."""

    @property
    def nbytes(self) -> int:
        """Size in memory."""


C = TypeVar("C", bound=CachedClip)


class ClipCache(Generic[C]):
    """Thread-safe cache of clips by (clip, rate), limited in bytes; the least recently used ones are dropped first."""

    def __init__(self, kind: type[C], limit_bytes: int):
        self.kind = kind
        self.limit_bytes = limit_bytes
        self._clips: OrderedDict[tuple[audio.Source, int], C] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple:
        return ClipCache, (self.kind, self.limit_bytes)  # pickled without clips, which worker processes read themselves

    def read(self, clip: str | audio.Segment, sample_rate_hz: int) -> C:
        """Return a clip at this sample rate. Raises AudioError, AugmentationError."""
        if self.kind.FIRST_CHANNEL and isinstance(clip, str):
            clip = audio.Segment(clip, channel=0)
        elif self.kind.FIRST_CHANNEL and isinstance(clip, audio.Segment) and clip.channel is None:
            clip = replace(clip, channel=0)
        key = (clip, sample_rate_hz)
        with self._lock:
            if key in self._clips:
                self._clips.move_to_end(key)
                return self._clips[key]
        # Read without the lock, so that other threads can continue.
        samples, _ = audio.read(clip, sample_rate_hz)
        made = self.kind.from_samples(samples)
        with self._lock:
            if key not in self._clips:
                self._clips[key] = made
                self._bytes += made.nbytes
            while self._bytes > self.limit_bytes:
                self._bytes -= self._clips.popitem(last=False)[1].nbytes
        return made


@dataclass(frozen=True)
class Clips(Generic[C]):
    """The clips of a manifest, from which one is drawn at a time."""

    what: str  # kind of clips, for messages
    kind: type[C]
    manifest: Manifest
    cache: ClipCache[C] = field(init=False, compare=False, repr=False)

    def __post_init__(self):
        object.__setattr__(self, "cache", ClipCache(self.kind, CACHE_BYTES))

    def check(self, sample_rate_hz: int) -> None:
        """Read all clips, or a selection of many, to report broken or silent ones before the training starts."""
        rows = np.unique(np.linspace(0, len(self.manifest) - 1, min(len(self.manifest), CHECKED)).astype(int))
        for row in tqdm(rows, desc=f"{self.what} clips", unit=" clips", delay=2):
            self._read(int(row), sample_rate_hz)

    def draw(self, sample_rate_hz: int, rng: np.random.Generator) -> C:
        """Return a random clip. Raises AugmentationError naming the manifest's line of an unusable one."""
        return self._read(int(rng.integers(len(self.manifest))), sample_rate_hz)

    def _read(self, row: int, sample_rate_hz: int) -> C:
        try:
            return self.cache.read(self.manifest.clips[row], sample_rate_hz)
        except (audio.AudioError, AugmentationError) as error:
            raise AugmentationError(f"{self.what} {self.manifest.where(row)}: {error}") from error
