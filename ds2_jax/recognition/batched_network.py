"""The network over clips of any length up to a minute, in a few compiled shapes."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from ds2_jax.artifacts.bundle import ModelMeta
from ds2_jax.parallel import sharding
from ds2_jax.recognition.step import make_forward
from input_pipeline.audio.features import frame_count

# Clips are padded to the smallest of a few shapes that fits, so that at most eight programs are compiled.
SINGLE_S = (3.0, 7.0, 15.0, 30.0, 60.0)  # maximum length of a single clip
BATCH_S = (4.0, 8.0, 16.0)  # maximum length of clips in a batch
LONGEST_S = SINGLE_S[-1]
ROWS = (16, 8, 8)  # clips of each length in a batch
CPU_ROWS = 4  # a row takes no less time among more of them on a CPU
CPU_SINGLE_COST = 1.7  # time of a frame of a single clip on a CPU, compared with that of a row among CPU_ROWS


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
        sizes = zip(BATCH_S, ROWS, strict=True)
        self.batches = [self._shape(seconds, CPU_ROWS if self._on_cpu else rows) for seconds, rows in sizes]

    def _shape(self, seconds: float, rows: int) -> Shape:
        settings = self.meta.features
        samples = round(seconds * settings.sample_rate_hz) + settings.window_samples
        return Shape(int(frame_count(samples, settings)), -(-rows // self._devices) * self._devices)

    def shape_of_batch(self, frames: int) -> Shape | None:
        """Return the smallest shape for several clips of at most so many frames; None if they are too long."""
        return next((shape for shape in self.batches if frames <= shape.frames), None)

    def shape_of_seconds(self, duration_s: float) -> Shape | None:
        """Return the shape of a batch for clips of this length; None if they are too long."""
        return _fitting(duration_s, BATCH_S, self.batches)

    def is_worth_a_batch(self, durations_s: Sequence[float], shape: Shape) -> bool:
        """Return whether clips of these lengths are computed sooner in a batch of this shape than one by one.

        A CPU computes empty rows, too.
        """
        if not self._on_cpu or len(durations_s) < 2:
            return len(durations_s) > 1
        singles = (_fitting(duration_s, SINGLE_S, self.singles) for duration_s in durations_s)
        return shape.rows * shape.frames < CPU_SINGLE_COST * sum(single.frames for single in singles if single)

    def __call__(self, clips: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the natural-log probabilities [U, K] of the features [T, F] of clips that fit a shape together."""
        shapes = self.singles if len(clips) == 1 else self.batches
        longest = max(map(len, clips))
        shape = next(shape for shape in shapes if longest <= shape.frames)
        return self.compute(clips, shape)

    def compute(self, clips: Sequence[np.ndarray], shape: Shape) -> list[np.ndarray]:
        """Return the natural-log probabilities [U, K] of the features [T, F] of clips, padded to this shape."""
        spectrogram = np.zeros((shape.rows, shape.frames, self.meta.feature_size), np.float32)
        frames = np.zeros(shape.rows, np.int32)
        for row, features in enumerate(clips):
            spectrogram[row, : len(features)] = features
            frames[row] = len(features)
        log_probs, lengths = jax.device_get(self.forward(self.variables, spectrogram, frames))
        return [log_probs[row, : lengths[row]] for row in range(len(clips))]


def _fitting(duration_s: float, limits_s: Sequence[float], shapes: Sequence[Shape]) -> Shape | None:
    """Return the first shape whose limit a clip of this length does not exceed; None if there is none."""
    limited = zip(limits_s, shapes, strict=True)
    return next((shape for limit_s, shape in limited if duration_s <= limit_s), None)
