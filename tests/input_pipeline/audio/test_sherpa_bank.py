"""The filter bank of sherpa-onnx against its definition, written out sample by sample."""

import math

import numpy as np
import pytest

from input_pipeline.audio.features import FeatureSettings, extract, feature_size, frame_count

SETTINGS = FeatureSettings(kind="sherpa", window_ms=25, mel_bins=80, normalise_db=False)
TOLERANCE = 1e-3  # of logarithms, for sums in float32


def hertz_of(mel: float) -> float:
    """Return the frequency of a place on the scale: 15 steps of 200 / 3 Hz, then 27 steps from 1000 to 6400 Hz, and so on."""
    return mel * 200 / 3 if mel < 15 else 1000 * math.exp((mel - 15) * math.log(6.4) / 27)


def energies(samples: list[float], frame: int) -> list[float]:
    """Compute one frame (16 kHz, 25 and 10 ms, 80 filters)."""
    window = []
    for position in range(160 * frame + 80 - 200, 160 * frame + 80 + 200):
        while not 0 <= position < len(samples):
            position = -position - 1 if position < 0 else 2 * len(samples) - 1 - position
        window.append(samples[position])
    window = [sample - 0.97 * window[max(n - 1, 0)] for n, sample in enumerate(window)]
    window = [sample * (0.5 - 0.5 * math.cos(2 * math.pi * n / 400)) for n, sample in enumerate(window)]
    power = np.abs(np.fft.rfft(window, 512)) ** 2
    highest = 15 + math.log(8) * 27 / math.log(6.4)
    edges = [hertz_of(highest * number / 81) for number in range(82)]
    result = []
    for left, centre, right in zip(edges, edges[1:], edges[2:], strict=False):
        energy = 0.0
        for place in range(257):
            hertz = place * 16000 / 512
            if left < hertz < right:
                height = (hertz - left) / (centre - left) if hertz <= centre else (right - hertz) / (right - centre)
                energy += power[place] * height * 2 / (right - left)
        result.append(math.log(max(energy, 1.1920929e-07)))
    return result


@pytest.mark.parametrize("count", [400, 1000, 1039, 1040, 16123])
def test_features_are_those_of_the_definition(count):
    samples = np.random.default_rng(0).normal(0.01, 0.1, count).astype(np.float32)
    features = extract(samples, SETTINGS)
    assert features.shape == (frame_count(count, SETTINGS), feature_size(SETTINGS)) == ((count + 80) // 160, 80)
    for frame in {0, 1, len(features) // 2, len(features) - 2, len(features) - 1}:
        np.testing.assert_allclose(features[frame], energies(samples.tolist(), frame), atol=TOLERANCE)


def test_silence_has_the_least_energy_and_less_than_a_window_no_frames():
    assert np.unique(extract(np.zeros(800, np.float32), SETTINGS)).tolist() == [pytest.approx(-15.9424, abs=1e-4)]
    assert frame_count(np.array([399, 400]), SETTINGS).tolist() == [0, 3]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mel_bins": 200}, "mel_bins is 200: the filters are too narrow"),
        ({"level_s": 5.0}, "level_s is 5.0: use 0 with sherpa"),
    ],
)
def test_impossible_settings_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        FeatureSettings(**{"kind": "sherpa", "window_ms": 25.0, **values})
