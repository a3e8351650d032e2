"""Noise clips and impulse responses, read once and kept while there is room."""

import threading
from collections import OrderedDict
from typing import Generic, Protocol, Self, TypeVar

import numpy as np

from input_pipeline import audio


class Prepared(Protocol):
    """What is made of a clip's samples and kept instead of them."""

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
        samples, _ = audio.read(path, sample_rate_hz)  # not under the lock: other threads go on meanwhile
        clip = self.kind.of(samples)
        with self._lock:
            if key not in self._clips:
                self._clips[key] = clip
                self._bytes += clip.nbytes
            while self._bytes > self.limit_bytes:
                self._bytes -= self._clips.popitem(last=False)[1].nbytes
        return clip
