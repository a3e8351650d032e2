"""The network as part of an ONNX graph: native operators, with batch normalisation folded into the weights.

Letters: B batch, T frames, U frames after striding, F frequency, C channels, X width of a layer's input, H hidden units, K
vocabulary with blank.
"""

from collections.abc import Mapping

import numpy as np
from flax import traverse_util

from ds2_jax.export.front_end import Frames
from ds2_jax.export.graph import Graph
from ds2_jax.export.recurrent import LayerWeights, add_recurrent, arrange
from ds2_jax.export.weights import Weights
from ds2_jax.network.model import ModelSettings
from ds2_jax.network.norm import gain_and_shift

Arrays = Mapping[str, np.ndarray]  # by path, such as params.rnn_0.bias


def flatten(variables: dict) -> Arrays:
    """Return a model's variables as float64 arrays by path."""
    flat = traverse_util.flatten_dict(variables, sep=".")
    return {name: np.asarray(value, np.float64) for name, value in flat.items()}


def add_network(weights: Weights, settings: ModelSettings, arrays: Arrays, frames: Frames, features: int) -> Frames:
    """Add the network for frames [B, T, features], zero beyond each row; return log probabilities [B, U, K] and lengths."""
    graph = weights.graph
    x, lengths = graph.reshape(frames.values, 0, 1, -1, features), frames.lengths  # [B, 1, T, F]
    for i in range(len(settings.conv_layers)):
        x, lengths = _convolve(weights, settings, i, arrays, Frames(x, lengths))
    x = graph.reshape(graph.transpose(x, 2, 0, 3, 1), 0, 0, -1)  # [U, B, X]; bins before channels, as in the weights
    least = graph.node("Where", graph.node("Less", lengths, graph.int32(1)), graph.int32(1), lengths)
    for i in range(settings.rnn_layers):
        x = add_recurrent(weights, settings, recurrent_weights(settings, arrays, i), x, least)
    if settings.lookahead:
        x = _look_ahead(graph, arrays["params.lookahead.kernel"], Frames(x, lengths))
        if settings.lookahead_clip:
            x = graph.node("Clip", x, graph.floats(0), graph.floats(settings.activation_clip))
    logits = weights.matmul(x, arrays["params.output.kernel"])
    logits = graph.node("Add", logits, graph.floats(arrays["params.output.bias"]))
    return Frames(graph.transpose(graph.node("LogSoftmax", logits, axis=2), 1, 0, 2), lengths)


def _convolve(weights: Weights, settings: ModelSettings, i: int, arrays: Arrays, x: Frames) -> Frames:
    """Add a convolution with its normalisation and rectifier, zero beyond each row: [B, C, T, F] -> [B, C', T', F']."""
    graph, layer = weights.graph, settings.conv_layers[i]
    kernel, shift = conv_weights(arrays, i)
    y = graph.node("Add", weights.conv(x.values, kernel, layer.stride), graph.floats(shift))
    stride = layer.stride[0]
    rounded_up = graph.node("Add", x.lengths, graph.int32(stride - 1))
    lengths = graph.node("Div", rounded_up, graph.int32(stride))
    y = graph.node("Clip", y, graph.floats(0), graph.floats(settings.activation_clip))
    mask = graph.cast(graph.reshape(graph.inside(graph.size(y, 2), lengths), 0, 1, -1, 1), np.float32)
    return Frames(graph.node("Mul", y, mask), lengths)


def conv_weights(arrays: Arrays, i: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the kernel [O, C, kt, kf] of a convolution, and what is added to its output [O, 1, 1], with its normalisation."""
    gain, shift = _normalisation(arrays, f"conv_norm_{i}")
    return (arrays[f"params.conv_{i}"] * gain).transpose(3, 2, 0, 1), shift.reshape(-1, 1, 1)


def recurrent_weights(settings: ModelSettings, arrays: Arrays, i: int) -> LayerWeights:
    """Return the weights of a recurrent layer with its normalisation."""
    gain, shift = _normalisation(arrays, f"rnn_norm_{i}" if settings.norm == "input" else f"rnn_{i}.norm")
    parameters = {n: arrays[f"params.rnn_{i}.{n}"] for n in ("input_kernel", "recurrent_kernel", "bias")}
    return arrange(settings, parameters, gain, shift)


def _normalisation(arrays: Arrays, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return gain and shift of a batch normalisation, by its running statistics."""
    parts = {"scale": "params", "bias": "params", "mean": "batch_stats", "var": "batch_stats"}
    return gain_and_shift({part: arrays[f"{collection}.{name}.{part}"] for part, collection in parts.items()})


def _look_ahead(graph: Graph, kernel: np.ndarray, x: Frames) -> str:
    """Add a look-ahead convolution, with a kernel [frames + 1, H], of x [U, B, H]."""
    mask = graph.inside(graph.size(x.values, 0), x.lengths)  # [B, U]
    mask = graph.cast(graph.reshape(graph.transpose(mask, 1, 0), 0, 0, 1), np.float32)
    ahead, hidden = len(kernel) - 1, kernel.shape[1]
    y = graph.transpose(graph.node("Mul", x.values, mask), 1, 2, 0)  # [B, H, U]
    y = graph.node("Conv", y, graph.floats(kernel.T[:, None]), group=hidden, pads=[0, ahead])
    return graph.transpose(y, 2, 0, 1)
