"""Masks and time warp: widths, shares, fills and edges."""

from typing import Any

import numpy as np
import pytest

from input_pipeline.augment import rng_for
from input_pipeline.augment.augmentors import SpecAugment
from input_pipeline.augment.feature_effects import mask_bands, mask_times, warp_time

FRAMES, BINS = 200, 30
DEFAULTS: dict[str, Any] = {
    "freq_masks": 0,
    "freq_width": 0,
    "time_masks": 0,
    "time_width": 0,
    "max_time_share": 1.0,
    "warp": 0,
    "replace_with_zero": True,
    "adaptive_number": 0.0,
    "adaptive_size": 0.0,
    "max_time_masks": 20,
}


def noise(frames: int = FRAMES, bins: int = BINS) -> np.ndarray:
    return np.random.default_rng(0).uniform(1.0, 2.0, (frames, bins)).astype(np.float32)


def test_masks_stay_within_their_widths_and_reach_them():
    features = noise()
    band_sizes, time_sizes = set(), set()
    for utterance in range(400):
        bands = (mask_bands(features, rng_for(0, 0, utterance), 1, 4) == 0).all(axis=0)
        times = (mask_times(features, rng_for(0, 0, utterance), 1, 50, 0.1) == 0).all(axis=1)
        band_sizes.add(int(bands.sum()))
        time_sizes.add(int(times.sum()))
        assert np.abs(np.diff(bands.astype(int))).sum() <= 2  # one stretch
    assert band_sizes == set(range(5))
    assert time_sizes == set(range(21))  # a tenth of the frames, below T = 50
    assert features.min() >= 1.0  # the input is not modified


def test_masks_start_anywhere():
    first = {int((mask_times(noise(10), rng_for(0, 1, u), 1, 2, 1.0) == 0).all(axis=1).argmax()) for u in range(300)}
    assert first >= set(range(9))
    last = [(mask_times(noise(10), rng_for(0, 1, u), 1, 2, 1.0)[-1] == 0).all() for u in range(300)]
    assert any(last)


@pytest.mark.parametrize("shape", [(1, 2), (0, 4), (2, 1)])
def test_masks_larger_than_the_spectrogram_are_limited_to_it(shape):
    features, rng = np.ones(shape, np.float32), rng_for(0, 0, 0)
    assert mask_bands(features, rng, 3, 100).shape == shape
    assert mask_times(features, rng, 3, 100, 1.0).shape == shape


def test_the_warp_moves_one_frame_and_stretches_both_sides():
    ramp = np.repeat(np.arange(FRAMES, dtype=np.float32)[:, None], 3, axis=1)
    moved_most = 0.0
    for utterance in range(100):
        warped = warp_time(ramp, rng_for(0, 0, utterance), 15)[:, 0]
        assert (np.diff(warped) > -1e-3).all()  # time never runs backwards
        moved_most = max(moved_most, np.abs(warped - ramp[:, 0]).max())
        slopes = np.unique(np.round(np.diff(warped)[1:-1], 3))
        assert len(slopes) <= 5  # two straight lines, and the joint
    assert 10 < moved_most <= 15.5


def test_the_warp_moves_the_drawn_frame_to_the_drawn_position():
    """Frames 0..c fill 0..w and c..T fill w..T; frame centres are at half-integers."""
    features = noise()
    rng = rng_for(0, 0, 7)
    centre = int(rng.integers(20, FRAMES - 20))
    moved = int(rng.integers(centre - 19, centre + 21))
    warped = warp_time(features, rng_for(0, 0, 7), 20)
    for bin_index in (0, BINS - 1):
        column = features[:, bin_index]
        for frame in (0, 3, moved - 1, moved, FRAMES - 1):
            if frame < moved:
                position = min(max((frame + 0.5) * centre / moved - 0.5, 0), centre - 1)
            else:
                position = centre + (frame - moved + 0.5) * (FRAMES - centre) / (FRAMES - moved) - 0.5
                position = min(max(position, centre), FRAMES - 1)
            expected = np.interp(position, np.arange(FRAMES), column)
            assert warped[frame, bin_index] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("frames", "width"), [(40, 20), (1, 1), (0, 5), (FRAMES, 0)])
def test_too_few_frames_are_not_warped(frames, width):
    features = noise(frames)
    assert warp_time(features, rng_for(0, 0, 0), width) is features


def test_the_fill_is_zero_or_the_mean_of_the_utterance():
    features = noise()
    masks = {"freq_masks": 2, "freq_width": 10, "time_masks": 2, "time_width": 40}
    zeros = SpecAugment(**DEFAULTS | masks).apply_features(features, rng_for(0, 0, 3))
    means = SpecAugment(**DEFAULTS | masks | {"replace_with_zero": False}).apply_features(features, rng_for(0, 0, 3))
    masked = zeros == 0
    assert 0.05 < masked.mean() < 0.9
    np.testing.assert_allclose(means[masked], features.mean(), rtol=1e-5)
    assert np.array_equal(means[~masked], features[~masked])


def test_adaptive_masks_grow_with_the_utterance():
    adaptive = SpecAugment(**DEFAULTS | {"adaptive_number": 0.05, "adaptive_size": 0.04, "max_time_masks": 6})
    share = {}
    for frames in (19, 50, 1000):
        masked = [
            (adaptive.apply_features(noise(frames, 2), rng_for(0, 0, u)) == 0).all(axis=1).sum() for u in range(200)
        ]
        share[frames] = max(masked)
    assert share[19] == 0  # int(0.05 * 19) masks
    assert 1 <= share[50] <= 2 * 2  # two masks of at most two frames
    assert 100 < share[1000] <= 6 * 40  # six masks, not fifty
