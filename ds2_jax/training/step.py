"""The training step: a pure function, compiled once for each batch shape."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ds2_jax.network.ctc import ctc_loss
from ds2_jax.network.model import DeepSpeech2
from ds2_jax.training.state import TrainState

Batch = dict[str, jax.Array]  # docs/design.md, Contracts: spectrogram, frames, labels, label_lengths, valid


def make_train_step(
    model: DeepSpeech2,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    accumulate: int = 1,
    ema: float = 0.0,
    gather: Callable[[Any], Any] = lambda parameters: parameters,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """Build (state, batch) -> (state, metrics).

    Metrics are sums and counts over the batch: loss (sum of -ln p over the counted utterances), count, infeasible, frames
    (valid input frames), grad_norm (of the mean loss per utterance), skipped (1 if loss or gradient was not finite; then
    only `step` changes in the state). The gradient is that of the mean loss per utterance. Randomness is
    fold_in(seed, step), so that a resumed run repeats it. accumulate: number of micro-batches. ema: decay of averaged
    parameters, 0 for none. gather: gathers split parameters (sharding.make_gather).
    """

    def loss_sum(parameters, batch_stats, batch: Batch, key):
        (logits, lengths), updated = model.apply(
            {"params": gather(parameters), "batch_stats": batch_stats},
            batch["spectrogram"],
            jnp.where(batch["valid"], batch["frames"], 0),
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": key},
        )
        loss, counted, infeasible = ctc_loss(logits, lengths, batch["labels"], batch["label_lengths"], batch["valid"])
        sums = {"loss": loss, "count": counted.sum(), "infeasible": infeasible.sum()}
        return loss, (updated["batch_stats"], sums)

    gradient = jax.grad(loss_sum, has_aux=True)
    update = optax.with_extra_args_support(optimizer).update

    def gradient_sums(state: TrainState, batch: Batch, key):
        """Return the gradient of the summed loss, new batch statistics and sums, from sequential micro-batches."""
        if accumulate == 1:
            grads, (batch_stats, sums) = gradient(state.parameters, state.batch_stats, batch, key)
            return grads, batch_stats, sums

        def add_micro_batch(carry, inputs):
            grads, batch_stats, sums = carry
            rows, index = inputs
            new, (batch_stats, more) = gradient(state.parameters, batch_stats, rows, jax.random.fold_in(key, index))
            return (jax.tree.map(jnp.add, grads, new), batch_stats, jax.tree.map(jnp.add, sums, more)), None

        # strided, so that each micro-batch has rows of every device
        micro_batches = jax.tree.map(lambda x: x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1), batch)
        zero = {"loss": jnp.zeros(()), "count": jnp.zeros((), jnp.int32), "infeasible": jnp.zeros((), jnp.int32)}
        start = (jax.tree.map(jnp.zeros_like, state.parameters), state.batch_stats, zero)
        return jax.lax.scan(add_micro_batch, start, (micro_batches, jnp.arange(accumulate)))[0]

    def train_step(state: TrainState, batch: Batch):
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        grads, batch_stats, sums = gradient_sums(state, batch, key)
        grads = jax.tree.map(lambda g: g / jnp.maximum(sums["count"], 1), grads)
        norm = optax.tree.norm(grads)
        usable = jnp.isfinite(sums["loss"]) & jnp.isfinite(norm) & (sums["count"] > 0)

        updates, moments = update(grads, state.optimizer, state.parameters, schedule=state.schedule)
        parameters = optax.apply_updates(state.parameters, updates)
        new = TrainState(
            step=state.step,
            parameters=parameters,
            batch_stats=batch_stats,
            averaged=_average(state.averaged, parameters, state.step, ema),
            optimizer=moments,
            schedule=state.schedule,
        )
        new = jax.tree.map(lambda n, old: jnp.where(usable, n, old), new, state)
        frames = jnp.where(batch["valid"], batch["frames"], 0).sum()
        metrics = {**sums, "frames": frames, "grad_norm": norm, "skipped": ~usable & (sums["count"] > 0)}
        return new.replace(step=state.step + 1), metrics

    return train_step


def _average(averaged: Any, parameters: Any, step: jax.Array, decay: float):
    """Update the exponential moving average.

    In early steps the decay is only (1 + step) / (10 + step), so that the initial parameters are forgotten.
    """
    if averaged is None:
        return None
    effective = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda a, p: effective * a + (1 - effective) * p, averaged, parameters)
