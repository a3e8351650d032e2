"""Noise clips and impulse responses, read once and kept while there is room."""

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import ClassVar, Generic, Protocol, Self, TypeVar

import numpy as np
from tqdm import tqdm

from input_pipeline import audio
from input_pipeline.augment.params import AugmentationError
from input_pipeline.manifest import Manifest

CACHE_BYTES = 128 * 2**20  # of each manifest, in each worker process
CHECKED = 1000  # clips of a manifest that are read before the training starts


class Prepared(Protocol):
    """What is made of a clip's samples and kept instead of them."""

    FIRST_CHANNEL: ClassVar[bool]  # of several, rather than their average

    @classmethod
    def of(cls, samples: np.ndarray, /) -> Self:
        """Make it of samples [M] float32."""

    @property
    def nbytes(self) -> int:
        """Memory that it holds."""


P = TypeVar("P", bound=Prepared)


class ClipCache(Generic[P]):
    """Prepared clips by (path, rate), the least recently used ones given up at a limit of bytes; shared by threads."""

    def __init__(self, kind: type[P], limit_bytes: int):
        self.kind = kind
        self.limit_bytes = limit_bytes
        self._clips: OrderedDict[tuple[str, int], P] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple:
        return ClipCache, (self.kind, self.limit_bytes)  # pickled empty: worker processes are not sent the audio

    def read(self, path: str, sample_rate_hz: int) -> P:
        """Return a clip, prepared, at this rate. Raises AudioError, and what the preparation raises."""
        key = (path, sample_rate_hz)
        with self._lock:
            if key in self._clips:
                self._clips.move_to_end(key)
                return self._clips[key]
        samples, _ = audio.read(
            path, sample_rate_hz, first_channel=self.kind.FIRST_CHANNEL
        )  # not under the lock: other threads go on meanwhile
        clip = self.kind.of(samples)
        with self._lock:
            if key not in self._clips:
                self._clips[key] = clip
                self._bytes += clip.nbytes
            while self._bytes > self.limit_bytes:
                self._bytes -= self._clips.popitem(last=False)[1].nbytes
        return clip


@dataclass(frozen=True)
class Clips(Generic[P]):
    """The clips of a manifest, to draw from."""

    what: str  # they are, for messages
    kind: type[P]
    manifest: Manifest
    cache: ClipCache[P] = field(init=False, compare=False, repr=False)

    def __post_init__(self):
        object.__setattr__(self, "cache", ClipCache(self.kind, CACHE_BYTES))

    def check(self, sample_rate_hz: int) -> None:
        """Read all clips, or some of many: a broken or silent one is named now, not in hour three."""
        rows = np.unique(np.linspace(0, len(self.manifest) - 1, min(len(self.manifest), CHECKED)).astype(int))
        for row in tqdm(rows, desc=f"{self.what} clips", unit=" clips", delay=2):
            self._read(int(row), sample_rate_hz)

    def draw(self, sample_rate_hz: int, rng: np.random.Generator) -> P:
        """Return a random clip. Raises AugmentationError naming the line of one that cannot be used."""
        return self._read(int(rng.integers(len(self.manifest))), sample_rate_hz)

    def _read(self, row: int, sample_rate_hz: int) -> P:
        try:
            return self.cache.read(self.manifest.audio[row], sample_rate_hz)
        except (audio.AudioError, AugmentationError) as error:
            raise AugmentationError(f"{self.what} {self.manifest.where(row)}: {error}") from error
