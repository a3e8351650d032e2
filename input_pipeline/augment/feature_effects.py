"""Effects on features [T, F]: what is drawn for each of them, and pure functions of features and what was drawn."""

import numpy as np


def draw_warp(rng: np.random.Generator, frames: int, width: int) -> tuple[int, int]:
    """Draw a frame and the position to which a time warp moves it; 0, 0 for none.

    Park et al. 2019, SpecAugment, section 2, as drawn by PaddleSpeech: frame c ~ U{W..T-W-1} moves to
    w ~ U{c-W+1..c+W}. At most 2 W frames are left unchanged.
    """
    if width == 0 or frames <= 2 * width:
        return 0, 0
    centre = int(rng.integers(width, frames - width))
    return centre, int(rng.integers(centre - width + 1, centre + width + 1))


def draw_spans(rng: np.random.Generator, masks: int, width: int, length: int) -> np.ndarray:
    """Draw the first and the number of the bins or frames of each mask, of `length` bins or frames: [masks, 2] int32.

    Park et al. 2019, section 2: numbers n ~ U{0..width}, first ones ~ U{0..length-n}.
    """
    spans = np.zeros((masks, 2), np.int32)
    for mask in range(masks):
        size = int(rng.integers(0, min(width, length) + 1))
        spans[mask] = rng.integers(0, length - size + 1), size
    return spans


def warp_time(features: np.ndarray, centre: int, moved: int) -> np.ndarray:
    """Move a frame of features [T, F] in time, and stretch both sides with linear interpolation between frames.

    Frames 0..centre fill 0..moved, and centre..T fill moved..T.
    """
    frames = len(features)
    if centre == 0:
        return features
    before = (np.arange(moved) + 0.5) * (centre / moved) - 0.5
    after = centre + (np.arange(frames - moved) + 0.5) * ((frames - centre) / (frames - moved)) - 0.5
    before, after = np.clip(before, 0, centre - 1), np.clip(after, centre, frames - 1)
    position = np.concatenate([before, after])
    left = position.astype(np.int64)
    right = np.minimum(left + 1, frames - 1)
    share = (position - left).astype(np.float32)[:, None]
    return features[left] * (1 - share) + features[right] * share


def mask(features: np.ndarray, bands: np.ndarray, times: np.ndarray, fill: float = 0.0) -> np.ndarray:
    """Return a copy of features [T, F] with bands of bins and stretches of frames, [n, 2] each, set to a value."""
    masked = features.copy()
    for first, size in bands.tolist():
        masked[:, first : first + size] = fill
    for first, size in times.tolist():
        masked[first : first + size] = fill
    return masked
