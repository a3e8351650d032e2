"""Audio in pieces of any size: the frames of the whole clip."""

import numpy as np
import pytest
import soxr

from input_pipeline.audio import AudioError
from input_pipeline.audio.features import FeatureError, FeatureSettings, extract
from input_pipeline.audio.frames import FrameStream, Resampler

RNG = np.random.default_rng(0)


def cut(samples: np.ndarray, sizes) -> list[np.ndarray]:
    """Cut samples into pieces of the given sizes, repeated to the end."""
    pieces, start, number = [], 0, 0
    while start < len(samples):
        size = sizes[number % len(sizes)]
        pieces.append(samples[start : start + size])
        start, number = start + size, number + 1
    return pieces


@pytest.mark.parametrize("kind", ["linear", "fbank"])
@pytest.mark.parametrize("level", [{"normalise_db": False}, {"level_s": 3.0}], ids=str)
@pytest.mark.parametrize("sizes", [[1], [100, 0, 7], [160], [5000]], ids=str)
@pytest.mark.parametrize("count", [1, 12])
def test_frames_in_pieces_are_those_of_the_whole_clip(kind, level, sizes, count):
    settings = FeatureSettings(kind=kind, mel_bins=20, **level)
    samples = (RNG.standard_normal(4321) * np.linspace(0.001, 0.3, 4321)).astype(np.float32)
    stream, frames = FrameStream(settings), []
    for piece in cut(samples, sizes):
        stream.feed(piece)
        while stream.ready >= count:
            frames.append(stream.take(count))
    frames.append(stream.take(stream.ready))
    np.testing.assert_allclose(np.concatenate(frames), extract(samples, settings), atol=1e-4)


def test_samples_of_the_last_frames_are_kept():
    settings = FeatureSettings(kind="fbank", mel_bins=20, normalise_db=False)
    samples = RNG.standard_normal(8000).astype(np.float32)
    stream = FrameStream(settings, kept=10)
    for piece in cut(samples, [700]):
        stream.feed(piece)
        stream.take(3)
    assert stream.taken > 20
    first = stream.taken - 10
    rest = stream.divide(first)
    np.testing.assert_allclose(rest.take(rest.ready), extract(samples, settings)[first:], atol=1e-4)
    assert len(stream._samples) < 8000 - 160 * (stream.taken - 12)


def test_the_gain_is_that_of_the_whole_clip_after_its_last_sample():
    settings = FeatureSettings(kind="fbank", mel_bins=20)
    samples = (0.01 * RNG.standard_normal(3000)).astype(np.float32)
    stream = FrameStream(settings)
    for piece in cut(samples, [700]):
        stream.feed(piece)
    expected = extract(samples, settings)
    np.testing.assert_allclose(stream.take(stream.ready) + np.log(stream.gain), expected, atol=1e-4)


def test_a_running_level_is_the_same_for_any_recording_level_once_it_is_reached():
    settings = FeatureSettings(kind="fbank", mel_bins=20, level_s=0.5)
    samples = RNG.standard_normal(16000).astype(np.float32)
    loud, soft = extract(0.3 * samples, settings), extract(0.02 * samples, settings)
    assert np.abs(loud[-20:] - soft[-20:]).max() < 0.2
    later = samples.copy()
    later[8000:] *= 10  # of which nothing is known before
    np.testing.assert_array_equal(extract(0.3 * later, settings)[:48], loud[:48])


def test_features_that_streams_cannot_have_are_refused():
    with pytest.raises(FeatureError, match="log1p needs the audio that follows a frame"):
        FrameStream(FeatureSettings(kind="log1p"))
    with pytest.raises(FeatureError, match="sherpa needs the audio that follows a frame"):
        FrameStream(FeatureSettings(kind="sherpa", window_ms=25.0))
    with pytest.raises(FeatureError, match="source_rate_hz resamples whole clips"):
        FrameStream(FeatureSettings(source_rate_hz=8000))
    with pytest.raises(FeatureError, match="mfcc needs the audio that follows a frame"):
        FrameStream(FeatureSettings(kind="mfcc"))
    with pytest.raises(ValueError, match=r"config\.features\.level_s is 1.0: use 0 with mfcc"):
        FeatureSettings(kind="mfcc", level_s=1.0)


@pytest.mark.parametrize("rate_hz", [8000, 24000, 44100, 48000])
def test_resampled_pieces_are_the_resampled_clip(rate_hz):
    time = np.arange(rate_hz) / rate_hz
    samples = (0.5 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    resampler = Resampler(rate_hz, 16000)
    parts = [resampler.feed(piece) for piece in cut(samples, [333, 1000])]
    actual = np.concatenate([*parts, resampler.feed(np.zeros(0, np.float32), last=True)])
    expected = soxr.resample(samples, rate_hz, 16000, quality="HQ")
    assert abs(len(actual) - len(expected)) <= 1
    shared = min(len(actual), len(expected))
    np.testing.assert_allclose(actual[200 : shared - 200], expected[200 : shared - 200], atol=1e-3)


def test_integers_and_channels_are_mono_at_full_scale():
    same = Resampler(16000, 16000)
    np.testing.assert_allclose(same.feed(np.array([16384, -32768], np.int16)), [0.5, -1.0])
    np.testing.assert_allclose(same.feed(np.array([[1 << 30, 0]], np.int32)), [0.25])
    assert same.feed(np.zeros((0, 2), np.float32)).shape == (0,)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.array([0.0, np.nan]), "not finite"),
        (np.zeros((2, 2, 2)), r"shape \(2, 2, 2\)"),
        (np.array(["a"]), "type <U1"),
        (np.zeros(3, np.uint8), "type uint8"),
    ],
)
def test_other_arrays_are_refused(samples, message):
    with pytest.raises(AudioError, match=message):
        Resampler(16000, 16000).feed(samples)


@pytest.mark.parametrize("rate_hz", [0, -8000, 2.5, True, 10**9])
def test_impossible_rates_are_refused(rate_hz):
    with pytest.raises(AudioError, match="the sample rate is"):
        Resampler(rate_hz, 16000)
