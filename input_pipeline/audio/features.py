"""Features of speech: log power spectrogram, log-mel filter bank or MFCC, and their normalisation; float32 numpy.

The linear spectrogram and the MFCC are those of PaddlePaddle's DeepSpeech2. Letters: N samples, T frames, F
features, W window.
"""

import functools
import math
import os
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import overload

import numpy as np

from input_pipeline.storage import whole_file

KINDS = ("linear", "mfcc", "fbank")
NORMALISATIONS = ("corpus", "utterance", "none")
FLOOR = 1e-14  # added to a power before its logarithm
MAX_GAIN_DB = 300.0
STD_FLOOR = 1e-3  # what hardly changes in an utterance stays near 0 rather than being blown up

# Frames that are transformed at a time. Buffers over 128 KiB would be fresh pages of the kernel each time, which takes
# longer than the transform: 256 frames run at less than half the speed.
BLOCK_FRAMES = 64
# Multiplications that OpenBLAS leaves to one thread (it starts others from 2^19 on). Its threads wait spinning, and where
# training has the cores already that made filter banks 40 times slower.
PRODUCT_LIMIT = 1 << 18

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
    mel_bins: int = 64
    cepstra: int = 13

    def __post_init__(self):
        """Refuse what cannot be computed, naming field, value and mend."""
        _check(self.kind in KINDS, "kind", self.kind, f"choose one of {', '.join(KINDS)}")
        _check(self.sample_rate_hz > 0, "sample_rate_hz", self.sample_rate_hz, "use 16000, say")
        _check(0 < self.window_ms < math.inf, "window_ms", self.window_ms, "use 20, say")
        _check(self.window_samples >= 2, "window_ms", self.window_ms, "use a window of several samples, 20 ms say")
        _check(0 < self.stride_ms <= self.window_ms, "stride_ms", self.stride_ms, "use more than 0, at most window_ms")
        _check(self.stride_samples >= 1, "stride_ms", self.stride_ms, "use a stride of at least one sample")
        half = self.sample_rate_hz / 2
        _check(0 <= self.max_freq_hz <= half, "max_freq_hz", self.max_freq_hz, f"use 0 to {half:g}, half the rate")
        _check(math.isfinite(self.target_db), "target_db", self.target_db, "use -20, say")
        _check(self.mel_bins >= 1, "mel_bins", self.mel_bins, "use 1 or more")
        _check(1 <= self.cepstra <= MFCC_FILTERS, "cepstra", self.cepstra, f"use 1 to {MFCC_FILTERS}")
        if self.kind == "fbank":
            mend = f"too narrow for a window of {self.window_ms} ms; use fewer, or a longer window"
            _check(_fbank_fft(self) > 0, "mel_bins", self.mel_bins, mend)

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


