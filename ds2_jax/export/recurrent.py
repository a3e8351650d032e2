"""Recurrent layers as ONNX's own GRU, LSTM and RNN, whose gates have another order.

Letters: U frames, D directions, B batch, H hidden units, G gates, X input width.
"""

from dataclasses import dataclass

import numpy as np

from ds2_jax.export.weights import Weights, quantise
from ds2_jax.network.model import ModelSettings

# Operator, and the places of its gates among ours: ONNX's GRU has update, reset, candidate, its LSTM input, output, forget,
# candidate (ds2_jax/network/rnn.py has the order of ours).
OPERATORS = {
    "rnn": ("RNN", (0,)),
    "gru": ("GRU", (1, 0, 2)),
    "lstm": ("LSTM", (0, 3, 1, 2)),
    "gru_relu": ("GRU", (1, 0, 2)),
}


@dataclass(frozen=True)
class LayerWeights:
    """A layer's arrays as ONNX has them: input [D, G * H, X], recurrent [D, G * H, H], bias [D, 2 * G * H]."""

    input: np.ndarray
    recurrent: np.ndarray
    bias: np.ndarray


def arrange(
    settings: ModelSettings, parameters: dict[str, np.ndarray], gain: np.ndarray, shift: np.ndarray
) -> LayerWeights:
    """Return the weights of a layer that normalises: x * gain + shift, of its input x or of the projection, each of its width.

    parameters: input_kernel [X, (1 or D) * G * H], recurrent_kernel [D, H, G * H], bias [D, G * H].
    """
    recurrent = parameters["recurrent_kernel"]
    directions, hidden, columns = recurrent.shape
    order = np.concatenate([np.arange(hidden) + gate * hidden for gate in OPERATORS[settings.cell][1]])
    kernel = parameters["input_kernel"]  # [X, (1 or D) * G * H]
    if settings.norm == "projection":
        kernel = kernel * gain
    else:
        kernel, shift = kernel * gain[:, None], shift @ kernel
    kernel = kernel.reshape(len(kernel), -1, columns)
    kernel = np.broadcast_to(kernel, (len(kernel), directions, columns)).transpose(1, 2, 0)[:, order]  # [D, G * H, X]
    shift = np.broadcast_to(shift.reshape(-1, columns), (directions, columns))[:, order]
    bias = np.concatenate([shift, parameters["bias"][:, order]], axis=1)  # ours is in the recurrent term
    return LayerWeights(kernel, recurrent.transpose(0, 2, 1)[:, order], bias)


def add_recurrent(weights: Weights, settings: ModelSettings, layer: LayerWeights, x: str, lengths: str) -> str:
    """Add a layer for x [U, B, X] and lengths [B] i32; return [U, B, H or 2 H]."""
    graph = weights.graph
    operator, attributes = _operator(settings, len(layer.bias))
    if settings.cell == "lstm" and weights.kind == "int8":
        outputs = _quantised_lstm(weights, layer, x, lengths, attributes)
    else:
        inputs = weights.stored(layer.input), weights.stored(layer.recurrent), graph.floats(layer.bias), lengths
        outputs = graph.node(operator, x, *inputs, **attributes)  # [U, D, B, H]
    return _merge(weights, settings, outputs)


def add_steps(
    weights: Weights, settings: ModelSettings, layer: LayerWeights, x: str, state: list[str]
) -> tuple[str, list[str]]:
    """Add steps of a unidirectional layer from a state, [1, B, H] each; return outputs [U, B, H] and the state after them."""
    graph = weights.graph
    operator, attributes = _operator(settings, len(layer.bias))
    inputs = weights.stored(layer.input), weights.stored(layer.recurrent), graph.floats(layer.bias), "", *state
    outputs, *after = graph.node_of(1 + len(state), operator, x, *inputs, **attributes)  # [U, 1, B, H]
    return _merge(weights, settings, outputs), after


def _operator(settings: ModelSettings, directions: int) -> tuple[str, dict]:
    """Return the name and the attributes of a layer's operator."""
    operator, _ = OPERATORS[settings.cell]
    attributes: dict = {"hidden_size": settings.rnn_size}
    if settings.bidirectional:
        attributes["direction"] = "bidirectional"
    if settings.cell == "rnn":
        attributes |= {"activations": ["Relu"] * directions, "clip": settings.activation_clip}
    elif settings.cell == "gru":
        attributes["linear_before_reset"] = 1
    elif settings.cell == "gru_relu":
        attributes["activations"] = ["Sigmoid", "Relu"] * directions
    return operator, attributes


def _quantised_lstm(weights: Weights, layer: LayerWeights, x: str, lengths: str, attributes: dict) -> str:
    """Add onnxruntime's LSTM with int8 weights [D, X or H, 4 * H], scaled by column."""
    graph = weights.graph
    whole, scales = zip(*(quantise(w.transpose(0, 2, 1), axis=1) for w in (layer.input, layer.recurrent)), strict=True)
    zeros = graph.constant(np.zeros(scales[0][:, 0].shape, np.int8))
    scaled = [name for scale in scales for name in (graph.floats(scale[:, 0]), zeros)]
    matrices = [graph.constant(matrix) for matrix in whole]
    inputs = x, *matrices, graph.floats(layer.bias), lengths, "", "", "", *scaled
    return graph.node("DynamicQuantizeLSTM", *inputs, domain="com.microsoft", **attributes)


def _merge(weights: Weights, settings: ModelSettings, outputs: str) -> str:
    """Merge the directions: [U, D, B, H] -> [U, B, H or 2 H]."""
    graph = weights.graph
    if settings.merge == "concat" or not settings.bidirectional:
        return graph.reshape(graph.transpose(outputs, 0, 2, 1, 3), 0, 0, -1)
    first, second = (graph.node("Gather", outputs, graph.constant(np.array(i, np.int64)), axis=1) for i in (0, 1))
    return graph.node("Add", first, second)
