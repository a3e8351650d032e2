"""A trained model as one ONNX graph, from samples to natural-log probabilities.

Letters: B batch, N samples, U output frames, K vocabulary with blank (index 0).
"""

import numpy as np
import onnx

from ds2_jax.artifacts.bundle import ModelMeta
from ds2_jax.export.front_end import Frames, add_front_end
from ds2_jax.export.graph import Graph
from ds2_jax.export.network import add_network, flatten
from ds2_jax.export.sherpa import FRAME_SAMPLES, frame_samples, obstacle_to
from ds2_jax.export.weights import OPSETS, Weights


def build(meta: ModelMeta, variables: dict, kind: str) -> onnx.ModelProto:
    """Build the model for any engine, with weights stored as `kind`, a key of OPSETS.

    Inputs: samples [B, N] f32 at the model's rate, in [-1, 1]; lengths [B] i32, the samples of each row. Outputs: log_probs
    [B, U, K] f32; frames [B] i32, the output frames of each row.
    """
    graph = Graph()
    samples = graph.input("samples", np.float32, ("batch", "samples"))
    lengths = graph.input("lengths", np.int32, ("batch",))
    result = _add_model(Weights(graph, kind), meta, variables, Frames(samples, lengths))
    graph.output("log_probs", result.values, np.float32, ("batch", "frames", meta.vocabulary.size))
    graph.output("frames", result.lengths, np.int32, ("batch",))
    return graph.model("deepspeech2", OPSETS[kind], _describe(meta))


def build_sherpa(meta: ModelMeta, variables: dict, kind: str) -> onnx.ModelProto:
    """Build the model for sherpa-onnx, `OfflineRecognizer.from_omnilingual_asr_ctc`.

    Input: samples [B, N] f32 at 16 kHz of any level. Output: log_probs [B, U, K] f32 on a grid of 20 ms, on which output frames
    of another length are repeated. Raises ValueError for a model that this engine cannot run.
    """
    obstacle = obstacle_to(meta)
    if obstacle:
        raise ValueError(f"sherpa-onnx cannot run this model: {obstacle}")
    graph = Graph()
    samples = graph.input("samples", np.float32, ("batch", "samples"))
    batch = graph.slice(graph.node("Shape", samples), 0, 0, 1)
    lengths = graph.node("Expand", graph.size(samples, 1), batch)
    result = _add_model(Weights(graph, kind), meta, variables, Frames(samples, lengths))
    log_probs = _repeat_on_grid(graph, meta, result.values)
    graph.output("log_probs", log_probs, np.float32, ("batch", "frames", meta.vocabulary.size))
    return graph.model("deepspeech2", OPSETS[kind], _describe(meta))


def _add_model(weights: Weights, meta: ModelMeta, variables: dict, samples: Frames) -> Frames:
    """Add front end and network for samples [B, N] with their lengths."""
    frames = add_front_end(weights.graph, meta.front_end, samples.values, samples.lengths)
    return add_network(weights, meta.model, flatten(variables), frames, meta.feature_size)


def _repeat_on_grid(graph: Graph, meta: ModelMeta, values: str) -> str:
    """Return the frame of values [B, U, K] at each 20 ms."""
    frame, slot = frame_samples(meta), FRAME_SAMPLES
    end = graph.node("Mul", graph.size(values, 1), graph.int32(frame))
    slots = graph.node("Div", graph.node("Add", end, graph.int32(slot - 1)), graph.int32(slot))
    starts = graph.node("Mul", graph.positions(slots), graph.int32(slot))
    return graph.node("Gather", values, graph.node("Div", starts, graph.int32(frame)), axis=1)


def _describe(meta: ModelMeta) -> dict[str, str]:
    return {
        "sample_rate_hz": str(meta.features.sample_rate_hz),
        "output_frame_s": f"{meta.output_frame_s:g}",
        "language": meta.language,
        "symbols": "".join(meta.vocabulary.symbols),  # symbol i is column i + 1; column 0 is the blank
    }
