"""The network piece by piece: the same logits as at once."""

import functools
from typing import Any

import jax
import numpy as np
import pytest

from ds2_jax.network.model import DeepSpeech2, ModelSettings, init_variables
from ds2_jax.network.stream import ENDLESS, Chunking, StreamingDeepSpeech2, initial_state

FEATURES, SYMBOLS, TOLERANCE = 20, 7, 1e-4
SMALL: dict[str, Any] = {"conv": "11x21/3x2:8, 7x11/1x2:8", "rnn_size": 16, "rnn_layers": 2}
NETWORKS: list[dict[str, Any]] = [
    {"bidirectional": False, "lookahead": 5, "lookahead_clip": True},
    {"bidirectional": False, "cell": "lstm"},
    {"bidirectional": False, "cell": "rnn", "lookahead": 2, "conv": "11x21/3x2:8, 7x11/2x2:8"},
    {"bidirectional": False, "conv": "1x5/1x2:4", "lookahead": 1},
    {"cell": "gru"},
    {"cell": "gru_relu", "norm": "projection"},
    {"cell": "lstm", "merge": "concat", "conv": "5x5/2x2:4"},
    {"cell": "rnn", "share_input": True, "conv": "3x5/3x2:4, 5x5/1x2:4, 3x5/2x1:4"},
]


def variables_of(model: DeepSpeech2) -> dict:
    """Draw parameters, and batch statistics that are not those of the start."""
    rng = np.random.default_rng(1)
    variables = init_variables(model, FEATURES, 0)
    return jax.tree.map(
        lambda array: array + np.abs(0.05 * rng.standard_normal(array.shape)).astype(np.float32), variables
    )


def stream(chunking: Chunking, variables: dict, features: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """Compute logits [B, U, K] step by step; what follows a row's end is noise."""
    batch, length, _ = features.shape
    network = StreamingDeepSpeech2(chunking, SYMBOLS)
    step = jax.jit(functools.partial(network.apply, variables))
    state, outputs = initial_state(chunking, batch), int(max(chunking.settings.output_frames(frames)))
    logits = np.zeros((batch, outputs, SYMBOLS), np.float32)
    window = np.full((batch, chunking.window, FEATURES), 77.0, np.float32)
    for number in range(-(-(outputs + chunking.delay) // chunking.chunk)):
        seen = (number + 1) * chunking.frames
        new = np.full((batch, chunking.frames, FEATURES), 99.0, np.float32)
        part = features[:, seen - chunking.frames : min(seen, length)]
        new[:, : part.shape[1]] = part
        window = np.concatenate([window, new], axis=1)[:, chunking.frames :]
        totals = np.where(frames <= seen, frames, ENDLESS).astype(np.int32)
        got, state = step(window, np.full(batch, number, np.int32), totals, state)
        first = number * chunking.chunk - chunking.delay
        for offset in range(chunking.chunk):
            if 0 <= first + offset < outputs:
                logits[:, first + offset] = got[:, offset]
    return logits


@pytest.mark.parametrize(
    ("changes", "length", "chunk"), [(n, 53, 3) for n in NETWORKS] + [(n, 7, 1) for n in NETWORKS[:2]], ids=str
)
def test_pieces_give_the_logits_of_the_whole_utterance(changes, length, chunk):
    """A bidirectional network gets right context beyond the end; rows have different lengths."""
    settings = ModelSettings(**{**SMALL, **changes})
    model = DeepSpeech2(settings, SYMBOLS)
    variables = variables_of(model)
    features = np.random.default_rng(2).standard_normal((2, length, FEATURES)).astype(np.float32)
    frames = np.array([length, max(length - 11, 1)])
    whole = jax.jit(functools.partial(model.apply, train=False))
    expected, lengths = map(np.asarray, whole(variables, features, frames))
    assert np.std(expected[0], axis=0).max() > 0.01
    right = int(settings.output_frames(length)) + 1 if settings.bidirectional else 0
    actual = stream(Chunking(settings, chunk, right), variables, features, frames)
    for row in range(2):
        np.testing.assert_allclose(actual[row, : lengths[row]], expected[row, : lengths[row]], atol=TOLERANCE, rtol=0)


@pytest.mark.slow
def test_more_right_context_brings_a_bidirectional_network_closer_to_the_whole_utterance():
    settings = ModelSettings(**SMALL)
    model = DeepSpeech2(settings, SYMBOLS)
    variables = variables_of(model)
    features = np.random.default_rng(3).standard_normal((1, 120, FEATURES)).astype(np.float32)
    frames = np.array([120])
    expected, _ = model.apply(variables, features, frames, train=False)
    errors = [
        np.abs(stream(Chunking(settings, 4, right), variables, features, frames) - expected).mean()
        for right in (0, 4, 12)
    ]
    assert errors[0] > 1.5 * errors[1] > 3 * errors[2] > 0


def test_the_look_ahead_is_the_stated_one():
    """A change of the first frame beyond it changes nothing; one of its last frame does."""
    settings = ModelSettings(**SMALL, bidirectional=False, lookahead=5)
    model, chunking = DeepSpeech2(settings, SYMBOLS), Chunking(settings, 4)
    assert chunking.lookahead_frames == 5 * 3 + 5 + 3 * 3
    variables = variables_of(model)
    features = np.random.default_rng(4).standard_normal((1, 100, FEATURES)).astype(np.float32)

    def output(changed: int, frame: int = 10) -> np.ndarray:
        other = features.copy()
        other[0, changed] += 10
        return model.apply(variables, other, np.array([100]), train=False)[0][0, frame]

    last = 10 * settings.time_stride + chunking.lookahead_frames
    unchanged = model.apply(variables, features, np.array([100]), train=False)[0][0, 10]
    np.testing.assert_array_equal(output(last + 1), unchanged)
    assert np.abs(output(last) - unchanged).max() > 0


def test_look_ahead_needs_one_direction():
    with pytest.raises(ValueError, match=r"config\.model\.lookahead is 3: use 0 for a bidirectional network"):
        ModelSettings(lookahead=3)
    with pytest.raises(ValueError, match=r"config\.model\.lookahead is -1"):
        ModelSettings(lookahead=-1, bidirectional=False)
