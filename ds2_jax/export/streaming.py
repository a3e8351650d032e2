"""A unidirectional network as an ONNX graph that reads audio as it arrives, in the form of NeMo's streaming CTC models.

Each run takes a window of frames and returns the output frames of its first part, the chunk; the rest of the window is what these
look ahead. What a run needs of earlier ones comes and goes in three caches. Letters: B batch, T frames, U output frames, C
channels, F features, H hidden units, K vocabulary with blank.
"""

from dataclasses import dataclass

import numpy as np
import onnx

from ds2_jax.artifacts.bundle import ModelMeta
from ds2_jax.export.graph import Graph
from ds2_jax.export.network import Arrays, conv_weights, flatten, recurrent_weights
from ds2_jax.export.recurrent import add_steps
from ds2_jax.export.sherpa import obstacle_to_stream
from ds2_jax.export.weights import OPSETS, Weights
from ds2_jax.network.model import ModelSettings
from ds2_jax.network.rnn import CELLS

CHUNK = 4  # output frames of a run


@dataclass(frozen=True)
class Reach:
    """Which frames a run needs at the input of each convolution, and of the recurrent layers: ranges (first, end).

    Frame 0 is the first of the run's chunk; those of the recurrent layers go on behind the chunk by what the network looks ahead.
    """

    settings: ModelSettings

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """The ranges, those of the first convolution first."""
        first, end = 0, CHUNK + self.settings.lookahead
        ranges = [(first, end)]
        for layer in reversed(self.settings.conv_layers):
            half, stride = layer.kernel[0] // 2, layer.stride[0]
            first, end = first * stride - half, (end - 1) * stride + half + 1
            ranges.append((first, end))
        return ranges[::-1]

    @property
    def shift(self) -> int:
        """Frames from one run to the next."""
        return CHUNK * self.settings.time_stride

    @property
    def window(self) -> int:
        """Frames that a run is given."""
        return max(self.ranges[0][1], self.shift)

    @property
    def kept(self) -> int:
        """Frames before those, which are kept from the run before."""
        return max(-self.ranges[0][0], 1)


def build_streaming(meta: ModelMeta, variables: dict) -> onnx.ModelProto:
    """Build the model for sherpa-onnx, `OnlineRecognizer.from_nemo_ctc`, in float32.

    Inputs: audio_signal [B, F, window] f32; length [B] i64, its frames; cache_last_channel [B, states, 1, H] f32, those of the
    recurrent layers; cache_last_time [B, 1, kept, F] f32, normalised frames before the window; cache_last_channel_len [B] i64,
    how many frames came before the window. All are 0 at first. Outputs: log_probs [B, CHUNK, K] f32, their number, and the
    next caches. Raises ValueError for a model that this engine cannot run.
    """
    obstacle = obstacle_to_stream(meta)
    if obstacle:
        raise ValueError(f"sherpa-onnx cannot stream this model: {obstacle}")
    graph, reach, settings = Graph(), Reach(meta.model), meta.model
    states = settings.rnn_layers * CELLS[settings.cell].arrays
    channel, time = ("batch", states, 1, settings.rnn_size), ("batch", 1, reach.kept, meta.feature_size)
    signal = graph.input("audio_signal", np.float32, ("batch", meta.feature_size, reach.window))
    length = graph.input("length", np.int64, ("batch",))
    recurrent = graph.input("cache_last_channel", np.float32, channel)
    before = graph.input("cache_last_time", np.float32, time)
    seen = graph.input("cache_last_channel_len", np.int64, ("batch",))

    frames = _normalise(graph, meta, graph.transpose(signal, 0, 2, 1))
    frames = graph.node("Concat", graph.reshape(before, 0, reach.kept, meta.feature_size), frames, axis=1)
    weights, arrays = Weights(graph, "float32"), flatten(variables)
    x = _convolve(weights, settings, arrays, frames, graph.cast(seen, np.int32))
    log_probs, after = _recur(weights, settings, arrays, x, _split_states(graph, recurrent, states))

    graph.output("log_probs", log_probs, np.float32, ("batch", CHUNK, meta.vocabulary.size))
    count = graph.node("Div", length, graph.ints(settings.time_stride))
    graph.output("log_probs_len", count, np.int64, ("batch",))
    joined = [graph.reshape(graph.transpose(state, 1, 0, 2), 0, 1, 1, -1) for state in after]
    graph.output("cache_last_channel_next", graph.node("Concat", *joined, axis=1), np.float32, channel)
    last = graph.slice(frames, 1, reach.shift, reach.shift + reach.kept)
    graph.output("cache_last_time_next", graph.reshape(last, 0, 1, reach.kept, -1), np.float32, time)
    graph.output("cache_last_channel_len_next", graph.node("Add", seen, graph.ints(reach.shift)), np.int64, ("batch",))
    return graph.model("deepspeech2", OPSETS["float32"], _describe(meta, reach, states))