@overload
def frame_count(samples: int, settings: FeatureSettings) -> int: ...
@overload
def frame_count(samples: np.ndarray, settings: FeatureSettings) -> np.ndarray: ...
def frame_count(samples, settings):
    """Return T for N samples (a number, or an integer array of any shape); 0 where not even one window is filled."""
    beyond = np.asarray(samples, np.int64) - settings.window_samples
    if settings.kind == "mfcc":  # the last window may reach beyond the end
        beyond = np.where(beyond >= 0, beyond + settings.stride_samples - 1, beyond)
    frames = np.where(beyond >= 0, beyond // settings.stride_samples + 1, 0)
    return frames if frames.ndim else int(frames)


def extract(samples: np.ndarray, settings: FeatureSettings) -> np.ndarray:
    """Turn samples [N] float32 into features [T, F] float32.

    Raises FeatureError for less than one window, for values that are not finite, and for digital silence where the
    level is to be normalised.
    """
    if samples.ndim != 1:
        raise FeatureError(f"samples of shape {list(samples.shape)} are not one channel; mix them down to [N]")
    if len(samples) < settings.window_samples:
        raise FeatureError(
            f"{len(samples)} samples are less than one window of {settings.window_samples} ({settings.window_ms:g} ms); "
            "remove the clip"
        )
    if settings.normalise_db:
        samples = normalise_db(samples, settings.target_db)
    if settings.kind == "mfcc":
        return _mfcc(samples, settings)
    return _spectra(samples, settings)


def normalise_db(samples: np.ndarray, target_db: float) -> np.ndarray:
    """Bring samples [N] to a level: gain = target - 10 log10(mean(x^2)) dB; nothing is clipped.

    Raises FeatureError where that takes more than 300 dB (digital silence), and for values that are not finite.
    """
    power = float(np.einsum("n,n->", samples, samples, dtype=np.float64)) / len(samples)
    if not math.isfinite(power):
        raise FeatureError("samples are not finite numbers; convert the file again, to 16-bit samples")
    gain_db = target_db - 10 * math.log10(power) if power > 0 else math.inf
    if gain_db > MAX_GAIN_DB:
        raise FeatureError("digital silence cannot be brought to a level; remove the clip")
    return samples * np.float32(10 ** (gain_db / 20))


def _linear_bins(settings: FeatureSettings) -> int:
    window = settings.window_samples
    frequencies = np.arange(window // 2 + 1) * settings.sample_rate_hz / window
    return int((frequencies <= settings.highest_hz).sum())


@functools.lru_cache(maxsize=8)
def _window(settings: FeatureSettings) -> np.ndarray:
    """Symmetric Hann window [W]."""
    return np.hanning(settings.window_samples).astype(np.float32)


@functools.lru_cache(maxsize=8)
def _densities(settings: FeatureSettings, fft: int) -> np.ndarray:
    """Factors [fft / 2 + 1] that make powers of one-sided spectra a density: 2 / S, but 1 / S at both ends.

    S = sum(w^2) * rate. The last bin counts as an end for odd W too, as in the original.
    """
    factors = np.full(fft // 2 + 1, 2.0)
    factors[[0, -1]] = 1.0
    return (factors / (np.square(np.hanning(settings.window_samples)).sum() * settings.sample_rate_hz)).astype(
        np.float32
    )


@functools.lru_cache(maxsize=8)
def _fbank_fft(settings: FeatureSettings) -> int:
    """Return the samples of the transform: W, or a multiple where the lowest filters would lie between two of its bins.

    With zeros behind the window the spectrum is the same curve on more bins. 0: not even four times as many do.
    """
    lengths = (multiple * settings.window_samples for multiple in (1, 2, 4))
    return next((fft for fft in lengths if _mel_filters(settings, fft).any(axis=0).all()), 0)


@functools.lru_cache(maxsize=8)
def _mel_filters(settings: FeatureSettings, fft: int) -> np.ndarray:
    """Triangles [fft / 2 + 1, mel_bins], equally spaced on the mel scale 2595 log10(1 + f / 700), each of height 1.

    Bins of a longer transform count by their width, so that the level is that of a transform of W samples.
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
    """Yield frames and their power spectra [frames, fft / 2 + 1] float32, one block that fits the cache after another."""
    frames = np.lib.stride_tricks.sliding_window_view(samples, len(window))[::stride]
    for start in range(0, len(frames), BLOCK_FRAMES):
        block = slice(start, start + BLOCK_FRAMES)
        spectrum = np.fft.rfft(frames[block] * window, fft)
        yield block, np.square(spectrum.real) + np.square(spectrum.imag)


def _product(rows: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Multiply [T, N] by [N, M] in pieces that BLAS leaves to one thread."""
    size = max(1, PRODUCT_LIMIT // matrix.size)
    return np.concatenate([rows[start : start + size] @ matrix for start in range(0, len(rows), size)])


def _spectra(samples: np.ndarray, settings: FeatureSettings) -> np.ndarray:
    """Logarithms of the power density, of its bins (linear) or of its mel filters (fbank): [T, F]."""
    fft = _fbank_fft(settings) if settings.kind == "fbank" else settings.window_samples
    densities = _densities(settings, fft)
    features = np.empty((frame_count(len(samples), settings), feature_size(settings)), np.float32)
    for block, power in _power_blocks(samples, _window(settings), settings.stride_samples, fft):
        power *= densities
        if settings.kind == "fbank":
            power = _product(power, _mel_filters(settings, fft))
        features[block] = np.log(power[:, : features.shape[1]] + np.float32(FLOOR))
    return features


def _mfcc(samples: np.ndarray, settings: FeatureSettings) -> np.ndarray:
    """Mel-frequency cepstra with first and second differences: [T, 3 * cepstra], as python_speech_features 0.6."""
    window, stride = settings.window_samples, settings.stride_samples
    fft = max(MFCC_FFT, 1 << (window - 1).bit_length())
    filters, cosines, tiny = _mfcc_filters(settings, fft), _cosines(settings.cepstra), np.finfo(float).eps
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


@functools.lru_cache(maxsize=8)
def _mfcc_filters(settings: FeatureSettings, fft: int) -> np.ndarray:
    """Triangles [fft / 2 + 1, 26] between whole bins floor((fft + 1) f / rate)."""
    hertz = _from_mel(np.linspace(0, _to_mel(settings.highest_hz), MFCC_FILTERS + 2))
    edges = np.floor((fft + 1) * hertz / settings.sample_rate_hz)
    bins = np.arange(fft // 2 + 1)[:, None]
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    with np.errstate(divide="ignore", invalid="ignore"):  # two edges on one bin: no such side
        rise = np.where((bins >= low) & (bins < centre), (bins - low) / (centre - low), 0)
        fall = np.where((bins >= centre) & (bins < high), (high - bins) / (high - centre), 0)
    return (rise + fall).astype(np.float32)


@functools.lru_cache(maxsize=8)
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


@dataclass(frozen=True, eq=False)
class FeatureStats:
    """Mean and standard deviation of each feature over a corpus: [F] float32."""

    mean: np.ndarray
    std: np.ndarray

    def __post_init__(self):
        """Refuse what features cannot be normalised by."""
        if self.mean.ndim != 1 or self.mean.shape != self.std.shape or not self.mean.size:
            raise FeatureError(f"mean {list(self.mean.shape)} and std {list(self.std.shape)} are not both [F]")
        if not (np.isfinite(self.mean).all() and np.isfinite(self.std).all() and (self.std > 0).all()):
            raise FeatureError("mean and std have to be finite numbers, std above 0")

    def apply(self, features: np.ndarray) -> np.ndarray:
        """Return (features - mean) / (std + 1e-14), [T, F] float32."""
        normalised = np.subtract(features, self.mean, dtype=np.float32)
        normalised /= self.std + np.float32(1e-14)
        return normalised

    def save(self, path: str | os.PathLike) -> None:
        """Write the original's format, an .npz archive with mean and std [F, 1]. Raises OSError."""
        with whole_file.open_binary(path) as file:
            np.savez(file, mean=self.mean[:, None], std=self.std[:, None])

    @classmethod
    def load(cls, path: str | os.PathLike) -> "FeatureStats":
        """Read statistics, the original's `mean_std.npz` too. Raises FeatureError naming the file."""
        try:
            with np.load(path) as file:
                mean, std = (np.asarray(file[name], np.float32) for name in ("mean", "std"))
            return cls(*(array[:, 0] if array.shape[1:] == (1,) else array for array in (mean, std)))
        except (OSError, KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            reason = error.strerror if isinstance(error, OSError) else error.args[0] if error.args else "it is damaged"
            raise FeatureError(
                f"feature statistics {path} cannot be used: {reason}; make them: python -m input_pipeline.stats"
            ) from error


def normalise(features: np.ndarray, mode: str, stats: FeatureStats | None) -> np.ndarray:
    """Normalise features [T, F]: by a corpus's statistics, by each bin's own over the utterance's time, or not ('none').

    An utterance's own std counts as 1e-3 at least. Raises FeatureError for an unknown mode, and where the statistics of
    a corpus are missing or of another size.
    """
    if mode == "none":
        return features
    if mode == "utterance":
        deviations = features - features.mean(axis=0)
        deviations /= np.maximum(np.sqrt(np.square(deviations).mean(axis=0)), np.float32(STD_FLOOR))
        return deviations
    if mode != "corpus":
        raise FeatureError(f"normalisation is {mode!r}: choose one of {', '.join(NORMALISATIONS)}")
    if stats is None or stats.mean.shape != features.shape[1:]:
        size = "none" if stats is None else str(len(stats.mean))
        raise FeatureError(f"statistics of {features.shape[1]} features are needed, there are {size}; make them anew")
    return stats.apply(features)


@dataclass(frozen=True)
class FrontEnd:
    """Turn samples into what the network sees: features, and their normalisation (one of NORMALISATIONS).

    stats: those of the training corpus, for normalisation 'corpus'. Raises ValueError for an unknown normalisation.
    """

    settings: FeatureSettings
    normalisation: str = "corpus"
    stats: FeatureStats | None = None

    def __post_init__(self):
        """Refuse an unknown normalisation."""
        _check(
            self.normalisation in NORMALISATIONS,
            "normalisation",
            self.normalisation,
            f"choose one of {', '.join(NORMALISATIONS)}",
        )

    @property
    def size(self) -> int:
        """Features of one frame, F."""
        return feature_size(self.settings)

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """Return the normalised features [T, F] float32 of samples [N] float32. Raises FeatureError."""
        return normalise(extract(samples, self.settings), self.normalisation, self.stats)
