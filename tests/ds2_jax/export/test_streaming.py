import numpy as np
import onnxruntime
import pytest

from ds2_jax.artifacts.bundle import ModelMeta
from ds2_jax.export.sherpa import STREAM_FEATURES
from ds2_jax.export.streaming import CHUNK, Reach, build_streaming
from input_pipeline import audio
from tests.conftest import CLIPS
from tests.ds2_jax.export.networks import log_probs, open_session, random_variables, small_meta

TOLERANCE = 1e-4  # of natural-log probabilities
NETWORKS = [
    {"cell": "gru"},
    {"cell": "gru", "lookahead": 3},
    {"cell": "gru", "lookahead": 2, "lookahead_clip": True, "conv": "3x5/1x1:3, 1x3/4x2:2"},
    {"cell": "gru_relu", "norm": "projection"},
    {"cell": "lstm", "rnn_layers": 3},
    {"cell": "lstm", "lookahead": 1},
    {"cell": "rnn", "activation_clip": 0.5},
    {"cell": "gru", "conv": "11x5/2x1:3, 9x3/2x2:2, 5x3/1x1:2"},
]


def streaming_meta(**model) -> ModelMeta:
    """Describe a network that the engine can stream."""
    network = {"bidirectional": False, "conv": "5x7/4x3:4, 3x3/1x2:6", **model}
    return small_meta(network, {**STREAM_FEATURES, "mel_bins": 20, "normalise_db": False})


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    """Two clips of different lengths."""
    return [
        audio.read(str(path), 16000)[0][:length]
        for path, length in zip(sorted(CLIPS.glob("*.flac")), (22000, 19000), strict=False)
    ]


def run(session: onnxruntime.InferenceSession, meta: ModelMeta, features: np.ndarray) -> np.ndarray:
    """Return the log probabilities [B, U, K] of features [B, T, F], window by window, as the engine does."""
    facts = session.get_modelmeta().custom_metadata_map
    window, shift = int(facts["window_size"]), int(facts["chunk_shift"])
    shapes = {
        name: [len(features), *(int(facts[f"{name}_dim{i}"]) for i in (1, 2, 3))]
        for name in ("cache_last_channel", "cache_last_time")
    }
    caches = [np.zeros(shape, np.float32) for shape in shapes.values()] + [np.zeros(len(features), np.int64)]
    names = [value.name for value in session.get_inputs()]
    outputs = []
    for start in range(0, features.shape[1] - window + 1, shift):
        signal = features[:, start : start + window].transpose(0, 2, 1)
        length = np.full(len(features), window, np.int64)
        output, _, *caches = session.run(None, dict(zip(names, [signal, length, *caches], strict=True)))
        outputs.append(output)
    return np.concatenate(outputs, axis=1)


@pytest.mark.parametrize("model", NETWORKS, ids=str)
def test_window_by_window_the_log_probabilities_are_those_of_the_whole_clip(model, clips):
    meta = streaming_meta(**model)
    variables = random_variables(meta)
    session = open_session(build_streaming(meta, variables).SerializeToString())
    raw = ModelMeta(meta.model, meta.features, "none", None, meta.vocabulary, "en").front_end
    shortest = min(len(raw(clip)) for clip in clips)
    together = run(session, meta, np.stack([raw(clip)[:shortest] for clip in clips]))
    for clip, row, whole in zip(clips, together, log_probs(meta, variables, clips), strict=True):
        streamed = run(session, meta, raw(clip)[None])[0]
        assert len(streamed) % CHUNK == 0
        assert len(whole) - 2 * CHUNK - 8 < len(streamed) < len(whole)
        assert np.ptp(whole, axis=0).max() > 0.1  # the network reacts to the clip
        np.testing.assert_allclose(streamed, whole[: len(streamed)], atol=TOLERANCE)
        np.testing.assert_allclose(row, whole[: len(row)], atol=TOLERANCE)


def test_a_run_reads_no_more_than_it_needs():
    reach = Reach(streaming_meta(conv="11x5/4x1:3, 9x3/1x2:2", lookahead=2).model)
    assert reach.shift == 4 * CHUNK
    assert reach.ranges == [(-21, 4 * (CHUNK + 2 + 4 - 1) + 6), (-4, CHUNK + 2 + 4), (0, CHUNK + 2)]
    assert (reach.window, reach.kept) == (4 * (CHUNK + 5) + 6, 21)


@pytest.mark.parametrize(
    ("model", "features", "reason"),
    [
        ({"bidirectional": True}, {}, "bidirectional"),
        ({"conv": "5x7/3x3:4"}, {}, "output frames have 30 ms, the engine takes them as 40"),
        ({}, {"kind": "fbank"}, "features.kind is 'fbank'"),
        ({}, {"window_ms": 20.0}, "features.window_ms is 20.0"),
        ({}, {"sample_rate_hz": 8000}, "features.sample_rate_hz is 8000"),
        ({}, {"normalise_db": True}, "normalises the level"),
    ],
)
def test_a_model_that_the_engine_cannot_stream_is_refused_with_the_reason(model, features, reason):
    network = {"bidirectional": False, "conv": "5x7/4x3:4", **model}
    meta = small_meta(network, {**STREAM_FEATURES, "mel_bins": 20, "normalise_db": False, **features})
    with pytest.raises(ValueError, match=reason):
        build_streaming(meta, random_variables(meta))