def _normalise(graph: Graph, meta: ModelMeta, frames: str) -> str:
    """Normalise frames [B, T, F] by the statistics of the corpus, if the model does."""
    if meta.normalisation != "corpus":
        return frames
    assert meta.stats is not None
    centred = graph.node("Sub", frames, graph.floats(meta.stats.mean))
    return graph.node("Div", centred, graph.floats(meta.stats.std + np.float32(1e-14)))


def _convolve(weights: Weights, settings: ModelSettings, arrays: Arrays, frames: str, seen: str) -> str:
    """Add the convolutions for frames [B, T, F], of which `seen` [B] i32 came before the window: [U, B, X].

    Frames before the audio are zero at the input of each of them.
    """
    graph, reach = weights.graph, Reach(settings)
    first, end = reach.ranges[0]
    x = graph.slice(frames, 1, reach.kept + first, reach.kept + end)
    x = graph.node("Unsqueeze", x, axes=[1])  # [B, 1, T, F]
    scale = 1
    for i, layer in enumerate(settings.conv_layers):
        kernel, shift = conv_weights(arrays, i)
        x = graph.node("Add", weights.conv(x, kernel, layer.stride, pad_time=False), graph.floats(shift))
        x = graph.node("Clip", x, graph.floats(0), graph.floats(settings.activation_clip))
        scale *= layer.stride[0]
        first, end = reach.ranges[i + 1]
        position = graph.reshape(graph.node("Div", seen, graph.int32(scale)), -1, 1)
        position = graph.node("Add", position, graph.constant(np.arange(first, end, dtype=np.int32)))  # [B, T]
        inside = graph.node("Not", graph.node("Less", position, graph.int32(0)))
        x = graph.node("Mul", x, graph.cast(graph.reshape(inside, 0, 1, -1, 1), np.float32))
    return graph.reshape(graph.transpose(x, 2, 0, 3, 1), 0, 0, -1)  # bins before channels, as in the weights


def _recur(
    weights: Weights, settings: ModelSettings, arrays: Arrays, x: str, states: list[str]
) -> tuple[str, list[str]]:
    """Add the recurrent layers and the output layer for x [U, B, X]: log probabilities [B, CHUNK, K], and the next states."""
    graph, ahead = weights.graph, settings.lookahead
    chunk, rest = (graph.slice(x, 0, 0, CHUNK), graph.slice(x, 0, CHUNK) if ahead else "")
    after: list[str] = []
    size = CELLS[settings.cell].arrays
    for i in range(settings.rnn_layers):
        layer = recurrent_weights(settings, arrays, i)
        chunk, state = add_steps(weights, settings, layer, chunk, states[i * size : (i + 1) * size])
        after += state
        if ahead:  # what follows the chunk is read again by the next run, from the state after the chunk
            rest, _ = add_steps(weights, settings, layer, rest, state)
    if ahead:
        kernel = arrays["params.lookahead.kernel"].T[:, None]  # [H, 1, ahead + 1]
        whole = graph.transpose(graph.node("Concat", chunk, rest, axis=0), 1, 2, 0)  # [B, H, U]
        chunk = graph.transpose(graph.node("Conv", whole, graph.floats(kernel), group=settings.rnn_size), 2, 0, 1)
        if settings.lookahead_clip:
            chunk = graph.node("Clip", chunk, graph.floats(0), graph.floats(settings.activation_clip))
    logits = weights.matmul(chunk, arrays["params.output.kernel"])
    logits = graph.node("Add", logits, graph.floats(arrays["params.output.bias"]))
    return graph.transpose(graph.node("LogSoftmax", logits, axis=2), 1, 0, 2), after


def _split_states(graph: Graph, cache: str, count: int) -> list[str]:
    """Return the states, [1, B, H] each, of a cache [B, count, 1, H]."""
    states = (graph.node("Gather", cache, graph.constant(np.array(i, np.int64)), axis=1) for i in range(count))
    return [graph.transpose(state, 1, 0, 2) for state in states]


def _describe(meta: ModelMeta, reach: Reach, states: int) -> dict[str, str]:
    """Return what the engine reads; NeMo does not count the blank."""
    dimensions = {
        "cache_last_channel": (states, 1, meta.model.rnn_size),
        "cache_last_time": (1, reach.kept, meta.feature_size),
    }
    return {
        "window_size": str(reach.window),
        "chunk_shift": str(reach.shift),
        "subsampling_factor": str(meta.model.time_stride),
        "vocab_size": str(meta.vocabulary.size - 1),
        **{f"{name}_dim{i + 1}": str(size) for name, sizes in dimensions.items() for i, size in enumerate(sizes)},
    }
