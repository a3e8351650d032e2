"""Features against the original's published numbers, a slow transform of the formula, and another library."""

import numpy as np
import pytest
from python_speech_features import delta, mfcc

from input_pipeline import audio
from input_pipeline.audio.features import (
    BLOCK_FRAMES,
    FeatureError,
    FeatureSettings,
    extract,
    feature_size,
    frame_count,
    mfcc_transform_length,
    normalise_db,
    running_gains,
)
from input_pipeline.audio.front_end import normalise

FLOAT32_LN = 1e-4  # natural logarithms of float32 spectra against float64 ones
LINEAR = FeatureSettings()


@pytest.fixture(scope="module")
def signal() -> np.ndarray:
    n = np.arange(8000)
    return (0.1 * np.sin(2 * np.pi * 440 * n / 16000) + 0.01 * np.sin(2 * np.pi * 3000 * n / 16000)).astype(np.float32)


def test_linear_spectrogram_has_the_originals_numbers(signal):
    features = extract(signal, LINEAR)
    assert features.shape == (49, 161)
    assert features.dtype == np.float32
    published = {
        0: (-25.224311, -24.432860, -24.544791),
        8: (-9.792737, -9.792891, -9.792862),
        9: (-8.987153, -8.987066, -8.987083),
        60: (-13.540919, -13.540910, -13.540894),
        160: (-32.236161, -32.236182, -32.236189),
    }
    for bin_, values in published.items():
        np.testing.assert_allclose(features[:3, bin_], values, atol=FLOAT32_LN)
    assert features.mean() == pytest.approx(-30.007865, abs=FLOAT32_LN)
    assert features.std() == pytest.approx(4.854687, abs=FLOAT32_LN)


def test_levelling_is_what_raises_the_spectrum(signal):
    raised = extract(signal, LINEAR)[:, 9] - extract(signal, FeatureSettings(normalise_db=False))[:, 9]
    np.testing.assert_allclose(raised, 0.683198, atol=FLOAT32_LN)  # 2.967089 dB in natural units


def test_linear_spectrogram_equals_the_formula_written_out():
    samples = np.random.default_rng(0).normal(0, 0.1, 700).astype(np.float32)
    settings = FeatureSettings(normalise_db=False)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(320) / 319)
    scale = np.sum(window**2) * 16000
    expected = np.zeros((3, 161))
    for frame in range(3):
        block = samples[frame * 160 : frame * 160 + 320] * window
        for k in range(161):
            power = abs(np.sum(block * np.exp(-2j * np.pi * k * np.arange(320) / 320))) ** 2
            expected[frame, k] = np.log(power * (1 if k in (0, 160) else 2) / scale + 1e-14)
    np.testing.assert_allclose(extract(samples, settings), expected, atol=1e-3)  # float32 sums of 320 terms near zero


def test_real_speech_in_float32_is_as_in_float64(clips):
    samples = audio.read(next(clips.parent.glob("*.flac")))[0]
    window = np.hanning(320)
    frames = np.lib.stride_tricks.sliding_window_view(normalise_db(samples, -20.0).astype(float), 320)[::160]
    power = np.abs(np.fft.rfft(frames * window)) ** 2 * 2 / (np.square(window).sum() * 16000)
    power[:, [0, -1]] /= 2
    heard = power > power.max(axis=1, keepdims=True) * 1e-9  # within 90 dB of the loudest bin
    np.testing.assert_allclose(extract(samples, LINEAR)[heard], np.log(power + 1e-14)[heard], atol=1e-3)


def test_more_frames_than_a_block_join_without_a_seam():
    samples = np.random.default_rng(0).normal(0, 0.1, 160 * (2 * BLOCK_FRAMES + 7)).astype(np.float32)
    for kind in ("linear", "fbank"):
        settings = FeatureSettings(kind=kind, normalise_db=False)
        whole = extract(samples, settings)
        singly = [extract(samples[160 * t : 160 * t + 320], settings)[0] for t in range(len(whole))]
        np.testing.assert_allclose(whole, singly, atol=FLOAT32_LN)


