"""Sequence-wise batch normalisation that ignores padding (Deep Speech 2, arXiv:1512.02595, section 3.2)."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn


class MaskedBatchNorm(nn.Module):
    """Batch normalisation of the last axis over all valid positions of the batch.

    Training uses float32 statistics of the global batch and updates the running statistics; evaluation uses the running
    statistics. A batch without valid positions leaves them unchanged.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, train: bool) -> jax.Array:
        """Normalise x [..., C]; mask is broadcastable to x with a last axis of 1, true where valid. Keeps shape and type."""
        width = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (width,))
        bias = self.param("bias", nn.initializers.zeros, (width,))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (width,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (width,), jnp.float32)
        if train:
            mean, var, count = _moments(x, mask, offset=running_mean.value)
            if not self.is_initializing():
                keep = jnp.where(count > 0, self.momentum, 1.0)
                running_mean.value = keep * running_mean.value + (1 - keep) * mean
                running_var.value = keep * running_var.value + (1 - keep) * var
        else:
            mean, var = running_mean.value, running_var.value
        gain = scale * jax.lax.rsqrt(var + self.epsilon)
        return (x.astype(jnp.float32) * gain + (bias - mean * gain)).astype(x.dtype)


def gain_and_shift(norm: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return gain and shift [C] of a trained normalisation, by its scale, bias, mean and var [C], in their precision."""
    gain = norm["scale"] / np.sqrt(norm["var"] + MaskedBatchNorm.epsilon)
    return gain, norm["bias"] - norm["mean"] * gain


def _moments(x: jax.Array, mask: jax.Array, offset: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return mean and biased variance [C] of the valid positions, and their number, in float32.

    One pass computes both, so that devices exchange them in one message. Subtracting `offset` [C], which is close to the
    mean after the first steps, preserves the precision that the difference of two squares would lose.
    """
    axes = tuple(range(x.ndim - 1))
    positions = jnp.broadcast_to(mask, (*x.shape[:-1], 1)).astype(jnp.float32)
    count = positions.sum()
    total = jnp.maximum(count, 1.0)
    centred = (x.astype(jnp.float32) - offset) * positions
    first, second = centred.sum(axes) / total, jnp.square(centred).sum(axes) / total
    return offset + first, jnp.maximum(second - jnp.square(first), 0.0), count
