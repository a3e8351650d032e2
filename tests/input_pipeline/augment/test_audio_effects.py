"""Effects on samples, against figures of the original and direct implementations of the formulas."""

import numpy as np
import pytest

from input_pipeline import audio
from input_pipeline.augment import AugmentationError, audio_effects
from input_pipeline.augment.audio_effects import ImpulseResponse, NoiseClip
from tests.signals import ANCHOR_TOLERANCE, RATE_HZ, hiss, response, tone


def test_speed_reproduces_the_original():
    expected = [0.0, 0.032652, 0.045037, 0.059020, 0.087165, 0.102133, 0.093955, 0.090749]
    np.testing.assert_allclose(audio_effects.change_speed(tone(10), 1.25), expected, atol=ANCHOR_TOLERANCE)


@pytest.mark.parametrize(("n", "rate"), [(1, 1.9), (2, 0.5), (8191, 0.93), (20000, 1.07), (8192, 2.0)])
def test_speed_is_linear_interpolation_over_the_whole_clip(n, rate):
    samples = hiss(n)
    changed = audio_effects.change_speed(samples, rate)
    expected = np.interp(np.linspace(0, n, len(changed)), np.arange(n), samples)
    assert changed.dtype == np.float32
    np.testing.assert_allclose(changed, expected, atol=ANCHOR_TOLERANCE)


def test_speed_length_equals_the_resulting_length():
    n = np.array([1, 2, 7, 160, 16001])
    rate = np.array([1.3, 0.7, 1.0, 0.9, 1.1])
    lengths = [len(audio_effects.change_speed(hiss(count), one)) for count, one in zip(n, rate, strict=True)]
    assert audio_effects.speed_length(n, rate).tolist() == lengths
    assert int(audio_effects.speed_length(16000, 0.9)) == int(16000 / 0.9)


def test_speed_one_changes_nothing_and_extreme_rates_are_refused():
    samples = tone(100)
    assert audio_effects.change_speed(samples, 1.0) is samples
    with pytest.raises(AugmentationError, match=r"0\.5 to 2"):
        audio_effects.change_speed(samples, 2.5)


def test_volume_is_a_gain_in_decibels():
    np.testing.assert_allclose(audio_effects.change_volume(tone(9), 6.0), tone(9) * 1.995262, rtol=ANCHOR_TOLERANCE)


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (3, [0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 0.0, 0.0, 0.0]),
        (-3, [0.0, 0.0, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]),
        (0, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]),
    ],
)
def test_shift_reproduces_the_original(count, expected):
    samples = np.arange(1, 11, dtype=np.float32) / 10
    np.testing.assert_allclose(audio_effects.shift(samples, count), expected, atol=ANCHOR_TOLERANCE)
    with pytest.raises(AugmentationError, match="leaves nothing of 10"):
        audio_effects.shift(samples, 10)


def test_online_normalisation_reproduces_the_original():
    samples = np.array([0.1, 0.2, -0.1, 0.05], np.float32)
    expected = [0.1, 0.197122, -0.098575, 0.049468]
    np.testing.assert_allclose(audio_effects.normalise_online(samples, -20, -20, 100), expected, atol=ANCHOR_TOLERANCE)


@pytest.mark.parametrize("delay", [1, 3, 4, 99])
def test_online_normalisation_waits_for_its_first_estimate(delay):
    samples = np.array([0.1, 0.2, -0.1, 0.05], np.float32)
    at_once = audio_effects.normalise_online(samples, -26, -40, 2) / samples
    waited = audio_effects.normalise_online(samples, -26, -40, 2, delay) / samples
    start = min(delay, 3)
    np.testing.assert_allclose(waited[:start], at_once[start], rtol=1e-6)
    np.testing.assert_allclose(waited[start:], at_once[start:], rtol=1e-6)


def test_resampling_removes_frequencies_above_half_the_lower_rate():
    high = np.sin(2 * np.pi * 6000 * np.arange(16000) / RATE_HZ).astype(np.float32)
    low = tone(16000)
    changed = audio_effects.limit_band(high + low, RATE_HZ, 8000)
    assert len(changed) == 16000
    assert audio.rms_db((changed - low)[500:-500]) < audio.rms_db(low) - 60  # the ends of a tone are clicks
    assert audio_effects.limit_band(low, RATE_HZ, 16000) is low


def test_resampling_keeps_every_length():
    for n in (1, 2, 3, 999, 1000, 1001):
        for rate in (1000, 7919, 11025, 15999):
            changed = audio_effects.limit_band(tone(n) + np.float32(0.1), RATE_HZ, rate)
            assert (len(changed), changed.dtype) == (n, np.float32)


