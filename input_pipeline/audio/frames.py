"""Features of audio that arrives in pieces: a resampler, and frames as `features.extract` computes those of a whole clip."""

import numpy as np
import soxr

from input_pipeline.audio.features import (
    MAX_RUNNING_GAIN_DB,
    OF_WHOLE_CLIPS,
    FeatureError,
    FeatureSettings,
    feature_size,
    running_gains,
    running_level,
    spectra,
)
from input_pipeline.audio.opening import AudioError


class Resampler:
    """Turn pieces of audio of any rate, type and number of channels into mono float32 pieces of the model's rate.

    Integers are taken as full scale. Raises AudioError for a rate that cannot be resampled.
    """

    def __init__(self, own_rate_hz: int, sample_rate_hz: int):
        if (
            isinstance(own_rate_hz, bool)
            or not isinstance(own_rate_hz, int | np.integer)
            or not 1 <= own_rate_hz <= 1e6
        ):
            raise AudioError(f"the sample rate is {own_rate_hz!r}: give samples a second, such as 16000")
        self._own_rate_hz, self._rate_hz = int(own_rate_hz), sample_rate_hz
        self.reset()

    def reset(self) -> None:
        """Forget all samples."""
        same = self._own_rate_hz == self._rate_hz
        self._stream = None if same else soxr.ResampleStream(self._own_rate_hz, self._rate_hz, 1, "float32", "HQ")

    def feed(self, samples: np.ndarray, *, last: bool = False) -> np.ndarray:
        """Return the samples [M] f32 that have become available by samples [N] or [N, channels]; all of them if it is the last.

        Raises AudioError for samples of another shape or type, and for values that are not finite.
        """
        samples = np.asarray(samples)
        if samples.ndim not in (1, 2) or samples.dtype.kind not in "fi" or 0 in samples.shape[1:]:
            raise AudioError(
                f"the piece of audio has shape {samples.shape} and type {samples.dtype}: give samples [N] or [N, channels], "
                "float in [-1, 1] or int16"
            )
        scale = 1.0 if samples.dtype.kind == "f" else -1.0 / np.iinfo(samples.dtype).min
        mono = np.multiply(samples if samples.ndim == 1 else samples.mean(axis=1), scale, dtype=np.float32)
        if not np.isfinite(mono).all():
            raise AudioError("the piece of audio has samples that are not finite numbers: send 16-bit samples")
        return mono if self._stream is None else self._stream.resample_chunk(mono, last=last)


class FrameStream:
    """The frames of an utterance that arrives in pieces, before their normalisation by statistics.

    If the level of whole clips is normalised, frames are computed at the level at which they come; `gain` is the power gain
    that all frames need by the samples so far. kept: frames whose samples are kept after they were taken. Raises FeatureError
    for features that look at neighbouring frames (mfcc) or begin before the first sample (log1p, sherpa).
    """

    def __init__(self, settings: FeatureSettings, kept: int = 0):
        if settings.kind in OF_WHOLE_CLIPS:
            raise FeatureError(
                f"{settings.kind} needs the audio that follows a frame: streams need a model with the kind linear or fbank"
            )
        if settings.source_rate_hz:
            raise FeatureError("source_rate_hz resamples whole clips: streams need a model without it")
        self._settings, self._kept = settings, kept
        self._samples = np.zeros(0, np.float32)
        self._first = 0  # frame at which the samples begin
        self.taken = 0  # frames
        self._level = 0.0
        self._energy, self._count = 0.0, 0

    @property
    def ready(self) -> int:
        """Complete frames that have not been taken."""
        beyond = len(self._samples) - self._position(self.taken) - self._settings.window_samples
        return beyond // self._settings.stride_samples + 1 if beyond >= 0 else 0

    @property
    def gain(self) -> float:
        """Power gain to the target level, by all samples so far, at most MAX_RUNNING_GAIN_DB, as silence may come first.

        1 if the level is not normalised, or each frame has its own.
        """
        if not self._settings.normalise_db or self._settings.level_s or not self._energy:
            return 1.0
        gain = 10 ** (self._settings.target_db / 10) * self._count / self._energy
        return min(gain, 10 ** (MAX_RUNNING_GAIN_DB / 10))

    def feed(self, samples: np.ndarray) -> None:
        """Add samples [N] f32."""
        self._samples = np.concatenate([self._samples, samples])
        self._energy += float(np.einsum("n,n->", samples, samples, dtype=np.float64))
        self._count += len(samples)

    def take(self, count: int) -> np.ndarray:
        """Return the next `count` frames [count, F] f32, at most those that are ready."""
        count = min(count, self.ready)
        if not count:
            return np.zeros((0, feature_size(self._settings)), np.float32)
        samples = self._samples[self._position(self.taken) :]
        samples = samples[: self._settings.window_samples + (count - 1) * self._settings.stride_samples]
        gains = None
        if running_level(self._settings):
            gains, self._level = running_gains(samples, self._settings, self._level)
        self.taken += count
        first = max(self.taken - self._kept, self._first)
        self._samples, self._first = self._samples[self._position(first) :], first
        return spectra(samples, self._settings, gains)

    def divide(self, frame: int) -> "FrameStream":
        """Return a stream that begins with a frame, one of the last `kept`, and knows the level of the audio so far."""
        rest = FrameStream(self._settings, self._kept)
        rest._samples = self._samples[self._position(frame) :]
        rest._level, rest._energy, rest._count = self._level, self._energy, self._count
        return rest

    def _position(self, frame: int) -> int:
        return (frame - self._first) * self._settings.stride_samples
