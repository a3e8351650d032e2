import numpy as np
import onnx
import pytest

from ds2_jax.export.onnx_model import build, build_sherpa
from ds2_jax.export.sherpa import obstacle_to
from input_pipeline import audio
from tests.conftest import CLIPS
from tests.ds2_jax.export.networks import log_probs, open_session, random_variables, run_onnx, small_meta

TOLERANCE = 1e-4  # of natural-log probabilities
NETWORKS = [
    {"cell": "rnn"},
    {"cell": "rnn", "share_input": True, "merge": "concat", "activation_clip": 0.5},
    {"cell": "rnn", "bidirectional": False},
    {"cell": "gru"},
    {"cell": "gru", "merge": "concat"},
    {"cell": "gru", "bidirectional": False, "lookahead": 3},
    {"cell": "lstm"},
    {"cell": "lstm", "share_input": True, "merge": "concat"},
    {"cell": "lstm", "bidirectional": False, "conv": "3x5/1x1:3"},
    {"cell": "gru_relu", "norm": "projection", "merge": "concat"},
    {"cell": "rnn", "norm": "projection", "share_input": True},
    {"cell": "gru", "bidirectional": False, "lookahead": 2, "lookahead_clip": True},
]


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    """Three clips of different lengths, of one to one and a half seconds."""
    paths = sorted(CLIPS.glob("*.flac"))[:3]
    return [audio.read(str(path), 16000)[0][: 16000 + 4000 * i] for i, path in enumerate(paths)]


@pytest.mark.parametrize("model", NETWORKS, ids=str)
def test_log_probabilities_are_those_of_jax_alone_and_in_a_batch(model, clips):
    meta = small_meta(model)
    variables = random_variables(meta)
    session = open_session(build(meta, variables, "float32").SerializeToString())
    together, alone = run_onnx(session, clips), [run_onnx(session, [clip])[0] for clip in clips]
    for ours, row, single in zip(log_probs(meta, variables, clips), together, alone, strict=True):
        assert np.ptp(ours, axis=0).max() > 0.1  # the network reacts to the clip
        np.testing.assert_allclose(row, ours, atol=TOLERANCE)
        np.testing.assert_allclose(single, ours, atol=TOLERANCE)


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize(("kind", "tolerance"), [("float16", 0.01), ("int8", 0.25)])
def test_smaller_weights_give_similar_log_probabilities(cell, kind, tolerance, clips):
    meta = small_meta({"cell": cell})
    variables = random_variables(meta)
    exact, small = (open_session(build(meta, variables, k).SerializeToString()) for k in ("float32", kind))
    for expected, row in zip(run_onnx(exact, clips), run_onnx(small, clips), strict=True):
        np.testing.assert_allclose(row, expected, atol=tolerance)


def test_features_without_a_form_in_onnx_are_refused():
    meta = small_meta(features={"source_rate_hz": 8000})
    with pytest.raises(ValueError, match="resamples audio to 8000 Hz"):
        build(meta, random_variables(meta), "float32")
    meta = small_meta(features={"kind": "log1p"}, normalisation="clip")
    with pytest.raises(ValueError, match="log1p, normalisation clip"):
        build(meta, random_variables(meta), "float32")


def test_rows_without_frames_change_no_other(clips):
    meta = small_meta()
    session = open_session(build(meta, random_variables(meta), "float32").SerializeToString())
    whole = run_onnx(session, clips[:1])[0]
    rows = run_onnx(session, [clips[0], clips[0][:319], clips[0][:0]])
    assert [len(row) for row in rows[1:]] == [0, 0]
    np.testing.assert_allclose(rows[0], whole, atol=1e-5)
    assert len(run_onnx(session, [clips[0][:10]])[0]) == 0


@pytest.mark.parametrize(("kind", "opset"), [("float32", 11), ("float16", 11), ("int8", 13)])
def test_files_need_old_operators_and_no_loops(kind, opset):
    meta = small_meta()
    model = onnx.load_from_string(build(meta, random_variables(meta), kind).SerializeToString())
    assert [(o.domain, o.version) for o in model.opset_import] == [("", opset)]
    assert not {"Loop", "Scan", "If"} & {node.op_type for node in model.graph.node}


@pytest.mark.parametrize(
    ("cell", "quantised"),
    [
        ("gru", {"DequantizeLinear": 4, "MatMulInteger": 1, "ConvInteger": 2}),
        ("lstm", {"DynamicQuantizeLSTM": 2, "MatMulInteger": 1, "ConvInteger": 2}),
    ],
)
def test_int8_keeps_no_large_matrix_in_another_type(cell, quantised):
    meta = small_meta({"cell": cell})
    model = build(meta, random_variables(meta), "int8")
    operators = [node.op_type for node in model.graph.node]
    assert {name: operators.count(name) for name in quantised} == quantised
    # of the network: the convolution of the front end has one input channel and a window's taps
    large = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT and len(t.dims) > 2]
    assert [t.dims[1] for t in large if t.dims[1] > 1] == []


def test_the_form_for_sherpa_repeats_frames_on_a_grid_of_20_ms(clips):
    meta = small_meta()
    variables = random_variables(meta)
    ours = run_onnx(open_session(build(meta, variables, "float32").SerializeToString()), clips[:1])[0]
    session = open_session(build_sherpa(meta, variables, "float32").SerializeToString())
    [theirs] = session.run(None, {"samples": 3 * clips[0][None]})  # of any level
    times = np.arange(theirs.shape[1]) * 0.02
    assert len(times) == -(-len(ours) * 3 // 2)
    np.testing.assert_allclose(theirs[0], ours[np.floor(times / 0.03 + 1e-6).astype(int)], atol=TOLERANCE)


@pytest.mark.parametrize(
    ("model", "features", "reason"),
    [
        ({}, {"sample_rate_hz": 8000}, "8000 Hz"),
        ({}, {"normalise_db": False}, "normalises the level"),
        ({}, {"level_s": 10.0}, "normalises the level"),
        ({"conv": "3x5/1x1:3"}, {}, "output frames of 10 ms"),
    ],
)
def test_a_model_that_sherpa_cannot_run_is_refused_with_the_reason(model, features, reason):
    meta = small_meta(model, features)
    assert reason in obstacle_to(meta)
    with pytest.raises(ValueError, match=reason):
        build_sherpa(meta, random_variables(meta), "float32")
