"""What a batch brings to the device: features, or samples of which a compiled step makes the same features."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from input_pipeline.audio.features import condition, frame_count, running_gains, running_level
from input_pipeline.audio.front_end import FrontEnd
from input_pipeline.augment import Augmentation
from input_pipeline.augment.packed_masks import pack, packed_size

TRANSFERS = ("float32", "int16")
ON_DEVICE = ("linear", "fbank")  # kinds of features that a compiled step computes
FULL_SCALE = 32768  # of 16-bit samples


class Array(NamedTuple):
    """Shape and type of an array of a batch."""

    shape: tuple[int, ...]
    dtype: type


class Row(NamedTuple):
    """An utterance's number of frames, and its part of each array, which the batch pads with zeros."""

    frames: int
    arrays: dict[str, Any]


@dataclass(frozen=True)
class FeatureInput:
    """Features that the host has computed: `spectrogram` [B, T, F] f32."""

    front_end: FrontEnd
    augmentation: Augmentation = field(default_factory=Augmentation)

    def arrays(self, rows: int, frames: int) -> dict[str, Array]:
        """Describe the arrays of a batch with so many rows and frames."""
        return {"spectrogram": Array((rows, frames, self.front_end.size), np.float32)}

    def room(self, batch: Mapping[str, Any]) -> int:
        """Return the frames T for which a batch has room."""
        return batch["spectrogram"].shape[1]

    def make_row(self, samples: np.ndarray, rng: np.random.Generator) -> Row:
        """Compute the normalised, augmented features of augmented samples [N]. Raises FeatureError."""
        features = self.augmentation.apply_features(self.front_end(samples), rng)
        return Row(len(features), {"spectrogram": features})


@dataclass(frozen=True)
class SampleInput:
    """Samples and the few numbers that the host has drawn or measured, for features computed on the device.

    `samples` [B, N] of the type `transfer`, N = (T + overlap) * stride; `gain` [B] f32, by which they are multiplied; with a
    running level `gains` [B, T] f32 of the power of each frame; with augmentors of features `masks` [B, K] i32
    (augment/packed_masks.py). int16 holds samples of 16-bit recordings as they are; others are rounded to 1/32767 of the
    clip's peak. Raises ValueError for features that are not computed on the device, and for another type.
    """

    front_end: FrontEnd
    augmentation: Augmentation = field(default_factory=Augmentation)
    transfer: str = "float32"

    def __post_init__(self):
        """Refuse features that are not computed on the device, and an unknown type."""
        kind = self.front_end.settings.kind
        if kind not in ON_DEVICE:
            raise ValueError(
                f"config.features.on_device is True, but features of the kind {kind} are computed by the host only: set it to "
                f"false, or choose {' or '.join(ON_DEVICE)} for config.features.kind"
            )
        if self.transfer not in TRANSFERS:
            raise ValueError(f"config.features.transfer is {self.transfer!r}: choose one of {', '.join(TRANSFERS)}")

    @property
    def overlap(self) -> int:
        """Strides by which a window reaches beyond its own."""
        settings = self.front_end.settings
        return -(-settings.window_samples // settings.stride_samples) - 1

    def arrays(self, rows: int, frames: int) -> dict[str, Array]:
        """Describe the arrays of a batch with so many rows and frames."""
        settings = self.front_end.settings
        length = (frames + self.overlap) * settings.stride_samples
        arrays = {
            "samples": Array((rows, length), np.int16 if self.transfer == "int16" else np.float32),
            "gain": Array((rows,), np.float32),
        }
        if running_level(settings):
            arrays["gains"] = Array((rows, frames), np.float32)
        if self.augmentation.masking:
            arrays["masks"] = Array((rows, packed_size(self.augmentation.masking)), np.int32)
        return arrays

    def room(self, batch: Mapping[str, Any]) -> int:
        """Return the frames T for which a batch has room."""
        return batch["samples"].shape[1] // self.front_end.settings.stride_samples - self.overlap

    def make_row(self, samples: np.ndarray, rng: np.random.Generator) -> Row:
        """Measure the level of augmented samples [N], draw the masks, and encode the samples. Raises FeatureError."""
        settings = self.front_end.settings
        samples, gain = condition(samples, settings)
        frames = frame_count(len(samples), settings)
        sent, scale = samples, np.float32(1)
        if self.transfer == "int16":
            sent, scale = to_int16(samples)
        arrays = {
            "samples": sent[: (frames - 1) * settings.stride_samples + settings.window_samples],
            "gain": gain * scale,
        }
        if running_level(settings):
            arrays["gains"] = running_gains(samples, settings)[0]
        if self.augmentation.masking:
            drawn = self.augmentation.draw_masks(frames, self.front_end.size, rng)
            arrays["masks"] = pack(self.augmentation.masking, drawn)
        return Row(frames, arrays)


Inputs = FeatureInput | SampleInput


def make_inputs(front_end: FrontEnd, augmentation: Augmentation, transfer: str) -> Inputs:
    """Return what batches bring to the device: features if `transfer` is '', else samples of this type."""
    return SampleInput(front_end, augmentation, transfer) if transfer else FeatureInput(front_end, augmentation)


def to_int16(samples: np.ndarray) -> tuple[np.ndarray, np.float32]:
    """Return samples [N] f32 as int16, and their unit: 1 / 32768 if this is exact, else 1 / 32767 of the peak."""
    scaled = samples * np.float32(FULL_SCALE)
    whole = np.rint(scaled)
    if np.array_equal(whole, scaled) and (not len(whole) or (whole.min() >= -FULL_SCALE and whole.max() < FULL_SCALE)):
        return whole.astype(np.int16), np.float32(1 / FULL_SCALE)
    unit = np.float32(np.abs(samples).max() / (FULL_SCALE - 1))
    return np.rint(samples / unit).astype(np.int16), unit