def test_a_highest_frequency_leaves_out_the_bins_above(signal):
    settings = FeatureSettings(max_freq_hz=4000.0)
    assert feature_size(settings) == 81
    np.testing.assert_array_equal(extract(signal, settings), extract(signal, LINEAR)[:, :81])


def test_mfcc_of_real_speech_equals_python_speech_features(clips):
    samples = audio.read(next(clips.parent.glob("*.flac")))[0]
    cepstra = mfcc(normalise_db(samples, -20.0).astype(float), 16000, 0.02, 0.01, winfunc=np.ones)
    expected = np.hstack([cepstra, delta(cepstra, 2), delta(delta(cepstra, 2), 2)])
    # Quiet filters err more than those of a tone: a float32 spectrum errs by a share of its largest bin. Measured: 6e-5.
    np.testing.assert_allclose(extract(samples, FeatureSettings(kind="mfcc")), expected, atol=5e-4)


@pytest.mark.parametrize(
    ("window", "length"), [(2, 512), (511, 512), (512, 512), (513, 1024), (1024, 1024), (1025, 2048)]
)
def test_the_transform_of_mfcc_is_the_first_power_of_two_that_holds_a_window(window, length):
    settings = FeatureSettings(kind="mfcc", sample_rate_hz=10000, window_ms=window / 10, stride_ms=0.1)
    assert mfcc_transform_length(settings) == length


def test_mfcc_of_a_window_longer_than_512_samples_equals_python_speech_features(signal):
    levelled = normalise_db(signal, -20.0).astype(float)
    cepstra = mfcc(levelled, 16000, 0.04, 0.01, nfft=1024, winfunc=np.ones)
    found = extract(signal, FeatureSettings(kind="mfcc", window_ms=40.0))
    np.testing.assert_allclose(found[:, :13], cepstra[: len(found)], atol=1e-4)


def test_mfcc_equals_python_speech_features(signal):
    levelled = normalise_db(signal[:7900], -20.0)
    cepstra = mfcc(levelled, 16000, 0.02, 0.01, winfunc=np.ones)
    first = delta(cepstra, 2)
    expected = np.hstack([cepstra, first, delta(first, 2)])
    np.testing.assert_allclose(extract(signal[:7900], FeatureSettings(kind="mfcc")), expected, atol=1e-4)


def test_filter_bank_finds_a_tone_in_its_filter():
    n = np.arange(4000)
    settings = FeatureSettings(kind="fbank", mel_bins=40)
    low, high = (
        extract(np.sin(2 * np.pi * f * n / 16000).astype(np.float32), settings).mean(0).argmax() for f in (300, 3000)
    )
    assert 0 < low < 12 < high < 32


def test_filter_bank_equals_triangles_written_out():
    samples = np.random.default_rng(0).normal(0, 0.1, 320).astype(np.float32)
    density = np.exp(extract(samples, FeatureSettings(normalise_db=False)).astype(float))[0] - 1e-14
    centres = [700 * (10 ** (2595 * np.log10(1 + 8000 / 700) * m / 8 / 2595) - 1) for m in range(9)]
    expected = np.zeros(7)
    for m in range(7):
        for k in range(161):
            rise = (50 * k - centres[m]) / (centres[m + 1] - centres[m])
            fall = (centres[m + 2] - 50 * k) / (centres[m + 2] - centres[m + 1])
            expected[m] += max(0.0, min(rise, fall)) * density[k]
    features = extract(samples, FeatureSettings(kind="fbank", mel_bins=7, normalise_db=False))
    np.testing.assert_allclose(features[0], np.log(expected), atol=FLOAT32_LN)


