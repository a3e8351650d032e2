"""Small networks with random variables, and their output as JAX and onnxruntime compute it."""

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
import optax
from flax import traverse_util

from ds2_jax.artifacts.bundle import ModelMeta
from ds2_jax.network.ctc import ctc_loss
from ds2_jax.network.model import ModelSettings, init_variables
from ds2_jax.recognition.step import make_forward
from input_pipeline.audio.features import FeatureSettings
from input_pipeline.audio.front_end import FeatureStats, FrontEnd
from input_pipeline.text import Vocabulary


def small_meta(model: dict | None = None, features: dict | None = None, normalisation: str = "corpus") -> ModelMeta:
    """Describe a small network whose sizes all differ."""
    settings = FeatureSettings(**{"kind": "fbank", "mel_bins": 20, **(features or {})})
    network = {"conv": "5x7/3x2:4, 3x3/1x2:6", "rnn_size": 11, "rnn_layers": 2, **(model or {})}
    meta = ModelMeta(
        ModelSettings(**network), settings, normalisation, None, Vocabulary((" ", "a", "b", "c", "d")), "en"
    )
    size = np.arange(meta.feature_size, dtype=np.float32)
    stats = FeatureStats(-12 + size / 10, 3 + size / 20) if normalisation == "corpus" else None
    return ModelMeta(meta.model, settings, normalisation, stats, meta.vocabulary, "en")


def random_variables(meta: ModelMeta) -> dict:
    """Draw variables; all differ, also the batch statistics, so that a swap is noticed."""
    random = np.random.default_rng(1)
    flat = traverse_util.flatten_dict(meta.abstract_variables(), sep=".")
    drawn = {}
    for name, value in flat.items():
        inputs = np.prod(value.shape[:-1][-3:], initial=1)
        if name.endswith(("var", "scale")):
            drawn[name] = random.uniform(0.5, 1.5, value.shape)
        else:
            drawn[name] = random.normal(0, inputs**-0.5 if inputs > 1 else 0.3, value.shape)
    return traverse_util.unflatten_dict({name: v.astype(np.float32) for name, v in drawn.items()}, sep=".")


def train(
    network: dict, features: dict, clips: list[np.ndarray], texts: list[str], steps: int = 250
) -> tuple[ModelMeta, dict]:
    """Train a small network on a few clips, which it then spells; return its description and its variables."""
    vocabulary = Vocabulary(tuple(sorted(set("".join(texts)))))
    settings = FeatureSettings(**features)
    raw = [FrontEnd(settings, "none")(clip) for clip in clips]
    together = np.concatenate(raw)
    stats = FeatureStats(together.mean(0), together.std(0))
    meta = ModelMeta(ModelSettings(**network), settings, "corpus", stats, vocabulary, "en")
    frames = np.array([len(clip) for clip in raw], np.int32)
    batch = np.stack([np.pad(stats.apply(clip), ((0, frames.max() - len(clip)), (0, 0))) for clip in raw])
    labels = np.zeros((len(texts), max(map(len, texts))), np.int32)
    for row, text in enumerate(texts):
        labels[row, : len(text)] = vocabulary.encode(text)
    sizes, valid = np.array([len(text) for text in texts], np.int32), np.ones(len(texts), bool)
    variables, optimiser = init_variables(meta.network, meta.feature_size, 0), optax.adam(5e-3)

    def loss_of(params, batch_stats):
        arrays = {"params": params, "batch_stats": batch_stats}
        (logits, lengths), new = meta.network.apply(arrays, batch, frames, train=True, mutable=["batch_stats"])
        return ctc_loss(logits, lengths, jnp.asarray(labels), jnp.asarray(sizes), jnp.asarray(valid))[0], new[
            "batch_stats"
        ]

    @jax.jit
    def step(params, batch_stats, state):
        (_, batch_stats), gradient = jax.value_and_grad(loss_of, has_aux=True)(params, batch_stats)
        updates, state = optimiser.update(gradient, state)
        return optax.apply_updates(params, updates), batch_stats, state

    params, batch_stats = variables["params"], variables["batch_stats"]
    state = optimiser.init(params)
    for _ in range(steps):
        params, batch_stats, state = step(params, batch_stats, state)
    return meta, {"params": params, "batch_stats": batch_stats}


def log_probs(meta: ModelMeta, variables: dict, clips: list[np.ndarray]) -> list[np.ndarray]:
    """Return JAX's natural-log probabilities [U, K] of each clip."""
    features = [meta.front_end(clip) for clip in clips]
    spectrogram = np.zeros((len(clips), max(map(len, features)), meta.feature_size), np.float32)
    for row, values in enumerate(features):
        spectrogram[row, : len(values)] = values
    frames = np.array([len(values) for values in features], np.int32)
    output, lengths = jax.jit(make_forward(meta.network))(variables, spectrogram, frames)
    return [np.asarray(output[row, :length]) for row, length in enumerate(lengths)]


def run_onnx(session: onnxruntime.InferenceSession, clips: list[np.ndarray]) -> list[np.ndarray]:
    """Return onnxruntime's natural-log probabilities [U, K] of each clip, computed as one batch; what fills rows is noise."""
    lengths = np.array([len(clip) for clip in clips], np.int32)
    samples = np.random.default_rng(2).normal(0, 1, (len(clips), lengths.max())).astype(np.float32)
    for row, clip in enumerate(clips):
        samples[row, : len(clip)] = clip
    output, frames = session.run(["log_probs", "frames"], {"samples": samples, "lengths": lengths})
    return [output[row, :length] for row, length in enumerate(frames)]


def open_session(model: bytes) -> onnxruntime.InferenceSession:
    """Load a model into onnxruntime, on one core."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options)
