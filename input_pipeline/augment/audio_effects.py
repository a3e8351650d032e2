"""What augmentation does to samples [N] float32: pure functions of (samples, drawn values).

Lengths stay as they are, except for `change_speed`.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import soxr

from input_pipeline import audio
from input_pipeline.augment.params import AugmentationError

SLOWEST_RATE, FASTEST_RATE = 0.5, 2.0
MAX_NOISE_GAIN_DB = 300.0  # as the original
BLOCK = 8192  # samples of change_speed at once: temporaries that stay in the cache make it five times as fast
PIECE = 8192  # samples of a response and of speech that are transformed at once, of 16,384


def speed_length(n: int | np.ndarray, rate: float | np.ndarray) -> np.ndarray:
    """Return how many samples [...] int64 `change_speed` makes of n samples: int(n / rate), at least one of any."""
    return np.maximum((np.asarray(n) / rate).astype(np.int64), np.minimum(n, 1))


def change_speed(samples: np.ndarray, rate: float) -> np.ndarray:
    """Play samples [N] faster (rate > 1) or slower by linear interpolation, as the original; the pitch changes, too.

    The new points are spread over 0..N, both included, although N is one past the last sample: those beyond it repeat
    the last sample.
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
    """Multiply samples [N] by 10^(gain / 20); nothing is clipped."""
    return samples * np.float32(10.0 ** (gain_db / 20.0))


def shift(samples: np.ndarray, count: int) -> np.ndarray:
    """Move samples [N] by a count: above 0 forward in time, dropping its start, below 0 back; zeros fill the gap.

    Raises AugmentationError where nothing would be left.
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
    """Bring samples [N] to a level as a live system would, which only knows the past and a prior estimate.

    The power at sample t = 1..N is estimated as (x_1^2 + .. + x_t^2 + 10^(prior_db / 10) prior_samples) /
    (t + prior_samples), and the gain there is target_db - 10 log10(estimate) dB. The first `delay` samples take the
    estimate of the one after them, N at most. As the original.
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
    """Send samples [N] through a lower sample rate and back, which leaves what lies below through_hz / 2.

    A rate that is not lower changes nothing.
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
    """Noise with its level, which is measured once."""

    FIRST_CHANNEL: ClassVar[bool] = False

    samples: np.ndarray  # [M] float32
    level_db: float

    @classmethod
    def of(cls, samples: np.ndarray) -> "NoiseClip":
        """Measure samples [M]. Raises AugmentationError where they are silent or there are none."""
        if not samples.any():
            raise AugmentationError("the noise is silent: no gain gives it a level; remove the clip from the manifest")
        return cls(samples, audio.rms_db(samples))

    @property
    def nbytes(self) -> int:
        """Memory that it holds."""
        return self.samples.nbytes


def add_noise(samples: np.ndarray, noise: NoiseClip, snr_db: float, place: float, cross_fade: int = 800) -> np.ndarray:
    """Add noise of M samples to speech samples [N] at a signal-to-noise ratio, from `place` in [0, 1) of it on.

    The gain is min(rms_db(speech) - rms_db(whole noise) - snr_db, 300) dB, as the original. Noise of N samples or more
    is cut: it starts in 0..M-N. Shorter noise (an error in the original) is repeated with `cross_fade` samples of
    overlap, so that the joint does not click, and may start anywhere.
    """
    n, m = len(samples), len(noise.samples)
    if n == 0:
        return samples
    gain = 10.0 ** (min(audio.rms_db(samples) - noise.level_db - snr_db, MAX_NOISE_GAIN_DB) / 20.0)  # 0 for silence
    if m >= n:
        start = int(place * (m - n + 1))
        piece = noise.samples[start : start + n]
    else:
        start = int(place * m)
        piece = np.take(loop_noise(noise.samples, cross_fade), np.arange(start, start + n), mode="wrap")
    return samples + np.float32(gain) * piece


def loop_noise(noise: np.ndarray, cross_fade: int) -> np.ndarray:
    """Shorten noise [M] to a loop [M - overlap] that may be repeated: its end, faded out, lies under its start.

    The fades keep the power of uncorrelated noise: cos^2 + sin^2 = 1.
    """
    overlap = min(cross_fade, len(noise) // 2)
    angle = (np.arange(overlap, dtype=np.float32) + 0.5) * np.float32(np.pi / 2 / max(overlap, 1))
    loop = noise[: len(noise) - overlap].copy()
    loop[:overlap] = noise[:overlap] * np.sin(angle) + noise[len(noise) - overlap :] * np.cos(angle)
    return loop


@dataclass(frozen=True)
class ImpulseResponse:
    """A room's response in pieces of PIECE samples, each transformed once; the last is filled with zeros.

    Of several channels, the first is taken: they are microphones at different places, whose average is a comb filter.
    """

    FIRST_CHANNEL: ClassVar[bool] = True

    delay: int  # samples until the direct sound, the response's largest value
    spectra: np.ndarray  # [pieces, PIECE + 1] complex64

    @classmethod
    def of(cls, response: np.ndarray) -> "ImpulseResponse":
        """Transform a response [M]. Raises AugmentationError where it is silent or empty."""
        if not response.any():
            raise AugmentationError("the impulse response is silent; remove the clip from the manifest")
        filled = np.pad(response.astype(np.float32), (0, -len(response) % PIECE))
        return cls(int(np.abs(response).argmax()), np.fft.rfft(filled.reshape(-1, PIECE), 2 * PIECE))

    @property
    def nbytes(self) -> int:
        """Memory that it holds."""
        return self.spectra.nbytes


def reverberate(samples: np.ndarray, room: ImpulseResponse) -> np.ndarray:
    """Convolve speech samples [N] with a room's response, y = x * h, and return the N of it that lie where x did.

    The response's delay before the direct sound is taken away, so that speech stays where it was, and what rings on
    after the last sample is cut off. The level of the speech is kept: y is scaled by rms(x) / rms(y). (The original
    returns all N + M - 1 samples and the level that comes out, which its dB normalisation undoes.)
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
    """Return the first `length` samples of the convolution of samples [N] with a response in pieces.

    Partitioned overlap-add: each piece of speech is transformed once, and its products with the pieces of the response
    that reach a stretch are summed before the transform back. All buffers stay below the 128 KiB from which on memory is
    fetched anew from the kernel: more than twice as fast as one transform of everything.
    """
    blocks = -(-length // PIECE)
    convolved = np.empty(blocks * PIECE, np.float32)
    speech = [np.fft.rfft(samples[first : first + PIECE], 2 * PIECE) for first in range(0, len(samples), PIECE)]
    tail: np.ndarray = np.zeros(PIECE, np.float32)  # what the block before left
    for block in range(blocks):
        reaching = range(max(0, block - len(spectra) + 1), min(block + 1, len(speech)))
        total = np.zeros(PIECE + 1, np.complex64)
        for piece in reaching:
            total += speech[piece] * spectra[block - piece]
        both = np.fft.irfft(total, 2 * PIECE)
        np.add(both[:PIECE], tail, out=convolved[block * PIECE : (block + 1) * PIECE])
        tail = both[PIECE:]
    return convolved[:length]
