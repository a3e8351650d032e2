"""The network over clips of any length up to a minute, in a few compiled shapes."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import jax
import numpy as np

from ds2_jax.artifacts.bundle import ModelMeta
from ds2_jax.parallel import sharding
from ds2_jax.recognition.step import make_forward
from input_pipeline.audio.features import frame_count

# Clips are padded to the smallest of a few shapes that fits, so that few programs are compiled.
SINGLE_S = (3.0, 7.0, 15.0, 30.0, 60.0)  # maximum length of a single clip
BATCH_S = {4.0: 16, 8.0: 8, 16.0: 8}  # maximum length of clips in a batch, and their number
# A CPU takes no less time for a row among more than four, compiles sooner than accelerators, and computes padding, too.
CPU_BATCH_S = dict.fromkeys((2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0), 4)
LONGEST_S = SINGLE_S[-1]
CPU_SINGLE_COST = 1.7  # time of a frame of a single clip on a CPU, compared with that of a row of a batch

Item = TypeVar("Item")


class Shape(NamedTuple):
    """Size of a compiled batch."""

    frames: int
    rows: int


class BatchedNetwork:
    """The compiled network of a model.

    Attributes: meta, variables (on the devices), singles and batches (the shapes for one and for several clips, in order).
    """

    def __init__(self, meta: ModelMeta, variables: dict):
        mesh = sharding.local_mesh()
        everywhere, rows = sharding.replicated(mesh), sharding.row_sharding(mesh)
        self.meta = meta
        self.variables = sharding.put(variables, everywhere)
        self.forward = jax.jit(
            sharding.on_mesh(make_forward(meta.network), mesh),
            in_shardings=(everywhere, rows, rows),
            out_shardings=rows,
        )
        self._devices = mesh.size
        self._on_cpu = jax.default_backend() == "cpu"
        self.singles = [self._shape(seconds, 1) for seconds in SINGLE_S]
        sizes = CPU_BATCH_S if self._on_cpu else BATCH_S
        self.batches = [self._shape(seconds, rows) for seconds, rows in sizes.items()]

    def _shape(self, seconds: float, rows: int) -> Shape:
        return Shape(self.frames_of(seconds), -(-rows // self._devices) * self._devices)

    def frames_of(self, duration_s: float) -> int:
        """Return the most frames of a clip of this length."""
        settings = self.meta.features
        samples = round(duration_s * settings.sample_rate_hz) + settings.window_samples
        return int(frame_count(samples, settings))

    def shape_of_batch(self, frames: int) -> Shape | None:
        """Return the smallest shape for several clips of at most so many frames; None if they are too long."""
        return next((shape for shape in self.batches if frames <= shape.frames), None)

    def cost(self, frames: Sequence[int]) -> float:
        """Return the time of clips of so many frames, which fit a shape together.

        In that of a frame: on a CPU of one row, of which it computes empty ones, too; on accelerators of all rows.
        """
        if len(frames) == 1:
            return _smallest(self.singles, frames[0]).frames * (CPU_SINGLE_COST if self._on_cpu else 1.0)
        shape = _smallest(self.batches, max(frames))
        return float(shape.frames * (shape.rows if self._on_cpu else 1))

    def batch_with(self, frames: Sequence[int], index: int) -> range:
        """Return which clips are computed with that of an index: those that give the most speech in the least time.

        frames: of clips that fit a batch, in ascending order.
        """
        most = max(shape.rows for shape in self.batches)
        ranges = (
            range(first, end)
            for first in range(max(0, index + 1 - most), index + 1)
            for end in range(index + 1, min(first + most, len(frames)) + 1)
            if end - first <= _smallest(self.batches, frames[end - 1]).rows
        )
        return max(ranges, key=lambda r: sum(frames[r.start : r.stop]) / self.cost(frames[r.start : r.stop]))

    def batches_of(self, items: Iterable[Item], frames: Callable[[Item], int]) -> Iterator[list[Item]]:
        """Divide what fits batches into some, the longest first, each with those of neighbouring lengths."""
        left = sorted(items, key=frames)
        while left:
            rows = _smallest(self.batches, frames(left[-1])).rows
            yield left[-rows:]
            del left[-rows:]

    def __call__(self, clips: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the natural-log probabilities [U, K] of the features [T, F] of clips that fit a batch, or of one clip."""
        if len(clips) > 1 and self.cost([*map(len, clips)]) < sum(self.cost([len(clip)]) for clip in clips):
            return self.compute_together(clips)
        return [log_probs for clip in clips for log_probs in self.compute([clip], _smallest(self.singles, len(clip)))]

    def compute_together(self, clips: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the natural-log probabilities [U, K] of the features [T, F] of clips that fit a batch, in one."""
        return self.compute(clips, _smallest(self.batches, max(map(len, clips))))

    def compute(self, clips: Sequence[np.ndarray], shape: Shape) -> list[np.ndarray]:
        """Return the natural-log probabilities [U, K] of the features [T, F] of clips, padded to this shape."""
        spectrogram = np.zeros((shape.rows, shape.frames, self.meta.feature_size), np.float32)
        frames = np.zeros(shape.rows, np.int32)
        for row, features in enumerate(clips):
            spectrogram[row, : len(features)] = features
            frames[row] = len(features)
        log_probs, lengths = jax.device_get(self.forward(self.variables, spectrogram, frames))
        return [log_probs[row, : lengths[row]] for row in range(len(clips))]


def _smallest(shapes: Sequence[Shape], frames: int) -> Shape:
    """Return the smallest shape for a clip of so many frames, which fits one."""
    return next(shape for shape in shapes if frames <= shape.frames)