@pytest.mark.parametrize("mel_bins", [80, 128])
def test_many_filters_hear_all_frequencies_at_the_same_level(mel_bins):
    noise = np.random.default_rng(0).normal(0, 0.1, 160000).astype(np.float32)
    many = extract(noise, FeatureSettings(kind="fbank", mel_bins=mel_bins)).mean(axis=0)
    few = extract(noise, FeatureSettings(kind="fbank", mel_bins=64)).mean(axis=0)
    assert many.min() > few.min() - 2.0  # in ln: narrower filters hold less, an empty one would hold e^-32
    upper = [np.log(np.exp(power[len(power) // 2 :]).mean()) for power in (many, few)]
    assert upper[0] - upper[1] == pytest.approx(np.log(64 / mel_bins), abs=0.15)  # triangles narrower by this much


@pytest.mark.parametrize("kind", ["linear", "fbank", "mfcc"])
@pytest.mark.parametrize("samples", [320, 479, 480, 481, 8000, 16001])
def test_frame_count_and_size_are_those_of_the_features(kind, samples):
    settings = FeatureSettings(kind=kind)
    noise = np.random.default_rng(0).normal(0, 0.1, samples).astype(np.float32)
    assert extract(noise, settings).shape == (frame_count(samples, settings), feature_size(settings))


def test_frame_count_of_the_original():
    counts = [frame_count(n, LINEAR) for n in (319, 480, 8000, 16000, 400480)]
    assert counts == [0, 2, 49, 99, 2502]
    assert all(type(count) is int for count in counts)


@pytest.mark.parametrize("kind", ["linear", "mfcc"])
def test_frames_are_counted_for_arrays_too(kind):
    settings, samples = FeatureSettings(kind=kind), np.array([[0, 319, 320], [321, 480, 8000]], np.uint32)
    expected = [[frame_count(int(n), settings) for n in row] for row in samples]
    np.testing.assert_array_equal(frame_count(samples, settings), expected)


def test_silence_and_less_than_a_window_are_refused():
    with pytest.raises(FeatureError, match="silence"):
        extract(np.zeros(1000, np.float32), LINEAR)
    with pytest.raises(FeatureError, match="window of 320"):
        extract(np.ones(319, np.float32), LINEAR)
    silent = extract(np.zeros(320, np.float32), FeatureSettings(normalise_db=False))  # a pause in a stream is no error
    np.testing.assert_allclose(silent, np.log(1e-14), rtol=1e-6)


@pytest.mark.parametrize("samples", [np.full(400, np.nan, np.float32), np.ones((400, 2), np.float32)])
def test_samples_that_are_not_finite_or_not_mono_are_refused(samples):
    with pytest.raises(FeatureError, match=r"not finite|not one channel"):
        extract(samples, LINEAR)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kind", "cepstrum"),
        ("stride_ms", 30.0),
        ("max_freq_hz", 9000.0),
        ("mel_bins", 0),
        ("cepstra", 27),
        ("sample_rate_hz", 0),
    ],
)
def test_settings_that_cannot_be_are_named(field, value):
    with pytest.raises(ValueError, match=f"config.features.{field}"):
        FeatureSettings(**{field: value})


def test_more_mel_filters_than_the_window_resolves_are_refused():
    with pytest.raises(ValueError, match=r"config\.features\.mel_bins is 1000"):
        FeatureSettings(kind="fbank", mel_bins=1000)


def test_a_source_rate_leaves_nothing_above_half_of_it_and_the_rest_as_it_is():
    """Noise of all frequencies; the model's rate stays 16 kHz, so bin b is at 50 b Hz."""
    samples = np.random.default_rng(0).normal(0, 0.1, 16001).astype(np.float32)
    settings = FeatureSettings(source_rate_hz=8000, normalise_db=False)
    narrow, wide = extract(samples, settings), extract(samples, FeatureSettings(normalise_db=False))
    assert narrow.shape == wide.shape
    np.testing.assert_allclose(narrow[1:-1, :70], wide[1:-1, :70], atol=0.1)
    assert narrow[3:-3, 90:].max() < -29 < wide[:, 90:].mean()  # ln of the floor is -32.2


def test_recordings_of_the_source_rate_keep_their_band():
    samples = np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32)
    telephone = audio.from_array(samples, 8000, 16000)
    again = extract(telephone, FeatureSettings(source_rate_hz=8000))
    np.testing.assert_allclose(again[1:-1, :70], extract(telephone, LINEAR)[1:-1, :70], atol=0.2)


@pytest.mark.parametrize("rate", [16000, 24000, 10, -8000])
def test_a_source_rate_that_is_not_lower_is_refused(rate):
    with pytest.raises(ValueError, match=f"source_rate_hz is {rate}: use 0, or a rate below"):
        FeatureSettings(source_rate_hz=rate)


def test_log1p_is_that_of_deepspeech_pytorch_written_out():
    """Librosa's centred transform with a periodic Hamming window, then torch.log1p, mean and unbiased std of all values."""
    samples = np.random.default_rng(0).normal(0, 0.1, 1000).astype(np.float32)
    settings = FeatureSettings(kind="log1p", normalise_db=False)
    padded = np.pad(samples.astype(np.float64), 160, mode="reflect")
    window = 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(320) / 320)
    frames = [padded[160 * t : 160 * t + 320] * window for t in range(1 + 1000 // 160)]
    expected = np.log1p(np.abs(np.fft.rfft(frames)))
    features = extract(samples, settings)
    assert features.shape == (frame_count(1000, settings), feature_size(settings)) == (7, 161)
    np.testing.assert_allclose(features, expected, atol=1e-5)
    normalised = (expected - expected.mean()) / expected.std(ddof=1)
    np.testing.assert_allclose(normalise(features, "clip", None), normalised, atol=1e-4)


@pytest.mark.parametrize("samples", [320, 321, 479, 480, 16000])
def test_log1p_has_the_stated_number_of_frames(samples):
    settings = FeatureSettings(kind="log1p", normalise_db=False)
    features = extract(np.random.default_rng(0).normal(0, 0.1, samples).astype(np.float32), settings)
    assert len(features) == frame_count(samples, settings) == 1 + samples // 160
    assert frame_count(np.array([319, samples]), settings).tolist() == [0, len(features)]


def test_a_running_level_rises_within_a_tenth_of_a_second_and_falls_within_its_own_time():
    """Of constant samples, the power of a window is their square, and the level approaches it by a share in each frame."""
    settings = FeatureSettings(kind="fbank", window_ms=20.0, stride_ms=10.0, level_s=0.5)
    loud, soft = 0.04, 0.0009
    samples = np.sqrt(np.repeat([loud, soft], 16000)).astype(np.float32)
    gains, last = running_gains(samples, settings)
    least = 10 ** (-20 / 10) / 10 ** (30 / 10)  # of a gain of 30 dB to -20 dB
    frames = np.arange(1, 100)
    rising = loud + (least - loud) * (1 - 0.01 / 0.1) ** frames
    np.testing.assert_allclose(0.01 / gains[:99], rising, rtol=1e-5)
    mixed = (loud + soft) / 2  # the window over the edge
    at_edge = rising[-1] + 0.01 / 0.5 * (mixed - rising[-1])
    falling = soft + (at_edge - soft) * (1 - 0.01 / 0.5) ** np.arange(1, 100)
    np.testing.assert_allclose(0.01 / gains[100:], falling, rtol=1e-5)
    assert last == pytest.approx(falling[-1], rel=1e-5)
    later, _ = running_gains(samples[:320], settings, level=last)
    assert 0.01 / later[0] == pytest.approx(last + 0.1 * (loud - last), rel=1e-5)


def test_silence_has_the_greatest_running_gain_and_no_more():
    settings = FeatureSettings(kind="fbank", level_s=0.5)
    gains, last = running_gains(np.zeros(3200, np.float32), settings)
    np.testing.assert_allclose(gains, 1000, rtol=1e-6)  # 30 dB of power
    assert last == pytest.approx(1e-5)
