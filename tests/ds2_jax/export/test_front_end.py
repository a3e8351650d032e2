import numpy as np
import pytest

from ds2_jax.export.front_end import add_front_end
from ds2_jax.export.graph import Graph
from input_pipeline import audio
from input_pipeline.audio.features import FeatureSettings, extract
from input_pipeline.audio.front_end import FeatureStats, FrontEnd
from tests.conftest import CLIPS
from tests.ds2_jax.export.networks import open_session

TOLERANCE = 5e-5  # of normalised features, with a standard deviation of 1
SETTINGS = [
    {"kind": "linear"},
    {"kind": "linear", "max_freq_hz": 4000.0, "normalise_db": False},
    {"kind": "fbank"},
    {"kind": "fbank", "mel_bins": 80, "window_ms": 25.0},
    {"kind": "fbank", "target_db": -30.0, "stride_ms": 12.5},
    {"kind": "fbank", "level_s": 10.0},
    {"kind": "fbank", "level_s": 0.05},
    {"kind": "linear", "level_s": 1.0, "sample_rate_hz": 8000},
    {"kind": "linear", "sample_rate_hz": 11025, "window_ms": 21.0},  # an odd number of samples
    {"kind": "mfcc"},
    {"kind": "mfcc", "cepstra": 7, "stride_ms": 7.5, "max_freq_hz": 5000.0},
    {"kind": "mfcc", "sample_rate_hz": 8000, "normalise_db": False},
    {"kind": "sherpa", "window_ms": 25.0, "mel_bins": 80},
    {
        "kind": "sherpa",
        "window_ms": 20.1,
        "stride_ms": 7.5,
        "mel_bins": 40,
        "max_freq_hz": 5000.0,
    },  # an odd number of samples
]


def run(front_end: FrontEnd, clips: list[np.ndarray]) -> list[np.ndarray]:
    """Return the features of each clip, computed by onnxruntime as one batch."""
    graph = Graph()
    samples = graph.input("samples", np.float32, ("batch", "samples"))
    frames = add_front_end(graph, front_end, samples, graph.input("lengths", np.int32, ("batch",)))
    graph.output("features", frames.values, np.float32, ("batch", "frames", front_end.size))
    graph.output("frames", frames.lengths, np.int32, ("batch",))
    lengths = np.array([len(clip) for clip in clips], np.int32)
    batch = np.ones((len(clips), lengths.max()), np.float32)  # what fills rows must not matter
    for row, clip in enumerate(clips):
        batch[row, : len(clip)] = clip
    session = open_session(graph.model("front_end", 11, {}).SerializeToString())
    features, frames = session.run(None, {"samples": batch, "lengths": lengths})
    for row, count in enumerate(frames):
        assert not features[row, count:].any()
    return [features[row, :count] for row, count in enumerate(frames)]


def read_clips(rate_hz: int, window: int, stride: int = 160) -> list[np.ndarray]:
    """Return clips of different lengths: a window, a sample more, and a sample less and as many as a second one needs."""
    clips = [audio.read(str(path), rate_hz)[0] for path in sorted(CLIPS.glob("*.flac"))[:3]]
    return [*clips, *(clips[0][4000 : 4000 + window + more] for more in (0, 1, stride - 1, stride))]


@pytest.mark.parametrize("normalisation", ["corpus", "utterance", "none"])
@pytest.mark.parametrize("values", SETTINGS, ids=str)
def test_features_are_those_of_training(values, normalisation):
    settings = FeatureSettings(**values)
    clips = read_clips(settings.sample_rate_hz, settings.window_samples, settings.stride_samples)
    features = extract(clips[0], settings)
    stats = FeatureStats(features.mean(0), features.std(0) + np.float32(0.1))
    front_end = FrontEnd(settings, normalisation, stats)
    for clip, theirs in zip(clips, run(front_end, clips), strict=True):
        ours = front_end(clip)
        if normalisation == "utterance" and len(ours) == 1:
            continue  # a deviation of 0 is a matter of rounding
        np.testing.assert_allclose(theirs, ours, atol=TOLERANCE, rtol=1e-4)


@pytest.mark.parametrize("kind", ["linear", "fbank", "mfcc"])
def test_a_clip_shorter_than_a_window_has_no_frames(kind):
    front_end = FrontEnd(FeatureSettings(kind=kind), "none")
    clip = read_clips(16000, 320)[0]
    rows = run(front_end, [clip, clip[:319], clip[:0]])
    assert [len(row) for row in rows] == [len(front_end(clip)), 0, 0]
    assert [len(row) for row in run(front_end, [clip[:10]])] == [0]


@pytest.mark.parametrize("level", [{}, {"normalise_db": False}, {"level_s": 10.0}], ids=str)
def test_digital_silence_gives_finite_numbers(level):
    front_end = FrontEnd(FeatureSettings(kind="fbank", **level), "none")
    assert np.isfinite(run(front_end, [np.zeros(8000, np.float32)])[0]).all()


def test_silence_and_a_click_follow_the_level_like_training():
    settings = FeatureSettings(kind="fbank", level_s=0.5)
    clip = np.zeros(16000, np.float32)
    clip[6000:6400] = 0.9
    [theirs] = run(FrontEnd(settings, "none"), [clip])
    np.testing.assert_allclose(theirs, extract(clip, settings), atol=TOLERANCE, rtol=1e-4)
