"""Build the optimiser, an optax chain, and its learning rate schedule, whose values are arguments of a compiled step."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from ds2_jax.training.settings import OptimSettings


class Schedule(struct.PyTreeNode):
    """The learning rate by step: a linear warm-up, then the decay of `kind`.

    Its numbers are leaves of a tree: a compiled step takes them as arguments, and needs no compilation for others.
    """

    peak: Any  # f32, the rate after warm-up
    warmup: Any  # i32, steps
    rest: Any  # i32, steps after warm-up
    final_share: Any  # f32, share of the peak left after these (cosine)
    decay: Any  # f32, factor per epoch (exponential)
    epoch: Any  # i32, steps of an epoch
    kind: str = struct.field(pytree_node=False)

    def __call__(self, step: jax.typing.ArrayLike) -> jax.Array:
        """Return the learning rate of a step, counted from 0."""
        rising = jnp.clip(step, 0, self.warmup) / jnp.maximum(self.warmup, 1)
        return jnp.where(
            step < self.warmup, self.peak * rising, self.peak * self._share(jnp.subtract(step, self.warmup))
        )

    def _share(self, steps: jax.Array) -> jax.typing.ArrayLike:
        """Return the share of the peak after so many steps of decay."""
        if self.kind == "cosine":
            cosine = 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(steps, self.rest) / self.rest))
            return (1 - self.final_share) * cosine + self.final_share
        if self.kind == "exponential":
            return jnp.power(self.decay, jnp.floor(jnp.maximum(steps, 0) / self.epoch))
        return 1.0


def make_schedule(settings: OptimSettings, total_steps: int, steps_per_epoch: int) -> Schedule:
    """Build the schedule that the settings choose for a training of so many steps."""
    warmup = min(settings.warmup_steps, max(total_steps - 1, 0))
    return Schedule(
        peak=np.float32(settings.learning_rate),
        warmup=np.int32(warmup),
        rest=np.int32(max(total_steps - warmup, 1)),
        final_share=np.float32(settings.final_share),
        decay=np.float32(settings.decay),
        epoch=np.int32(steps_per_epoch),
        kind=settings.schedule,
    )


def make_optimizer(settings: OptimSettings) -> optax.GradientTransformationExtraArgs:
    """Build the optax chain: clipping by the global norm, then Adam or AdamW; `update` takes the schedule as an argument.

    Weight decay does not apply to biases and normalisation parameters.
    """
    rule = [optax.scale_by_adam(b1=settings.beta1, b2=settings.beta2)]
    if settings.name == "adamw":
        rule.append(optax.add_decayed_weights(settings.weight_decay, _is_matrix))
    clip = optax.clip_by_global_norm(settings.clip_norm) if settings.clip_norm else optax.identity()
    return optax.chain(clip, optax.chain(*rule, _scale_by_schedule()))


def _scale_by_schedule() -> optax.GradientTransformationExtraArgs:
    """Multiply by the negative learning rate; the state is that of optax.scale_by_schedule, as in earlier checkpoints."""

    def update(updates, state, params=None, *, schedule: Schedule, **_):
        del params
        rate = -schedule(state.count)
        scaled = jax.tree.map(lambda update: rate.astype(update.dtype) * update, updates)
        return scaled, optax.ScaleByScheduleState(count=optax.safe_increment(state.count))

    return optax.GradientTransformationExtraArgs(optax.scale_by_schedule(optax.constant_schedule(0.0)).init, update)


def _is_matrix(parameters):
    return jax.tree.map_with_path(lambda path, p: p.ndim > 1 and "bias" not in jax.tree_util.keystr(path), parameters)
