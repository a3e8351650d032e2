"""Signals for tests of augmentation and joining."""

import numpy as np

RATE_HZ = 16000
ANCHOR_TOLERANCE = 1e-6  # the reference values have six decimals


def tone(n: int) -> np.ndarray:
    """Return the signal for which reference values of the original are known, [n] float32."""
    time = np.arange(n) / RATE_HZ
    return (0.1 * np.sin(2 * np.pi * 440 * time) + 0.01 * np.sin(2 * np.pi * 3000 * time)).astype(np.float32)


def hiss(n: int, seed: int = 0, level: float = 0.1) -> np.ndarray:
    """Return white noise [n] float32."""
    return (level * np.random.default_rng(seed).standard_normal(n)).astype(np.float32)


def response(m: int, delay: int, seed: int = 1) -> np.ndarray:
    """Return a decaying impulse response [m] float32 whose direct sound arrives after a delay."""
    samples = hiss(m, seed, 0.2) * np.exp(-np.arange(m) / max(1, m / 6)).astype(np.float32)
    samples[delay] = 1.0
    return samples
