"""Features of speech: log power spectrogram, log-mel filter bank or MFCC, and their normalisation; float32 numpy.

The linear spectrogram and the MFCC are those of PaddlePaddle's DeepSpeech2. Letters: N samples, T frames, F
features, W window.
"""

import functools
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

KINDS = ("linear", "mfcc", "fbank")
FLOOR = 1e-14  # added to a power before its logarithm
MAX_GAIN_DB = 300.0
BLOCK_FRAMES = 256  # frames that are transformed at a time: they stay in the cache

MFCC_FILTERS, MFCC_FFT, MFCC_LIFTER, PRE_EMPHASIS = 26, 512, 22, 0.97


class FeatureError(ValueError):
    """Samples or statistics that no features can be made of; whoever knows the file adds its name."""


@dataclass(frozen=True)
class FeatureSettings:
    """What features are made, at which rate. max_freq_hz 0 is half the sample rate."""

    kind: str = "linear"
    sample_rate_hz: int = 16000
    window_ms: float = 20.0
    stride_ms: float = 10.0
    max_freq_hz: float = 0.0
    target_db: float = -20.0
    normalise_db: bool = True
    mel_bins: int = 80
    cepstra: int = 13

    def __post_init__(self):
        """Refuse what cannot be computed, naming field, value and mend."""
        _check(self.kind in KINDS, "kind", self.kind, f"choose one of {', '.join(KINDS)}")
        _check(self.sample_rate_hz > 0, "sample_rate_hz", self.sample_rate_hz, "use 16000, say")
        _check(0 < self.stride_ms <= self.window_ms, "stride_ms", self.stride_ms, "use more than 0, at most window_ms")
        _check(self.window_samples >= 2, "window_ms", self.window_ms, "use a window of several samples, 20 ms say")
        _check(self.stride_samples >= 1, "stride_ms", self.stride_ms, "use a stride of at least one sample")
        half = self.sample_rate_hz / 2
        _check(0 <= self.max_freq_hz <= half, "max_freq_hz", self.max_freq_hz, f"use 0 to {half:g}, half the rate")
        _check(self.mel_bins >= 1, "mel_bins", self.mel_bins, "use 1 or more")
        _check(1 <= self.cepstra <= MFCC_FILTERS, "cepstra", self.cepstra, f"use 1 to {MFCC_FILTERS}")
        if self.kind == "fbank" and not _mel_filters(self).any(axis=0).all():
            raise ValueError(
                f"config.features.mel_bins is {self.mel_bins}: the lowest filters lie between two bins of a {self.window_ms} ms "
                "window and would always be silent; use fewer, or a longer window"
            )

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
        """Upper end of the spectrum that is used."""
        return self.max_freq_hz or self.sample_rate_hz / 2


def _check(holds: bool, name: str, value, mend: str) -> None:
    if not holds:
        raise ValueError(f"config.features.{name} is {value!r}: {mend}")


def feature_size(settings: FeatureSettings) -> int:
    """Return F, the features of one frame: 161 for the linear spectrogram at 16 kHz."""
    if settings.kind == "linear":
        return _linear_bins(settings)
    return settings.mel_bins if settings.kind == "fbank" else 3 * settings.cepstra


