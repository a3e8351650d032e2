"""The filter bank that sherpa-onnx computes for NeMo's models, by kaldi-native-fbank with `is_librosa`.

Each stride has a window around its middle, so the first ones begin before the audio; the ends of the audio are reflected. Each
window is emphasised, and shaped by a Hann window. Triangles are those of librosa: equally wide on a scale that is linear up to
1000 Hz and logarithmic above, and of equal area. Letters: N samples, T frames, W samples of a window, F filters.
"""

import functools
from typing import NamedTuple

import numpy as np

PRE_EMPHASIS = 0.97
FLOOR = float(np.finfo(np.float32).eps)  # of the energy of a filter
BLOCK_FRAMES = 64  # transformed at a time, as in features.py
LINEAR_HZ = 1000.0  # up to which the scale is linear, with steps of
STEP_HZ = 200 / 3
STEP_RATIO = 6.4 ** (1 / 27)  # and above, with steps of this ratio


class Bank(NamedTuple):
    """A filter bank: samples of a window and from one to the next, samples a second, F, and the upper limit of frequencies."""

    window: int
    stride: int
    rate_hz: int
    filters: int
    highest_hz: float

    @property
    def fft(self) -> int:
        """The length of the transform: the first power of two that holds a window."""
        return 1 << (self.window - 1).bit_length()

    @property
    def first(self) -> int:
        """The position of the first sample of the first window, which is negative or 0."""
        return self.stride // 2 - self.window // 2


def frame_count(samples: np.ndarray, stride: int) -> np.ndarray:
    """Return T for N samples."""
    return (samples + stride // 2) // stride


@functools.lru_cache(maxsize=8)
def mel_filters(bank: Bank) -> np.ndarray:
    """Return the filters [fft / 2 + 1, F] float32."""
    edges = _from_mel(np.linspace(0, _to_mel(bank.highest_hz), bank.filters + 2))
    hertz = np.arange(bank.fft // 2 + 1)[:, None] * bank.rate_hz / bank.fft
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    triangles = np.maximum(0, np.minimum((hertz - left) / (centre - left), (right - hertz) / (right - centre)))
    return (triangles * 2 / (right - left)).astype(np.float32)


def _to_mel(hertz: float) -> float:
    if hertz < LINEAR_HZ:
        return hertz / STEP_HZ
    return LINEAR_HZ / STEP_HZ + np.log(hertz / LINEAR_HZ) / np.log(STEP_RATIO)


def _from_mel(mel: np.ndarray) -> np.ndarray:
    linear = LINEAR_HZ / STEP_HZ
    return np.where(mel < linear, mel * STEP_HZ, LINEAR_HZ * STEP_RATIO ** (mel - linear))


def shaping_matrix(window: int) -> np.ndarray:
    """Return the product [W, W] that emphasises and shapes windows [T, W]."""
    emphasis = np.eye(window) - PRE_EMPHASIS * np.eye(window, k=1)
    emphasis[0, 0] -= PRE_EMPHASIS  # the sample before the first one is taken as equal to it
    return emphasis * hann_window(window)


def hann_window(window: int) -> np.ndarray:
    """Return a periodic Hann window [W]."""
    return np.hanning(window + 1)[:-1]


def log_energies(samples: np.ndarray, bank: Bank) -> np.ndarray:
    """Return the logarithms of the filters' energies [T, F] float32 of samples [N], at least one window."""
    frames = int(frame_count(np.array(len(samples)), bank.stride))
    after = max(0, bank.first + (frames - 1) * bank.stride + bank.window - len(samples))
    padded = np.pad(samples.astype(np.float32, copy=False), (-bank.first, after), mode="symmetric")
    windows = np.lib.stride_tricks.sliding_window_view(padded, bank.window)[:: bank.stride][:frames]
    shape, filters = hann_window(bank.window).astype(np.float32), mel_filters(bank)
    features = np.empty((frames, bank.filters), np.float32)
    for start in range(0, frames, BLOCK_FRAMES):
        block = windows[start : start + BLOCK_FRAMES]
        before = np.concatenate([block[:, :1], block[:, :-1]], axis=1)
        spectrum = np.fft.rfft((block - np.float32(PRE_EMPHASIS) * before) * shape, bank.fft)
        power = (np.square(spectrum.real) + np.square(spectrum.imag)).astype(np.float32)
        features[start : start + BLOCK_FRAMES] = np.log(np.maximum(power @ filters, np.float32(FLOOR)))
    return features
