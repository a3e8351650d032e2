"""Speech features as float32 numpy arrays: log power spectrogram, log-mel filter banks or MFCC.

The linear spectrogram and the MFCC are those of PaddlePaddle's DeepSpeech2. Dimensions: N samples, T frames, F
features, W samples of a window.
"""

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import overload

import numpy as np
import soxr

from input_pipeline.audio import sherpa_bank
from input_pipeline.audio.opening import LOWEST_HZ

KINDS = ("linear", "mfcc", "fbank", "log1p", "sherpa")
# Kinds whose frames depend on those that follow, or begin before the first sample.
OF_WHOLE_CLIPS = ("mfcc", "log1p", "sherpa")
FLOOR = 1e-14  # added to a power before its logarithm
MAX_GAIN_DB = 300.0
MAX_RUNNING_GAIN_DB = 30.0
LEVEL_ATTACK_S = 0.1

# Frames transformed at a time. The kernel would map new pages for buffers over 128 KiB each time, which takes longer than
# the transform: with 256 frames, the speed is less than half.
BLOCK_FRAMES = 64
# Multiplications of a product that OpenBLAS computes in one thread (it uses several from 2^19 on). Its threads wait
# spinning, which made filter banks 40 times slower while training used all cores.
PRODUCT_LIMIT = 1 << 18

MFCC_FILTERS, MFCC_FFT, MFCC_LIFTER, PRE_EMPHASIS = 26, 512, 22, 0.97


class FeatureError(ValueError):
    """Samples or statistics that cannot be used; the caller adds the name of the file."""


class SilenceError(FeatureError):
    """Digital silence, whose level cannot be normalised."""


@dataclass(frozen=True)
class FeatureSettings:
    """Settings of feature extraction.

    source_rate_hz: rate to which samples are first resampled, and back; 0 for none. max_freq_hz: 0 for half the sample rate.
    level_s: 0 to normalise the level of the whole clip, else that of the audio up to each frame (`running_gains`).
    Raises ValueError naming field and value.
    """

    kind: str = "linear"
    sample_rate_hz: int = 16000
    source_rate_hz: int = 0
    window_ms: float = 20.0
    stride_ms: float = 10.0
    max_freq_hz: float = 0.0
    target_db: float = -20.0
    normalise_db: bool = True
    level_s: float = 0.0
    mel_bins: int = 64
    cepstra: int = 13

    def __post_init__(self):
        """Raise ValueError for a value with which no features can be computed."""
        _check(self.kind in KINDS, "kind", self.kind, f"choose one of {', '.join(KINDS)}")
        _check(self.sample_rate_hz > 0, "sample_rate_hz", self.sample_rate_hz, "use a value such as 16000")
        lower = self.source_rate_hz == 0 or LOWEST_HZ <= self.source_rate_hz < self.sample_rate_hz
        _check(lower, "source_rate_hz", self.source_rate_hz, "use 0, or a rate below sample_rate_hz, such as 8000")
        _check(0 < self.window_ms < math.inf, "window_ms", self.window_ms, "use a value such as 20")
        _check(self.window_samples >= 2, "window_ms", self.window_ms, "use a longer window, such as 20")
        _check(
            0 < self.stride_ms <= self.window_ms, "stride_ms", self.stride_ms, "use more than 0, and at most window_ms"
        )
        _check(self.stride_samples >= 1, "stride_ms", self.stride_ms, "use a stride of at least one sample")
        half = self.sample_rate_hz / 2
        _check(0 <= self.max_freq_hz <= half, "max_freq_hz", self.max_freq_hz, f"use 0 to {half:g}, half the rate")
        _check(math.isfinite(self.target_db), "target_db", self.target_db, "use a value such as -20")
        _check(0 <= self.level_s < math.inf, "level_s", self.level_s, "use 0 for the whole clip, or seconds such as 10")
        if self.kind in OF_WHOLE_CLIPS:
            _check(self.level_s == 0, "level_s", self.level_s, f"use 0 with {self.kind}, or the kind fbank")
        _check(self.mel_bins >= 1, "mel_bins", self.mel_bins, "use 1 or more")
        _check(1 <= self.cepstra <= MFCC_FILTERS, "cepstra", self.cepstra, f"use 1 to {MFCC_FILTERS}")
        if self.kind == "fbank":
            advice = f"the filters are too narrow for a window of {self.window_ms} ms; use fewer, or a longer window"
            _check(fbank_transform_length(self) > 0, "mel_bins", self.mel_bins, advice)
        if self.kind == "sherpa":
            advice = f"the filters are too narrow for a window of {self.window_ms} ms; use fewer, or a longer window"
            covered = sherpa_bank.mel_filters(bank_of(self)).any(axis=0).all()
            _check(bool(covered), "mel_bins", self.mel_bins, advice)

    @property
    def window_samples(self) -> int:
        """Samples of a window, W."""
        return int(self.sample_rate_hz * self.window_ms / 1000)

    @property
    def stride_samples(self) -> int:
        """Samples from one frame to the next."""
        return int(self.sample_rate_hz * self.stride_ms / 1000)

    @property
    def highest_hz(self) -> float:
        """Upper limit of the frequencies used."""
        return self.max_freq_hz or self.sample_rate_hz / 2