def frame_count(samples, settings: FeatureSettings):
    """Return T for N samples (a number or an integer array); 0 where not even one window is filled."""
    window, stride = settings.window_samples, settings.stride_samples
    if settings.kind == "mfcc":  # the last window may reach beyond the end
        frames = 1 + np.maximum(-(-(np.asarray(samples) - window) // stride), 0)
        return np.where(np.asarray(samples) >= window, frames, 0)
    return np.maximum((np.asarray(samples) - window) // stride + 1, 0)


def extract(samples: np.ndarray, settings: FeatureSettings) -> np.ndarray:
    """Turn samples [N] into features [T, F] float32. Raises FeatureError for silence and for less than one window."""
    if len(samples) < settings.window_samples:
        raise FeatureError(
            f"{len(samples)} samples are less than one window of {settings.window_samples} ({settings.window_ms} ms); remove the clip"
        )
    if settings.normalise_db:
        samples = normalise_db(samples, settings.target_db)
    if settings.kind == "mfcc":
        return _mfcc(samples, settings)
    return _spectra(samples, settings)


def normalise_db(samples: np.ndarray, target_db: float) -> np.ndarray:
    """Bring samples [N] to a level: gain = target - 10 log10(mean(x^2)) dB; nothing is clipped."""
    power = float(np.dot(samples, samples)) / len(samples)
    gain_db = target_db - 10 * np.log10(power) if power > 0 else np.inf
    if gain_db > MAX_GAIN_DB:
        raise FeatureError("digital silence cannot be brought to a level; remove the clip")
    return samples * np.float32(10 ** (gain_db / 20))


def _linear_bins(settings: FeatureSettings) -> int:
    window = settings.window_samples
    frequencies = np.arange(window // 2 + 1) * settings.sample_rate_hz / window
    return int((frequencies <= settings.highest_hz).sum())


@functools.lru_cache(maxsize=8)
def _window(settings: FeatureSettings) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric Hann window [W], and the factors [W/2 + 1] that make powers of one-sided spectra a density.

    With S = sum(w^2) * rate they are 2 / S, but 1 / S at both ends of the spectrum.
    """
    window = np.hanning(settings.window_samples)
    factors = np.full(settings.window_samples // 2 + 1, 2.0)
    factors[[0, -1]] = 1.0
    return window.astype(np.float32), (factors / (np.square(window).sum() * settings.sample_rate_hz)).astype(np.float32)


@functools.lru_cache(maxsize=8)
def _mel_filters(settings: FeatureSettings) -> np.ndarray:
    """Triangles [W/2 + 1, mel_bins], equally spaced on the mel scale 2595 log10(1 + f / 700), each of height 1."""
    edges = _from_mel(np.linspace(0, _to_mel(settings.highest_hz), settings.mel_bins + 2))
    frequencies = (
        np.arange(settings.window_samples // 2 + 1)[:, None] * settings.sample_rate_hz / settings.window_samples
    )
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    rise, fall = (frequencies - low) / (centre - low), (high - frequencies) / (high - centre)
    return np.maximum(0, np.minimum(rise, fall)).astype(np.float32)


def _to_mel(hertz):
    return 2595 * np.log10(1 + hertz / 700)


def _from_mel(mel):
    return 700 * (10 ** (mel / 2595) - 1)


def _spectra(samples: np.ndarray, settings: FeatureSettings) -> np.ndarray:
    """Logarithms of the power density, of its bins (linear) or of its mel filters (fbank): [T, F]."""
    window, factors = _window(settings)
    frames = np.lib.stride_tricks.sliding_window_view(samples, len(window))[:: settings.stride_samples]
    features = np.empty((len(frames), feature_size(settings)), np.float32)
    for start in range(0, len(frames), BLOCK_FRAMES):
        spectrum = np.fft.rfft(frames[start : start + BLOCK_FRAMES] * window)
        power = (np.square(spectrum.real) + np.square(spectrum.imag)) * factors
        if settings.kind == "fbank":
            power = power @ _mel_filters(settings)
        features[start : start + BLOCK_FRAMES] = power[:, : features.shape[1]]
    features += np.float32(FLOOR)
    return np.log(features, out=features)


def _mfcc(samples: np.ndarray, settings: FeatureSettings) -> np.ndarray:
    """Mel-frequency cepstra with first and second differences, [T, 3 * cepstra], as python_speech_features 0.6 makes them."""
    window, stride = settings.window_samples, settings.stride_samples
    emphasised = np.append(samples[0], samples[1:] - np.float32(PRE_EMPHASIS) * samples[:-1]).astype(np.float32)
    frames = int(frame_count(len(samples), settings))
    padded = np.pad(emphasised, (0, max(0, (frames - 1) * stride + window - len(emphasised))))
    blocks = np.lib.stride_tricks.sliding_window_view(padded, window)[::stride][:frames]
    size = max(MFCC_FFT, 1 << (window - 1).bit_length())
    power = np.square(np.abs(np.fft.rfft(blocks, size))) / size
    tiny = np.finfo(float).eps
    energy = np.maximum(power.sum(1), tiny)
    filtered = np.log(np.maximum(power @ _mfcc_filters(size, settings), tiny))
    cepstra = filtered @ _cosines(settings.cepstra)
    cepstra[:, 0] = np.log(energy)
    deltas = _deltas(cepstra)
    return np.concatenate([cepstra, deltas, _deltas(deltas)], axis=1).astype(np.float32)


@functools.lru_cache(maxsize=8)
def _mfcc_filters(size: int, settings: FeatureSettings) -> np.ndarray:
    """Triangles [size/2 + 1, 26] between whole bins floor((size + 1) f / rate)."""
    hertz = _from_mel(np.linspace(0, _to_mel(settings.highest_hz), MFCC_FILTERS + 2))
    edges = np.floor((size + 1) * hertz / settings.sample_rate_hz)
    bins = np.arange(size // 2 + 1)[:, None]
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    with np.errstate(divide="ignore", invalid="ignore"):  # two edges on one bin: no such side
        rise = np.where((bins >= low) & (bins < centre), (bins - low) / (centre - low), 0)
        fall = np.where((bins >= centre) & (bins < high), (high - bins) / (high - centre), 0)
    return rise + fall


def _cosines(cepstra: int) -> np.ndarray:
    """Orthonormal discrete cosine transform [26, cepstra], with the sinusoidal lifter 1 + 11 sin(pi n / 22)."""
    n, order = np.arange(MFCC_FILTERS)[:, None], np.arange(cepstra)
    transform = np.cos(np.pi * order * (2 * n + 1) / (2 * MFCC_FILTERS)) * np.sqrt(2 / MFCC_FILTERS)
    transform[:, 0] = np.sqrt(1 / MFCC_FILTERS)
    return transform * (1 + MFCC_LIFTER / 2 * np.sin(np.pi * order / MFCC_LIFTER))


def _deltas(features: np.ndarray) -> np.ndarray:
    """Slopes over five frames: sum of n * c[t + n] for n = -2 .. 2, divided by 10, the ends repeated."""
    padded = np.pad(features, ((2, 2), (0, 0)), mode="edge")
    return (padded[3:-1] - padded[1:-3] + 2 * (padded[4:] - padded[:-4])) / 10


@dataclass(frozen=True)
class FeatureStats:
    """Mean and standard deviation of each feature over a corpus: [F] float32."""

    mean: np.ndarray
    std: np.ndarray

    def apply(self, features: np.ndarray) -> np.ndarray:
        """Return (features - mean) / (std + 1e-14), [T, F] float32."""
        return ((features - self.mean) / (self.std + np.float32(1e-14))).astype(np.float32, copy=False)

    def save(self, path: str | os.PathLike) -> None:
        """Write the original's format: .npz with mean and std [F, 1]."""
        unfinished = Path(path).with_name(f".{Path(path).name}.{os.getpid()}.tmp.npz")
        np.savez(unfinished, mean=self.mean[:, None], std=self.std[:, None])
        os.replace(unfinished, path)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "FeatureStats":
        """Read statistics, the original's `mean_std.npz` too. Raises FeatureError naming the file."""
        try:
            with np.load(path) as file:
                mean, std = (np.asarray(file[name], np.float32).reshape(-1) for name in ("mean", "std"))
        except (OSError, KeyError, ValueError, EOFError) as error:
            raise FeatureError(
                f"statistics {path} cannot be read ({error}); make them: python -m input_pipeline.stats"
            ) from error
        if mean.shape != std.shape or not np.isfinite(mean).all() or not np.isfinite(std).all() or (std <= 0).any():
            raise FeatureError(
                f"statistics {path} need a finite mean and a positive std of one size; make them: python -m input_pipeline.stats"
            )
        return cls(mean, std)


UTTERANCE_STD_FLOOR = 1e-3  # a bin that does not change in an utterance stays near 0 rather than being blown up


def normalise(features: np.ndarray, mode: str, stats: FeatureStats | None) -> np.ndarray:
    """Normalise features [T, F]: mode 'corpus' by statistics, 'utterance' by each bin's own over time, 'none' not at
    all.

    Raises FeatureError where statistics are missing or of another size.
    """
    if mode == "none":
        return features
    if mode == "utterance":
        std = np.maximum(features.std(axis=0), np.float32(UTTERANCE_STD_FLOOR))
        return (features - features.mean(axis=0)) / std
    if stats is None or stats.mean.shape != features.shape[1:]:
        size = "none" if stats is None else str(len(stats.mean))
        raise FeatureError(f"statistics of {features.shape[1]} features are needed, there are {size}; make them anew")
    return stats.apply(features)
