"""Features against the original's published numbers, a slow transform of the formula, and another library."""

import numpy as np
import pytest
from python_speech_features import delta, mfcc

from input_pipeline.features import (
    FeatureError,
    FeatureSettings,
    FeatureStats,
    extract,
    feature_size,
    frame_count,
    normalise,
    normalise_db,
)

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


def test_mfcc_equals_python_speech_features(signal):
    levelled = normalise_db(signal[:7900], -20.0)
    cepstra = mfcc(levelled, 16000, 0.02, 0.01, winfunc=np.ones)
    first = delta(cepstra, 2)
    expected = np.hstack([cepstra, first, delta(first, 2)])
    np.testing.assert_allclose(extract(signal[:7900], FeatureSettings(kind="mfcc")), expected, atol=1e-4)


def test_filter_bank_finds_a_tone_in_its_filter():
    n = np.arange(4000)
    settings = FeatureSettings(kind="fbank", mel_bins=40)
    low, high = (extract(np.sin(2 * np.pi * f * n / 16000).astype(np.float32), settings).mean(0).argmax() for f in (300, 3000))
    assert 0 < low < 12 < high < 32


@pytest.mark.parametrize("kind", ["linear", "fbank", "mfcc"])
@pytest.mark.parametrize("samples", [320, 479, 480, 481, 8000, 16001])
def test_frame_count_and_size_are_those_of_the_features(kind, samples):
    settings = FeatureSettings(kind=kind)
    noise = np.random.default_rng(0).normal(0, 0.1, samples).astype(np.float32)
    assert extract(noise, settings).shape == (frame_count(samples, settings), feature_size(settings))


def test_frame_count_of_the_original():
    assert [int(frame_count(n, LINEAR)) for n in (319, 480, 8000, 16000, 400480)] == [0, 2, 49, 99, 2502]


def test_silence_and_less_than_a_window_are_refused():
    with pytest.raises(FeatureError, match="silence"):
        extract(np.zeros(1000, np.float32), LINEAR)
    with pytest.raises(FeatureError, match="window of 320"):
        extract(np.ones(319, np.float32), LINEAR)


@pytest.mark.parametrize(
    ("field", "value"),
    [("kind", "cepstrum"), ("stride_ms", 30.0), ("max_freq_hz", 9000.0), ("mel_bins", 0), ("cepstra", 27), ("sample_rate_hz", 0)],
)
def test_settings_that_cannot_be_are_named(field, value):
    with pytest.raises(ValueError, match=f"config.features.{field}"):
        FeatureSettings(**{field: value})


def test_more_mel_filters_than_the_window_resolves_are_refused():
    with pytest.raises(ValueError, match="mel_bins"):
        FeatureSettings(kind="fbank", mel_bins=128)


def test_statistics_survive_a_file_and_the_originals_shape_is_read(tmp_path):
    stats = FeatureStats(np.array([1.0, 2.0, 3.0], np.float32), np.array([0.5, 1.0, 2.0], np.float32))
    stats.save(tmp_path / "mean_std.npz")
    with np.load(tmp_path / "mean_std.npz") as file:
        assert file["mean"].shape == (3, 1)
    np.testing.assert_array_equal(FeatureStats.load(tmp_path / "mean_std.npz").std, stats.std)
    features = np.array([[1.0, 2.0, 5.0]], np.float32)
    np.testing.assert_allclose(normalise(features, "corpus", stats), [[0, 0, 1]])


def test_statistics_of_another_size_or_broken_ones_are_refused(tmp_path):
    stats = FeatureStats(np.zeros(3, np.float32), np.ones(3, np.float32))
    with pytest.raises(FeatureError, match="4 features are needed, there are 3"):
        normalise(np.zeros((2, 4), np.float32), "corpus", stats)
    np.savez(tmp_path / "bad.npz", mean=np.zeros(3), std=np.zeros(3))
    with pytest.raises(FeatureError, match=r"bad\.npz"):
        FeatureStats.load(tmp_path / "bad.npz")


def test_normalising_an_utterance_leaves_mean_0_and_std_1():
    features = np.random.default_rng(0).normal(3, 5, (50, 4)).astype(np.float32)
    normal = normalise(features, "utterance", None)
    np.testing.assert_allclose(normal.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(normal.std(0), 1, atol=1e-5)
