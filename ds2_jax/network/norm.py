"""Sequence-wise batch normalisation that never sees padding (Deep Speech 2, arXiv:1512.02595, section 3.2)."""

import jax
import jax.numpy as jnp
from flax import linen as nn


class MaskedBatchNorm(nn.Module):
    """Normalise the last axis over all valid positions of the batch.

    In training the statistics are those of the whole (global) batch, in float32, and the running ones are updated;
    otherwise the running ones are used. A batch without one valid position changes nothing.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, train: bool) -> jax.Array:
        """x [..., C], mask broadcastable to x with a last axis of 1 (true where valid) -> same shape and type as x."""
        width = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (width,))
        bias = self.param("bias", nn.initializers.zeros, (width,))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (width,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (width,), jnp.float32)
        if train:
            mean, var, count = _moments(x, mask, running_mean.value)
            if not self.is_initializing():
                keep = jnp.where(count > 0, self.momentum, 1.0)
                running_mean.value = keep * running_mean.value + (1 - keep) * mean
                running_var.value = keep * running_var.value + (1 - keep) * var
        else:
            mean, var = running_mean.value, running_var.value
        gain = scale * jax.lax.rsqrt(var + self.epsilon)
        return (x.astype(jnp.float32) * gain + (bias - mean * gain)).astype(x.dtype)


def _moments(x: jax.Array, mask: jax.Array, near: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mean and biased variance [C] of the valid positions, and how many there are, in float32.

    Both come from one pass, so that devices exchange them at once; the distance from `near` [C], which after the first
    steps is close to the mean, keeps digits that the difference of two squares would lose.
    """
    axes = tuple(range(x.ndim - 1))
    positions = jnp.broadcast_to(mask, (*x.shape[:-1], 1)).astype(jnp.float32)
    count = positions.sum()
    total = jnp.maximum(count, 1.0)
    away = (x.astype(jnp.float32) - near) * positions
    first, second = away.sum(axes) / total, jnp.square(away).sum(axes) / total
    return near + first, jnp.maximum(second - jnp.square(first), 0.0), count
