"""What a batch brings to the device: features, or samples with the numbers that features are made with there."""

import numpy as np
import pytest

from input_pipeline.audio.features import FeatureSettings
from input_pipeline.audio.front_end import FrontEnd
from input_pipeline.augment import Augmentation
from input_pipeline.batches.inputs import FeatureInput, SampleInput, make_inputs, to_int16

ROUNDING = 1e-6  # of float32
SETTINGS = FeatureSettings(window_ms=25.0)


def inputs_of(transfer: str, settings: FeatureSettings = SETTINGS):
    return make_inputs(FrontEnd(settings, "none"), Augmentation(), transfer)


@pytest.fixture
def samples() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.05, 4321).astype(np.float32)


def test_samples_as_int16_times_their_gain_are_those_as_float32_times_theirs(samples):
    rng = np.random.default_rng(0)
    exact, rounded = (inputs_of(transfer).make_row(samples, rng) for transfer in ("float32", "int16"))
    assert exact.frames == rounded.frames == inputs_of("").make_row(samples, rng).frames == 25
    assert (exact.arrays["samples"].dtype, rounded.arrays["samples"].dtype) == (np.float32, np.int16)
    wanted = exact.arrays["samples"] * exact.arrays["gain"]
    found = rounded.arrays["samples"] * rounded.arrays["gain"]
    np.testing.assert_allclose(found, wanted, atol=np.abs(wanted).max() / 32767)
    assert len(found) == 24 * 160 + 400  # what 25 windows cover
    np.testing.assert_allclose(np.sqrt(np.mean((samples * exact.arrays["gain"]) ** 2)), 0.1, rtol=1e-4)  # -20 dB


def test_16_bits_are_sent_as_they_are_and_others_with_the_clips_peak_as_the_largest():
    whole = np.array([-32768, -1, 0, 5, 32767], np.int16)
    sent, unit = to_int16(whole.astype(np.float32) / 32768)
    np.testing.assert_array_equal(sent, whole)
    assert unit == np.float32(1 / 32768)
    for loud in (np.array([0.1234567, -0.3, 0.02], np.float32), np.array([1.0, -0.5], np.float32)):  # 1.0 is no int16
        sent, unit = to_int16(loud)
        assert np.abs(sent).max() == 32767
        np.testing.assert_allclose(sent * unit, loud, atol=float(unit) / 2 + ROUNDING)
    sent, unit = to_int16(np.zeros(0, np.float32))
    assert (len(sent), unit) == (0, np.float32(1 / 32768))


@pytest.mark.parametrize(("window_ms", "overlap"), [(10.0, 0), (10.1, 1), (20.0, 1), (25.0, 2), (40.0, 3)])
@pytest.mark.parametrize("level_s", [0.0, 2.0])
def test_the_arrays_of_a_batch_have_room_for_its_frames(window_ms, overlap, level_s, samples):
    settings = FeatureSettings(window_ms=window_ms, level_s=level_s)
    inputs = inputs_of("int16", settings)
    assert isinstance(inputs, SampleInput)
    assert inputs.overlap == overlap
    arrays: dict[str, np.ndarray] = {
        name: np.zeros(array.shape, array.dtype) for name, array in inputs.arrays(3, 40).items()
    }
    assert arrays["samples"].shape == (3, (40 + overlap) * 160)
    assert ("gains" in arrays) == (level_s > 0)
    assert inputs.room(arrays) == 40
    row = inputs.make_row(samples, np.random.default_rng(0))
    assert set(row.arrays) == set(arrays)
    assert len(row.arrays["samples"]) <= (row.frames + overlap) * 160


def test_features_have_a_row_for_each_frame(samples):
    inputs = inputs_of("")
    assert isinstance(inputs, FeatureInput)
    row = inputs.make_row(samples, np.random.default_rng(0))
    arrays: dict[str, np.ndarray] = {
        name: np.zeros(array.shape, array.dtype) for name, array in inputs.arrays(3, 40).items()
    }
    assert arrays["spectrogram"].shape == (3, 40, inputs.front_end.size)
    assert row.arrays["spectrogram"].shape == (row.frames, inputs.front_end.size)
    assert inputs.room(arrays) == 40


@pytest.mark.parametrize(
    ("kind", "transfer", "message"), [("mfcc", "int16", "kind mfcc"), ("linear", "int8", "transfer is 'int8'")]
)
def test_what_cannot_be_made_on_a_device_is_refused(kind, transfer, message):
    with pytest.raises(ValueError, match=message):
        inputs_of(transfer, FeatureSettings(kind=kind))