@pytest.mark.parametrize("noise_length", [3000, 8000, 50000])
@pytest.mark.parametrize("position", [0.0, 0.37, 0.999])
def test_noise_has_the_given_ratio_to_the_speech(noise_length, position):
    speech = tone(8000)
    added = audio_effects.add_noise(speech, NoiseClip.from_samples(hiss(noise_length)), 15.0, position) - speech
    ratio_db = audio.rms_db(speech) - audio.rms_db(added)
    assert ratio_db == pytest.approx(15.0, abs=0.5)  # the level is that of the whole clip, not of the section
    assert audio.rms_db(tone(8000)) == pytest.approx(-22.967089, abs=1e-5)


def test_noise_starts_at_the_given_position():
    speech, noise = tone(100), hiss(300)
    gain = 10 ** ((audio.rms_db(speech) - audio.rms_db(noise) - 3.0) / 20)
    for position, start in ((0.0, 0), (0.5, 100), (0.9999, 200)):
        added = audio_effects.add_noise(speech, NoiseClip.from_samples(noise), 3.0, position) - speech
        np.testing.assert_allclose(added, gain * noise[start : start + 100], atol=ANCHOR_TOLERANCE)


def test_repeated_noise_has_no_click_at_the_joint():
    slow = np.cos(np.linspace(0.0, 9.0, 4000, dtype=np.float32))  # its end and start differ
    loop = np.tile(audio_effects.loop_noise(slow, 800), 3)
    assert np.abs(slow[0] - slow[-1]) > 1.0
    assert np.abs(np.diff(loop)).max() < 0.01
    assert len(audio_effects.loop_noise(slow[:1], 800)) == 1
    added = audio_effects.add_noise(tone(20000), NoiseClip.from_samples(slow), 0.0, 0.77) - tone(20000)
    assert np.abs(np.diff(added)).max() < 0.01


def test_silent_noise_is_an_error_and_silent_speech_stays_silent():
    with pytest.raises(AugmentationError, match="silent"):
        NoiseClip.from_samples(np.zeros(500, np.float32))
    assert not audio_effects.add_noise(np.zeros(100, np.float32), NoiseClip.from_samples(hiss(500)), 10.0, 0.5).any()


@pytest.mark.parametrize(
    ("n", "m"),
    [(40000, 300), (40000, 9000), (500, 9000), (1, 1), (16384, 8192), (8193, 8192), (8190, 9000)],
)
@pytest.mark.parametrize("delayed", [False, True])
def test_reverberation_is_a_convolution_of_the_speechs_length_and_level(n, m, delayed):
    delay = m // 10 if delayed else 0
    speech, room = hiss(n), response(m, delay)
    wet = audio_effects.reverberate(speech, ImpulseResponse.from_samples(room))
    expected = np.convolve(speech.astype(np.float64), room)[delay:][:n]
    expected *= 10 ** ((audio.rms_db(speech) - audio.rms_db(expected)) / 20)
    assert wet.dtype == np.float32
    np.testing.assert_allclose(wet, expected, atol=2e-6)


def test_the_direct_sound_keeps_its_position():
    click = np.zeros(4000, np.float32)
    click[1234] = 0.5
    for delay in (0, 16, 700):
        assert audio_effects.reverberate(click, ImpulseResponse.from_samples(response(1500, delay))).argmax() == 1234


def test_silent_speech_stays_silent_and_silent_responses_are_refused():
    room = ImpulseResponse.from_samples(hiss(100))
    assert not audio_effects.reverberate(np.zeros(50, np.float32), room).any()
    with pytest.raises(AugmentationError, match="silent"):
        ImpulseResponse.from_samples(np.zeros(100, np.float32))


def test_empty_samples_stay_empty():
    nothing = np.zeros(0, np.float32)
    for changed in (
        audio_effects.change_speed(nothing, 1.1),
        audio_effects.change_volume(nothing, 3.0),
        audio_effects.shift(nothing, 5),
        audio_effects.normalise_online(nothing, -20, -20, 100, 3),
        audio_effects.limit_band(nothing, RATE_HZ, 8000),
        audio_effects.add_noise(nothing, NoiseClip.from_samples(hiss(9)), 10.0, 0.5),
        audio_effects.reverberate(nothing, ImpulseResponse.from_samples(hiss(9))),
    ):
        assert (changed.shape, changed.dtype) == ((0,), np.float32)


def test_effects_do_not_modify_their_input():
    samples, noise, room = tone(3000), NoiseClip.from_samples(hiss(999)), ImpulseResponse.from_samples(response(500, 9))
    for effect in (
        lambda x: audio_effects.change_speed(x, 1.1),
        lambda x: audio_effects.change_volume(x, 3.0),
        lambda x: audio_effects.shift(x, 5),
        lambda x: audio_effects.normalise_online(x, -20, -20, 100, 3),
        lambda x: audio_effects.limit_band(x, RATE_HZ, 8000),
        lambda x: audio_effects.add_noise(x, noise, 10.0, 0.5),
        lambda x: audio_effects.reverberate(x, room),
    ):
        samples.flags.writeable = False
        changed = effect(samples)
        assert (changed.dtype, np.isfinite(changed).all()) == (np.float32, True)
        assert np.array_equal(samples, tone(3000))
