"""Inference steps of a trained network: pure functions, compiled once for each batch shape."""

from collections.abc import Callable
from typing import cast

import jax
import jax.numpy as jnp

from ds2_jax.network.ctc import negative_log_likelihood, sum_losses
from ds2_jax.network.model import DeepSpeech2
from input_pipeline.batches.inputs import Inputs

Shape = tuple[int, int, int]  # of a batch: rows, frames, labels
Batch = dict[str, jax.Array]  # docs/design.md, Contracts: spectrogram, frames, labels, label_lengths, valid


def make_forward(model: DeepSpeech2) -> Callable[[dict, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """Build (variables, spectrogram [B, T, F], frames [B]) -> (natural-log probabilities [B, U, K] f32, lengths [B] i32).

    `variables` contains params and batch_stats.
    """

    def forward(variables: dict, spectrogram: jax.Array, frames: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits, lengths = _apply(model, variables, spectrogram, frames)
        return jax.nn.log_softmax(logits), lengths

    return forward


def _apply(
    model: DeepSpeech2, variables: dict, spectrogram: jax.Array, frames: jax.Array
) -> tuple[jax.Array, jax.Array]:
    return cast(tuple[jax.Array, jax.Array], model.apply(variables, spectrogram, frames, train=False))


def make_eval_step(model: DeepSpeech2, *, all_symbols: bool = False) -> Callable[[dict, Batch], dict[str, jax.Array]]:
    """Build (variables, batch) -> output of the network and sums.

    The step returns ids [B, U] i32 and probabilities [B, U] f32 of each frame's best symbol, lengths [B] i32, text_loss
    [B] f32 (-ln p(text); huge without an alignment), and the sums loss, count and infeasible. With `all_symbols`, log_probs
    [B, U, K] f32, for beam search, replaces the first two.
    """

    def eval_step(variables: dict, batch: Batch) -> dict[str, jax.Array]:
        frames = jnp.where(batch["valid"], batch["frames"], 0)
        logits, lengths = _apply(model, variables, batch["spectrogram"], frames)
        log_probs = jax.nn.log_softmax(logits)
        labelled = batch["valid"] & (batch["label_lengths"] > 0)  # others have no text, or unknown symbols in it
        text = lengths, batch["labels"], batch["label_lengths"]
        text_loss = negative_log_likelihood(logits, *text)
        loss, counted, infeasible = sum_losses(text_loss, *text, labelled)
        best = {"ids": log_probs.argmax(-1).astype(jnp.int32), "probabilities": jnp.exp(log_probs.max(-1))}
        return {
            **({"log_probs": log_probs} if all_symbols else best),
            "lengths": lengths,
            "text_loss": text_loss,
            "loss": loss,
            "count": counted.sum(),
            "infeasible": infeasible.sum(),
        }

    return eval_step


def abstract_batch(shape: Shape, feature_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Return shapes and types of the arrays of a batch with features."""
    rows, frames, labels = shape
    return {
        "spectrogram": jax.ShapeDtypeStruct((rows, frames, feature_size), jnp.float32),
        **_abstract_labels(rows, labels),
    }


def abstract_inputs(shape: Shape, inputs: Inputs) -> dict[str, jax.ShapeDtypeStruct]:
    """Return shapes and types of the arrays of a batch with these inputs."""
    rows, frames, labels = shape
    arrays = {name: jax.ShapeDtypeStruct(*array) for name, array in inputs.arrays(rows, frames).items()}
    return arrays | _abstract_labels(rows, labels)


def _abstract_labels(rows: int, labels: int) -> dict[str, jax.ShapeDtypeStruct]:
    return {
        "frames": jax.ShapeDtypeStruct((rows,), jnp.int32),
        "labels": jax.ShapeDtypeStruct((rows, labels), jnp.int32),
        "label_lengths": jax.ShapeDtypeStruct((rows,), jnp.int32),
        "valid": jax.ShapeDtypeStruct((rows,), jnp.bool_),
        "utterance": jax.ShapeDtypeStruct((rows,), jnp.int32),
    }
