"""Connectionist temporal classification as sums and counts, blind to utterances that cannot be aligned.

Graves, Fernandez, Gomez and Schmidhuber 2006, section 4.
"""

import jax
import jax.numpy as jnp
import optax


def feasible(lengths: jax.Array, labels: jax.Array, label_lengths: jax.Array) -> jax.Array:
    """Tell which utterances have an alignment at all: U >= L + neighbouring equal labels.

    lengths [B] frames U, labels [B, L], label_lengths [B] -> [B] bool. Works on numpy arrays alike.
    """
    inside = jnp.arange(1, labels.shape[1]) < label_lengths[:, None]
    repeats = ((labels[:, 1:] == labels[:, :-1]) & inside).sum(1)
    return lengths >= label_lengths + repeats


def ctc_loss(
    logits: jax.Array, lengths: jax.Array, labels: jax.Array, label_lengths: jax.Array, valid: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return -ln p(labels | logits) summed over the utterances that count.

    logits [B, U, K] with blank 0, lengths [B], labels [B, L] (1 .. K-1), label_lengths [B], valid [B] -> (sum f32,
    counted [B], infeasible [B]: valid rows that no alignment fits). optax gives about 1e5 with live gradients to the
    latter; here they get neither.
    """
    possible = feasible(lengths, labels, label_lengths)
    counted = valid & possible & (lengths > 0)
    logit_padding = (jnp.arange(logits.shape[1]) >= lengths[:, None]).astype(jnp.float32)
    label_padding = (jnp.arange(labels.shape[1]) >= label_lengths[:, None]).astype(jnp.float32)
    loss = optax.ctc_loss(logits.astype(jnp.float32), logit_padding, labels, label_padding, blank_id=0)
    return jnp.where(counted, loss, 0.0).sum(), counted, valid & ~possible
