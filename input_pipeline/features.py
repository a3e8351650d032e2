from dataclasses import dataclass
import numpy as np
@dataclass(frozen=True)
class FeatureSettings:
    kind: str = "linear"; sample_rate_hz: int = 16000; window_ms: float = 20.0; stride_ms: float = 10.0; max_freq_hz: float = 0.0
    target_db: float = -20.0; normalise_db: bool = True; mel_bins: int = 80; cepstra: int = 13
def feature_size(s): return 161 if s.kind=='linear' else s.mel_bins
import functools
@functools.cache
def mel(n):
    m = lambda f: 2595 * np.log10(1 + f / 700); inv = lambda v: 700 * (10 ** (v / 2595) - 1)
    e = inv(np.linspace(m(0), m(8000), n + 2)); f = np.arange(161) * 50.0
    return np.maximum(0, np.minimum((f[:, None] - e[:-2]) / (e[1:-1] - e[:-2]), (e[2:] - f[:, None]) / (e[2:] - e[1:-1]))).astype(np.float32)
def frame_count(n, s): return np.maximum((np.asarray(n) - 320) // 160 + 1, 0)
def extract(x, s):
    x = x * np.float32(10 ** ((-20 - 10 * np.log10(np.mean(x.astype(np.float64) ** 2))) / 20))
    w = np.hanning(320).astype(np.float32)
    f = np.lib.stride_tricks.sliding_window_view(x, 320)[::160] * w
    p = np.abs(np.fft.rfft(f)) ** 2
    scale = (w ** 2).sum() * 16000
    p[:, 1:-1] *= 2 / scale; p[:, [0, -1]] /= scale
    if s.kind == "fbank": p = p @ mel(s.mel_bins)
    return np.log(p + 1e-14).astype(np.float32)
@dataclass(frozen=True)
class FeatureStats:
    mean: np.ndarray; std: np.ndarray
    def apply(self, f): return (f - self.mean) / (self.std + 1e-14)
    def save(self, p): np.savez(p, mean=self.mean, std=self.std)
    @classmethod
    def load(cls, p):
        d = np.load(p); return cls(d["mean"].ravel(), d["std"].ravel())
def normalise(f, mode, stats): return stats.apply(f).astype(np.float32) if mode == "corpus" else f
