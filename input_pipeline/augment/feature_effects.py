"""What augmentation does to features [T, F]: pure functions of (features, draws, parameters)."""

import numpy as np


def mask_spectrogram(
    features: np.ndarray,
    rng: np.random.Generator,
    freq_masks: int,
    freq_width: int,
    time_masks: int,
    time_width: int,
    max_time_share: float,
) -> np.ndarray:
    """Set random bands of frequency and time to 0, the mean of normalised features [T, F]; returns a copy.

    Park et al. 2019, SpecAugment, section 2: widths f ~ U{0..freq_width} and t ~ U{0..time_width}, starts
    f0 ~ U{0..F-f} and t0 ~ U{0..T-t}; one time mask covers at most the share p = max_time_share of the T frames.
    """
    masked = features.copy()
    frames, bins = features.shape
    for _ in range(freq_masks):
        width = rng.integers(0, min(freq_width, bins) + 1)
        first = rng.integers(0, bins - width + 1)
        masked[:, first : first + width] = 0.0
    for _ in range(time_masks):
        width = rng.integers(0, min(time_width, int(max_time_share * frames)) + 1)
        first = rng.integers(0, frames - width + 1)
        masked[first : first + width] = 0.0
    return masked