def _check(valid: bool, name: str, value: object, advice: str) -> None:
    if not valid:
        raise ValueError(f"config.features.{name} is {value!r}: {advice}")


def feature_size(settings: FeatureSettings) -> int:
    """Return F, the number of features of a frame: 161 for the linear spectrogram at 16 kHz."""
    if settings.kind in ("linear", "log1p"):
        return _linear_bins(settings)
    return 3 * settings.cepstra if settings.kind == "mfcc" else settings.mel_bins


@overload
def frame_count(samples: int, settings: FeatureSettings) -> int: ...
@overload
def frame_count(samples: np.ndarray, settings: FeatureSettings) -> np.ndarray: ...
def frame_count(samples, settings):
    """Return T for N samples (a number, or an integer array of any shape); 0 for less than one window."""
    beyond = np.asarray(samples, np.int64) - settings.window_samples
    if settings.kind == "sherpa":
        frames = np.where(
            beyond >= 0, sherpa_bank.frame_count(np.asarray(samples, np.int64), settings.stride_samples), 0
        )
        return frames if frames.ndim else int(frames)
    if settings.kind == "log1p":  # windows are centred at the first sample and at each stride after it
        frames = np.where(beyond >= 0, (beyond + settings.window_samples) // settings.stride_samples + 1, 0)
        return frames if frames.ndim else int(frames)
    if settings.kind == "mfcc":  # the last window may extend beyond the end
        beyond = np.where(beyond >= 0, beyond + settings.stride_samples - 1, beyond)
    frames = np.where(beyond >= 0, beyond // settings.stride_samples + 1, 0)
    return frames if frames.ndim else int(frames)


def extract(samples: np.ndarray, settings: FeatureSettings) -> np.ndarray:
    """Compute features [T, F] float32 of samples [N] float32.

    Raises FeatureError for less than one window, for values that are not finite, and for digital silence if the level
    is normalised.
    """
    samples, gain = condition(samples, settings)
    if gain != 1:
        samples = samples * gain
    if settings.kind == "mfcc":
        return _mfcc(samples, settings)
    if settings.kind == "log1p":
        return _log1p(samples, settings)
    if settings.kind == "sherpa":
        return sherpa_bank.log_energies(samples, bank_of(settings))
    return spectra(samples, settings, running_gains(samples, settings)[0] if running_level(settings) else None)


def bank_of(settings: FeatureSettings) -> sherpa_bank.Bank:
    """Return the filter bank of the kind sherpa."""
    s = settings
    return sherpa_bank.Bank(s.window_samples, s.stride_samples, s.sample_rate_hz, s.mel_bins, s.highest_hz)


def condition(samples: np.ndarray, settings: FeatureSettings) -> tuple[np.ndarray, np.float32]:
    """Return samples [N] limited to the band of their source, and the gain to the level of whole clips, or 1.

    Raises FeatureError as `extract`.
    """
    if samples.ndim != 1:
        raise FeatureError(f"samples of shape {list(samples.shape)} are not one channel; mix them to [N]")
    if len(samples) < settings.window_samples:
        raise FeatureError(
            f"{len(samples)} samples are less than a window of {settings.window_samples} ({settings.window_ms:g} ms); "
            "remove the clip"
        )
    if settings.source_rate_hz:
        samples = limit_band(samples, settings)
    by_clip = settings.normalise_db and not settings.level_s
    return samples, level_gain(samples, settings.target_db) if by_clip else np.float32(1)


def limit_band(samples: np.ndarray, settings: FeatureSettings) -> np.ndarray:
    """Resample samples [N] to the source rate and back, which leaves nothing above half of it; [N] f32."""
    rates = settings.sample_rate_hz, settings.source_rate_hz
    narrow = soxr.resample(samples, *rates, quality="HQ")
    wide = soxr.resample(narrow, *reversed(rates), quality="HQ")[: len(samples)]
    return np.pad(wide, (0, len(samples) - len(wide))).astype(np.float32, copy=False)


def normalise_db(samples: np.ndarray, target_db: float) -> np.ndarray:
    """Scale samples [N] to a level; nothing is clipped. Raises FeatureError as `level_gain`."""
    return samples * level_gain(samples, target_db)


def level_gain(samples: np.ndarray, target_db: float) -> np.float32:
    """Return the gain of samples [N] to a level, as a factor: target - 10 log10(mean(x^2)) dB.

    Raises FeatureError for gains above 300 dB (digital silence), and for values that are not finite.
    """
    power = float(np.einsum("n,n->", samples, samples, dtype=np.float64)) / len(samples)
    if not math.isfinite(power):
        raise FeatureError("samples are not finite numbers; convert the file to 16-bit samples again")
    gain_db = target_db - 10 * math.log10(power) if power > 0 else math.inf
    if gain_db > MAX_GAIN_DB:
        raise SilenceError("the level of digital silence cannot be normalised; remove the clip")
    return np.float32(10 ** (gain_db / 20))


def running_level(settings: FeatureSettings) -> bool:
    """Return whether the level is normalised by the audio up to each frame."""
    return settings.normalise_db and settings.level_s > 0


def running_gains(samples: np.ndarray, settings: FeatureSettings, level: float = 0.0) -> tuple[np.ndarray, float]:
    """Return the power gain of each frame [T] f32, and the level after the last frame, to go on with.

    The level follows the mean power of each window within LEVEL_ATTACK_S where it rises, and within `level_s` where it
    falls; it starts at, and stays above, the one at which the gain is MAX_RUNNING_GAIN_DB.
    """
    windows = np.lib.stride_tricks.sliding_window_view(samples, settings.window_samples)[:: settings.stride_samples]
    target = 10 ** (settings.target_db / 10)
    least = target / 10 ** (MAX_RUNNING_GAIN_DB / 10)
    rise, fall = (min(1.0, settings.stride_ms / 1000 / seconds) for seconds in (LEVEL_ATTACK_S, settings.level_s))
    levels, level = np.empty(len(windows)), max(level, least)
    for frame, power in enumerate((np.einsum("tw,tw->t", windows, windows) / settings.window_samples).tolist()):
        level = max(level + (rise if power > level else fall) * (power - level), least)
        levels[frame] = level
    return (target / levels).astype(np.float32), level


def _linear_bins(settings: FeatureSettings) -> int:
    window = settings.window_samples
    frequencies = np.arange(window // 2 + 1) * settings.sample_rate_hz / window
    return int((frequencies <= settings.highest_hz).sum())


@functools.lru_cache(maxsize=8)
def hann_window(settings: FeatureSettings) -> np.ndarray:
    """Return a symmetric Hann window [W]."""
    return np.hanning(settings.window_samples).astype(np.float32)


@functools.lru_cache(maxsize=8)
def density_factors(settings: FeatureSettings, fft: int) -> np.ndarray:
    """Return the factors [fft / 2 + 1] from one-sided power to power density: 2 / S, but 1 / S for the first and last bin.

    S = sum(w^2) * rate. For odd W, too, the last bin gets 1 / S, as in the original.
    """
    factors = np.full(fft // 2 + 1, 2.0)
    factors[[0, -1]] = 1.0
    return (factors / (np.square(np.hanning(settings.window_samples)).sum() * settings.sample_rate_hz)).astype(
        np.float32
    )


def fourier_matrix(window: int, fft: int) -> np.ndarray:
    """Return a matrix [W, 2 * (fft / 2 + 1)] that gives the real, then the imaginary parts of a window's spectrum."""
    angles = 2 * np.pi * (np.outer(np.arange(window), np.arange(fft // 2 + 1)) % fft) / fft
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1)


def transform_length(settings: FeatureSettings) -> int:
    """Return the length of the transform of the kinds linear and fbank."""
    return fbank_transform_length(settings) if settings.kind == "fbank" else settings.window_samples


@functools.lru_cache(maxsize=8)
def fbank_transform_length(settings: FeatureSettings) -> int:
    """Return the length of the transform: the least of W, 2 W and 4 W with which each filter covers a bin; 0 if none.

    Zeros appended to the window sample the same spectrum at more frequencies.
    """
    lengths = (multiple * settings.window_samples for multiple in (1, 2, 4))
    return next((fft for fft in lengths if mel_filters(settings, fft).any(axis=0).all()), 0)


@functools.lru_cache(maxsize=8)
def mel_filters(settings: FeatureSettings, fft: int) -> np.ndarray:
    """Return triangular filters [fft / 2 + 1, mel_bins] of height 1, equally spaced in mel = 2595 log10(1 + f / 700).

    The bins of a longer transform are weighted by their width, so that levels are those of a transform of W samples.
    """
    edges = _from_mel(np.linspace(0, _to_mel(settings.highest_hz), settings.mel_bins + 2))
    frequencies = np.arange(fft // 2 + 1)[:, None] * settings.sample_rate_hz / fft
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    rise, fall = (frequencies - low) / (centre - low), (high - frequencies) / (high - centre)
    return (np.maximum(0, np.minimum(rise, fall)) * (settings.window_samples / fft)).astype(np.float32)


def _to_mel(hertz):
    return 2595 * np.log10(1 + hertz / 700)


def _from_mel(mel):
    return 700 * (10 ** (mel / 2595) - 1)


def _power_blocks(samples: np.ndarray, window: np.ndarray, stride: int, fft: int) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield the power spectra [frames, fft / 2 + 1] float32 of blocks of frames that fit into the CPU's cache."""
    frames = np.lib.stride_tricks.sliding_window_view(samples, len(window))[::stride]
    for start in range(0, len(frames), BLOCK_FRAMES):
        block = slice(start, start + BLOCK_FRAMES)
        spectrum = np.fft.rfft(frames[block] * window, fft)
        yield block, np.square(spectrum.real) + np.square(spectrum.imag)


def _product(rows: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Multiply [T, N] by [N, M] in parts that BLAS computes in one thread."""
    size = max(1, PRODUCT_LIMIT // matrix.size)
    return np.concatenate([rows[start : start + size] @ matrix for start in range(0, len(rows), size)])


def spectra(samples: np.ndarray, settings: FeatureSettings, gains: np.ndarray | None) -> np.ndarray:
    """Return the log power density [T, F] of samples [N], times gains [T], of its bins (linear) or after mel filters (fbank)."""
    fft = transform_length(settings)
    densities = density_factors(settings, fft)
    features = np.empty((frame_count(len(samples), settings), feature_size(settings)), np.float32)
    for block, power in _power_blocks(samples, hann_window(settings), settings.stride_samples, fft):
        power *= densities if gains is None else densities * gains[block, None]
        if settings.kind == "fbank":
            power = _product(power, mel_filters(settings, fft))
        features[block] = np.log(power[:, : features.shape[1]] + np.float32(FLOOR))
    return features


def _log1p(samples: np.ndarray, settings: FeatureSettings) -> np.ndarray:
    """Return ln(1 + magnitude) of periodic Hamming windows around each stride [T, F]; the ends are reflected."""
    window = settings.window_samples
    frames, size = frame_count(len(samples), settings), feature_size(settings)
    padded = np.pad(samples, (window // 2, window), mode="reflect")[: (frames - 1) * settings.stride_samples + window]
    features = np.empty((frames, size), np.float32)
    hamming = np.hamming(window + 1)[:-1].astype(np.float32)
    for block, power in _power_blocks(padded, hamming, settings.stride_samples, window):
        features[block] = np.log1p(np.sqrt(power[:, :size]))
    return features


def _mfcc(samples: np.ndarray, settings: FeatureSettings) -> np.ndarray:
    """Return mel-frequency cepstra with first and second deltas [T, 3 * cepstra], as python_speech_features 0.6."""
    window, stride = settings.window_samples, settings.stride_samples
    fft = mfcc_transform_length(settings)
    filters, cosines, tiny = mfcc_filters(settings, fft), cosine_transform(settings.cepstra), np.finfo(float).eps
    frames = frame_count(len(samples), settings)
    padded = np.zeros((frames - 1) * stride + window, np.float32)
    padded[: len(samples)] = samples
    padded[1 : len(samples)] -= np.float32(PRE_EMPHASIS) * samples[:-1]
    cepstra = np.empty((frames, settings.cepstra))
    for block, power in _power_blocks(padded, np.ones(window, np.float32), stride, fft):
        power /= fft
        logarithms = np.log(np.maximum(_product(power, filters), tiny, dtype=np.float64))
        cepstra[block] = logarithms @ cosines
        cepstra[block, 0] = np.log(np.maximum(power.sum(axis=1), tiny, dtype=np.float64))
    deltas = _deltas(cepstra)
    return np.concatenate([cepstra, deltas, _deltas(deltas)], axis=1).astype(np.float32)


def mfcc_transform_length(settings: FeatureSettings) -> int:
    """Return the length of the transform: at least 512, and the first power of two that holds a window."""
    return max(MFCC_FFT, 1 << (settings.window_samples - 1).bit_length())


@functools.lru_cache(maxsize=8)
def mfcc_filters(settings: FeatureSettings, fft: int) -> np.ndarray:
    """Return triangular filters [fft / 2 + 1, 26] with corners at whole bins floor((fft + 1) f / rate)."""
    hertz = _from_mel(np.linspace(0, _to_mel(settings.highest_hz), MFCC_FILTERS + 2))
    edges = np.floor((fft + 1) * hertz / settings.sample_rate_hz)
    bins = np.arange(fft // 2 + 1)[:, None]
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    with np.errstate(divide="ignore", invalid="ignore"):  # two corners on one bin: the triangle lacks a side
        rise = np.where((bins >= low) & (bins < centre), (bins - low) / (centre - low), 0)
        fall = np.where((bins >= centre) & (bins < high), (high - bins) / (high - centre), 0)
    return (rise + fall).astype(np.float32)


@functools.lru_cache(maxsize=8)
def cosine_transform(cepstra: int) -> np.ndarray:
    """Return the orthonormal discrete cosine transform [26, cepstra] times the lifter 1 + 11 sin(pi n / 22)."""
    n, order = np.arange(MFCC_FILTERS)[:, None], np.arange(cepstra)
    transform = np.cos(np.pi * order * (2 * n + 1) / (2 * MFCC_FILTERS)) * np.sqrt(2 / MFCC_FILTERS)
    transform[:, 0] = np.sqrt(1 / MFCC_FILTERS)
    return transform * (1 + MFCC_LIFTER / 2 * np.sin(np.pi * order / MFCC_LIFTER))


def _deltas(features: np.ndarray) -> np.ndarray:
    """Return slopes over five frames: sum of n * c[t + n] for n = -2 .. 2, divided by 10; the outer frames are repeated."""
    padded = np.pad(features, ((2, 2), (0, 0)), mode="edge")
    return (padded[3:-1] - padded[1:-3] + 2 * (padded[4:] - padded[:-4])) / 10
