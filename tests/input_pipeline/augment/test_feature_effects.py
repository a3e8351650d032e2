"""Masks and time warp: widths, shares, fills and edges."""

from typing import Any

import numpy as np
import pytest

from input_pipeline.augment import rng_for
from input_pipeline.augment.augmentors import SpecAugment
from input_pipeline.augment.feature_effects import draw_spans, draw_warp, mask, warp_time
from input_pipeline.augment.packed_masks import pack, packed_size, unpack

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


def warp(features: np.ndarray, rng: np.random.Generator, width: int) -> np.ndarray:
    return warp_time(features, *draw_warp(rng, len(features), width))


NONE = np.zeros((0, 2), np.int32)


def mask_bands(features: np.ndarray, rng: np.random.Generator, masks: int, width: int) -> np.ndarray:
    return mask(features, draw_spans(rng, masks, width, features.shape[1]), NONE)


def mask_times(features: np.ndarray, rng: np.random.Generator, masks: int, width: int) -> np.ndarray:
    return mask(features, NONE, draw_spans(rng, masks, width, len(features)))


def test_masks_stay_within_their_widths_and_reach_them():
    features = noise()
    band_sizes, time_sizes = set(), set()
    for utterance in range(400):
        bands = (mask_bands(features, rng_for(0, 0, utterance), 1, 4) == 0).all(axis=0)
        times = (mask_times(features, rng_for(0, 0, utterance), 1, 20) == 0).all(axis=1)
        band_sizes.add(int(bands.sum()))
        time_sizes.add(int(times.sum()))
        assert np.abs(np.diff(bands.astype(int))).sum() <= 2  # one stretch
    assert band_sizes == set(range(5))
    assert time_sizes == set(range(21))
    assert features.min() >= 1.0  # the input is not modified


def test_masks_start_anywhere():
    first = {int((mask_times(noise(10), rng_for(0, 1, u), 1, 2) == 0).all(axis=1).argmax()) for u in range(300)}
    assert first >= set(range(9))
    last = [(mask_times(noise(10), rng_for(0, 1, u), 1, 2)[-1] == 0).all() for u in range(300)]
    assert any(last)


@pytest.mark.parametrize("shape", [(1, 2), (0, 4), (2, 1)])
def test_masks_larger_than_the_spectrogram_are_limited_to_it(shape):
    features, rng = np.ones(shape, np.float32), rng_for(0, 0, 0)
    assert mask_bands(features, rng, 3, 100).shape == shape
    assert mask_times(features, rng, 3, 100).shape == shape


def test_the_warp_moves_one_frame_and_stretches_both_sides():
    ramp = np.repeat(np.arange(FRAMES, dtype=np.float32)[:, None], 3, axis=1)
    moved_most = 0.0
    for utterance in range(100):
        warped = warp(ramp, rng_for(0, 0, utterance), 15)[:, 0]
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
    warped = warp(features, rng_for(0, 0, 7), 20)
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
    assert warp(features, rng_for(0, 0, 0), width) is features


def test_the_fill_is_zero_or_the_mean_of_the_utterance():
    features = noise()
    masks = {"freq_masks": 2, "freq_width": 10, "time_masks": 2, "time_width": 40}
    drawn = SpecAugment(**DEFAULTS | masks).draw(FRAMES, BINS, rng_for(0, 0, 3))
    zeros = SpecAugment(**DEFAULTS | masks).apply_features(features, drawn)
    means = SpecAugment(**DEFAULTS | masks | {"replace_with_zero": False}).apply_features(features, drawn)
    masked = zeros == 0
    assert 0.05 < masked.mean() < 0.9
    np.testing.assert_allclose(means[masked], features.mean(), rtol=1e-5)
    assert np.array_equal(means[~masked], features[~masked])


def test_adaptive_masks_grow_with_the_utterance():
    adaptive = SpecAugment(**DEFAULTS | {"adaptive_number": 0.05, "adaptive_size": 0.04, "max_time_masks": 6})
    share = {}
    for frames in (19, 50, 1000):
        drawn = [adaptive.draw(frames, 2, rng_for(0, 0, u)) for u in range(200)]
        share[frames] = max((adaptive.apply_features(noise(frames, 2), d) == 0).all(axis=1).sum() for d in drawn)
    assert share[19] == 0  # int(0.05 * 19) masks
    assert 1 <= share[50] <= 2 * 2  # two masks of at most two frames
    assert 100 < share[1000] <= 6 * 40  # six masks, not fifty


def test_a_share_of_the_frames_limits_time_masks():
    augmentor = SpecAugment(**DEFAULTS | {"time_masks": 1, "time_width": 50, "max_time_share": 0.1})
    sizes = {int(augmentor.draw(FRAMES, BINS, rng_for(0, 0, u)).times[0, 1]) for u in range(400)}
    assert sizes == set(range(21))


def test_what_was_drawn_survives_packing():
    masks = {"freq_masks": 2, "freq_width": 9, "time_masks": 3, "time_width": 40}
    fixed = SpecAugment(**DEFAULTS | masks | {"warp": 10})
    adaptive = SpecAugment(**DEFAULTS | {"adaptive_number": 0.02, "adaptive_size": 0.1, "max_time_masks": 6})
    augmentors = [fixed, adaptive]
    drawn = [augmentor.draw(FRAMES, BINS, rng_for(0, 0, 1)) for augmentor in augmentors]
    rows = np.stack([pack(augmentors, drawn), pack(augmentors, [None, drawn[1]])])
    assert rows.shape == (2, packed_size(augmentors))
    (warp, bands, times), (no_warp, no_bands, adapted) = unpack(augmentors, rows)
    assert warp.tolist() == [list(drawn[0].warp), [0, 0]]
    np.testing.assert_array_equal(bands, [drawn[0].bands, np.zeros((2, 2))])
    np.testing.assert_array_equal(times, [drawn[0].times, np.zeros((3, 2))])
    assert not no_warp.any()
    assert no_bands.shape == (2, 0, 2)
    np.testing.assert_array_equal(adapted[:, :4], [drawn[1].times] * 2)  # four masks of at most six
    assert not adapted[:, 4:].any()
