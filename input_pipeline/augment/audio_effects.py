"""Effects on samples [N] float32, as pure functions of samples and drawn values.

Only `change_speed` changes the length.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import soxr

from input_pipeline import audio
from input_pipeline.augment.params import AugmentationError

SLOWEST_RATE, FASTEST_RATE = 0.5, 2.0
MAX_NOISE_GAIN_DB = 300.0  # as in the original
BLOCK = 8192  # samples processed at once by change_speed; temporaries that fit the cache make it five times as fast
PIECE = 8192  # samples of speech and of a response in each transform, which has twice as many


def speed_length(n: int | np.ndarray, rate: float | np.ndarray) -> np.ndarray:
    """Return the length [...] int64 of n samples after `change_speed`: int(n / rate), but at least 1 for n > 0."""
    return np.maximum((np.asarray(n) / rate).astype(np.int64), np.minimum(n, 1))


def change_speed(samples: np.ndarray, rate: float) -> np.ndarray:
    """Speed samples [N] up (rate > 1) or slow them down by linear interpolation, as the original; this changes the pitch.

    The new points are spaced evenly over 0..N, both included; N is one past the last sample, and points beyond the last
    sample repeat it. Raises AugmentationError for a rate out of range.
    """
    if not SLOWEST_RATE <= rate <= FASTEST_RATE:
        raise AugmentationError(f"speed rate {rate}: must be from {SLOWEST_RATE:g} to {FASTEST_RATE:g}")
    n = len(samples)
    if rate == 1.0 or n == 0:
        return samples
    changed = np.empty(int(speed_length(n, rate)), dtype=samples.dtype)
    padded = np.concatenate([samples, samples[-1:], samples[-1:]])
    step = n / max(len(changed) - 1, 1)
    for first in range(0, len(changed), BLOCK):
        position = step * np.arange(first, min(first + BLOCK, len(changed)))
        left = position.astype(np.int64)
        before = padded.take(left)
        changed[first : first + BLOCK] = before + (padded.take(left + 1) - before) * (position - left)
    return changed


def change_volume(samples: np.ndarray, gain_db: float) -> np.ndarray:
    """Multiply samples [N] by 10^(gain / 20), without clipping."""
    return samples * np.float32(10.0 ** (gain_db / 20.0))


def shift(samples: np.ndarray, count: int) -> np.ndarray:
    """Move samples [N] by a count: earlier if positive, dropping the start, later if negative; zeros fill the gap.

    Raises AugmentationError if no sample would be left.
    """
    if count == 0 or len(samples) == 0:
        return samples
    if abs(count) >= len(samples):
        raise AugmentationError(f"a shift of {count} samples leaves nothing of {len(samples)}")
    shifted = np.zeros_like(samples)
    if count > 0:
        shifted[:-count] = samples[count:]
    else:
        shifted[-count:] = samples[:count]
    return shifted


def normalise_online(
    samples: np.ndarray, target_db: float, prior_db: float, prior_samples: float, delay: int = 0
) -> np.ndarray:
    """Normalise the level of samples [N] as a live system does, from past samples and a prior estimate.

    The power at sample t = 1..N is estimated as (x_1^2 + .. + x_t^2 + 10^(prior_db / 10) prior_samples) /
    (t + prior_samples), and the gain there is target_db - 10 log10(estimate) dB. The first `delay` samples (at most N)
    use the estimate of the sample after them. As in the original.
    """
    n = len(samples)
    if n == 0:
        return samples
    power = np.cumsum(np.square(samples, dtype=np.float64))
    power += 10.0 ** (prior_db / 10.0) * prior_samples
    power /= np.arange(1, n + 1) + prior_samples
    delay = min(delay, n - 1)
    power[:delay] = power[delay]
    return (samples * (10.0 ** (target_db / 20.0) / np.sqrt(power))).astype(np.float32)


def limit_band(samples: np.ndarray, sample_rate_hz: int, through_hz: int) -> np.ndarray:
    """Resample samples [N] to a lower rate and back, which removes frequencies above through_hz / 2.

    A rate that is not lower has no effect.
    """
    n = len(samples)
    if through_hz >= sample_rate_hz or n == 0:
        return samples
    low = soxr.resample(samples, sample_rate_hz, through_hz, quality="HQ")
    if len(low) == 0:
        return samples
    back = soxr.resample(low, through_hz, sample_rate_hz, quality="HQ")[:n]
    return np.pad(back, (0, n - len(back)))


@dataclass(frozen=True)
class NoiseClip:
    """Noise samples and their level."""

    FIRST_CHANNEL: ClassVar[bool] = False

    samples: np.ndarray  # [M] float32
    level_db: float

    @classmethod
    def from_samples(cls, samples: np.ndarray) -> "NoiseClip":
        """Measure the level of samples [M]. Raises AugmentationError if they are silent or empty."""
        if not samples.any():
            raise AugmentationError("the noise is silent, so it cannot be scaled: remove the clip from the manifest")
        return cls(samples, audio.rms_db(samples))

    @property
    def nbytes(self) -> int:
        """Size in memory."""
        return self.samples.nbytes


def add_noise(
    samples: np.ndarray, noise: NoiseClip, snr_db: float, position: float, cross_fade: int = 800
) -> np.ndarray:
    """Add noise of M samples to speech samples [N] at a signal-to-noise ratio; position in [0, 1): where it starts.

    The gain is min(rms_db(speech) - rms_db(whole noise) - snr_db, 300) dB, as in the original. Of noise of N samples or
    more, a section that starts in 0..M-N is used. Shorter noise (an error in the original) is repeated with an overlap of
    `cross_fade` samples, which avoids clicks, and may start anywhere.
    """
    n, m = len(samples), len(noise.samples)
    if n == 0:
        return samples
    gain = 10.0 ** (min(audio.rms_db(samples) - noise.level_db - snr_db, MAX_NOISE_GAIN_DB) / 20.0)  # 0 for silence
    if m >= n:
        start = int(position * (m - n + 1))
        section = noise.samples[start : start + n]
    else:
        start = int(position * m)
        section = np.take(loop_noise(noise.samples, cross_fade), np.arange(start, start + n), mode="wrap")
    return samples + np.float32(gain) * section


def loop_noise(noise: np.ndarray, cross_fade: int) -> np.ndarray:
    """Turn noise [M] into a loop [M - overlap] whose end is cross-faded into its start.

    The fades preserve the power of uncorrelated noise: cos^2 + sin^2 = 1.
    """
    overlap = min(cross_fade, len(noise) // 2)
    angle = (np.arange(overlap, dtype=np.float32) + 0.5) * np.float32(np.pi / 2 / max(overlap, 1))
    loop = noise[: len(noise) - overlap].copy()
    loop[:overlap] = noise[:overlap] * np.sin(angle) + noise[len(noise) - overlap :] * np.cos(angle)
    return loop


@dataclass(frozen=True)
class ImpulseResponse:
    """A room's impulse response as spectra of pieces of PIECE samples, the last one zero-padded.

    Of several channels, the first is used: the channels are different microphones, whose average is a comb filter.
    """

    FIRST_CHANNEL: ClassVar[bool] = True

    delay: int  # samples before the direct sound, the response's largest value
    spectra: np.ndarray  # [pieces, PIECE + 1] complex64

    @classmethod
    def from_samples(cls, response: np.ndarray) -> "ImpulseResponse":
        """Transform a response [M]. Raises AugmentationError if it is silent or empty."""
        if not response.any():
            raise AugmentationError("the impulse response is silent: remove the clip from the manifest")
        padded = np.pad(response.astype(np.float32), (0, -len(response) % PIECE))
        return cls(int(np.abs(response).argmax()), np.fft.rfft(padded.reshape(-1, PIECE), 2 * PIECE))

    @property
    def nbytes(self) -> int:
        """Size in memory."""
        return self.spectra.nbytes


def reverberate(samples: np.ndarray, room: ImpulseResponse) -> np.ndarray:
    """Convolve speech samples [N] with a room's response, y = x * h, and return the N samples aligned with x.

    The delay before the direct sound is removed, so that speech keeps its timing, and the reverberation after the last
    sample is cut off. The level of the speech is preserved: y is scaled by rms(x) / rms(y). (The original returns all
    N + M - 1 samples at the resulting level, which its dB normalisation undoes.)
    """
    level_db = audio.rms_db(samples) if len(samples) else -math.inf
    if level_db == -math.inf:
        return samples
    wet = _convolve(samples, room.spectra, len(samples) + room.delay)[room.delay :]
    wet_db = audio.rms_db(wet)
    if wet_db == -math.inf:
        return samples
    return wet * np.float32(10.0 ** ((level_db - wet_db) / 20.0))


def _convolve(samples: np.ndarray, spectra: np.ndarray, length: int) -> np.ndarray:
    """Return the first `length` samples of the convolution of samples [N] with a partitioned response.

    Partitioned overlap-add: each piece of speech is transformed once, and all products that contribute to a block are
    summed before the inverse transform. Buffers stay below 128 KiB, above which the C library requests memory from the
    kernel each time; this is more than twice as fast as a single transform.
    """
    blocks = -(-length // PIECE)
    convolved = np.empty(blocks * PIECE, np.float32)
    speech = [np.fft.rfft(samples[first : first + PIECE], 2 * PIECE) for first in range(0, len(samples), PIECE)]
    tail: np.ndarray = np.zeros(PIECE, np.float32)  # overlap of the previous block
    for block in range(blocks):
        contributing = range(max(0, block - len(spectra) + 1), min(block + 1, len(speech)))
        total = np.zeros(PIECE + 1, np.complex64)
        for piece in contributing:
            total += speech[piece] * spectra[block - piece]
        result = np.fft.irfft(total, 2 * PIECE)
        np.add(result[:PIECE], tail, out=convolved[block * PIECE : (block + 1) * PIECE])
        tail = result[PIECE:]
    return convolved[:length]
