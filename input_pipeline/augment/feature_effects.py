"""Effects on features [T, F], as pure functions of features, random generator and parameters."""

import numpy as np


def warp_time(features: np.ndarray, rng: np.random.Generator, width: int) -> np.ndarray:
    """Move a random frame of features [T, F] in time, and stretch both sides with linear interpolation between frames.

    Park et al. 2019, SpecAugment, section 2, as drawn by PaddleSpeech: frame c ~ U{W..T-W-1} moves to
    w ~ U{c-W+1..c+W}, so that frames 0..c fill 0..w and c..T fill w..T. At most 2 W frames are left unchanged.
    """
    frames = len(features)
    if width == 0 or frames <= 2 * width:
        return features
    centre = int(rng.integers(width, frames - width))
    moved = int(rng.integers(centre - width + 1, centre + width + 1))
    before = (np.arange(moved) + 0.5) * (centre / moved) - 0.5
    after = centre + (np.arange(frames - moved) + 0.5) * ((frames - centre) / (frames - moved)) - 0.5
    before, after = np.clip(before, 0, centre - 1), np.clip(after, centre, frames - 1)
    position = np.concatenate([before, after])
    left = position.astype(np.int64)
    right = np.minimum(left + 1, frames - 1)
    share = (position - left).astype(np.float32)[:, None]
    return features[left] * (1 - share) + features[right] * share


def mask_bands(features: np.ndarray, rng: np.random.Generator, masks: int, width: int, fill: float = 0.0) -> np.ndarray:
    """Return a copy of features [T, F] with random frequency bands set to a value.

    Park et al. 2019, section 2: widths f ~ U{0..width}, starts f0 ~ U{0..F-f}.
    """
    masked, bins = features.copy(), features.shape[1]
    for _ in range(masks):
        size = rng.integers(0, min(width, bins) + 1)
        first = rng.integers(0, bins - size + 1)
        masked[:, first : first + size] = fill
    return masked


def mask_times(
    features: np.ndarray, rng: np.random.Generator, masks: int, width: int, max_share: float, fill: float = 0.0
) -> np.ndarray:
    """Return a copy of features [T, F] with random time spans set to a value.

    Park et al. 2019, section 2: widths t ~ U{0..width}, at most the share p = max_share of the T frames, starts
    t0 ~ U{0..T-t}.
    """
    masked, frames = features.copy(), len(features)
    for _ in range(masks):
        size = rng.integers(0, min(width, int(max_share * frames)) + 1)
        first = rng.integers(0, frames - size + 1)
        masked[first : first + size] = fill
    return masked
