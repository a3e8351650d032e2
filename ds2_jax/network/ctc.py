"""Connectionist temporal classification with a custom backward pass; utterances without an alignment are ignored.

Graves, Fernandez, Gomez and Schmidhuber 2006, sections 4.1 (forward-backward sums) and 4.2 (gradient).

Letters: B batch, U frames, K vocabulary with blank (index 0), L labels, l a label. An alignment passes through the states
blank 0, label 0, blank 1, label 1, ..., blank L. Sums over alignments are natural logarithms; IMPOSSIBLE if there is none.
"""

import jax
import jax.numpy as jnp
from jax import lax

IMPOSSIBLE = -1e30  # finite: differences are never NaN


def feasible(lengths: jax.Array, labels: jax.Array, label_lengths: jax.Array) -> jax.Array:
    """Return which utterances have an alignment: U >= L + number of equal neighbouring labels.

    lengths [B] (frames U), labels [B, L], label_lengths [B] -> [B] bool. Also accepts numpy arrays.
    """
    inside = jnp.arange(1, labels.shape[1]) < label_lengths[:, None]
    repeats = ((labels[:, 1:] == labels[:, :-1]) & inside).sum(1)
    return lengths >= label_lengths + repeats


def ctc_loss(
    logits: jax.Array, lengths: jax.Array, labels: jax.Array, label_lengths: jax.Array, valid: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return -ln p(labels | logits) summed over the valid utterances that have an alignment.

    logits [B, U, K] with blank 0, lengths [B], labels [B, L] (1 .. K-1), label_lengths [B], valid [B] -> (sum f32,
    counted [B]: rows in the sum, infeasible [B]: valid rows without an alignment, which get neither loss nor gradient).
    """
    loss = negative_log_likelihood(logits, lengths, labels, label_lengths)
    return sum_losses(loss, lengths, labels, label_lengths, valid)


def sum_losses(
    loss: jax.Array, lengths: jax.Array, labels: jax.Array, label_lengths: jax.Array, valid: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Sum the losses [B] of `negative_log_likelihood`; parameters and results as of `ctc_loss`."""
    possible = feasible(lengths, labels, label_lengths)
    counted = valid & possible & (lengths > 0)
    return jnp.where(counted, loss, 0.0).sum(), counted, valid & ~possible


@jax.custom_vjp
def negative_log_likelihood(
    logits: jax.Array, lengths: jax.Array, labels: jax.Array, label_lengths: jax.Array
) -> jax.Array:
    """Return -ln p(labels | logits) of each utterance, [B] f32; shapes as in `ctc_loss`.

    The value is huge if no alignment exists. The gradient is softmax(logits) minus the posterior probability of each
    symbol in each frame, given the labels; it needs about two floats of memory per frame and label (optax: eleven).
    """
    return _forward(logits, lengths, labels, label_lengths)[0]


def _forward(logits, lengths, labels, label_lengths):
    """Compute the forward sums over alignments (equations 6 to 8)."""
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32)).transpose(1, 0, 2)  # [U, B, K]
    batch, width = labels.shape
    changes = _changes(labels)

    def frame(carry, inputs):
        (blank, label), scale = carry  # sums over alignments that end here: [B, L + 1], [B, L]; their scale [B]
        scores, inside = inputs
        blank_score, label_score = scores[:, 0], jnp.take_along_axis(scores, labels, axis=1)
        label_before = jnp.pad(label, ((0, 0), (1, 0)), constant_values=IMPOSSIBLE)  # of each blank
        into_blank = _log_add(blank, label_before)
        into_label = _log_add(label, jnp.where(changes, into_blank[:, :-1], blank[:, :-1]))
        new = into_blank + blank_score[:, None], into_label + label_score
        new, scale = _rescale(new, (blank, label), scale, inside)
        return (new, scale), (new[1], scale)

    start = jnp.full((batch, width + 1), IMPOSSIBLE).at[:, 0].set(0.0), jnp.full((batch, width), IMPOSSIBLE)
    inside = jnp.arange(len(log_probs))[:, None] < lengths
    ((blank, label), scale), forward_sums = lax.scan(frame, (start, jnp.zeros(batch)), (log_probs, inside))
    ends_in_blank = jnp.take_along_axis(blank, label_lengths[:, None], axis=1)[:, 0]
    ends_in_label = jnp.take_along_axis(label, jnp.maximum(label_lengths - 1, 0)[:, None], axis=1)[:, 0]
    total = _log_add(ends_in_blank, jnp.where(label_lengths > 0, ends_in_label, IMPOSSIBLE))
    return -(total + scale), (logits, lengths, labels, label_lengths, forward_sums, total, scale)


def _backward(residuals, gradient):
    """Compute the backward sums over alignments (equations 10 and 11) and the gradient (equations 14 to 16)."""
    logits, lengths, labels, label_lengths, (forward_sums, scales), total, total_scale = residuals
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32)).transpose(1, 0, 2)
    width = labels.shape[1]
    changes = jnp.pad(_changes(labels)[:, 1:], ((0, 0), (0, 1)))  # from each label to the next

    def frame(carry, inputs):
        (blank, label), scale, posteriors = carry  # sums over continuations; posteriors of the later frames
        index, scores, forward_scale, inside = inputs
        blank_score, label_score = scores[:, 0], jnp.take_along_axis(scores, labels, axis=1)
        forward = lax.dynamic_index_in_dim(posteriors, index, keepdims=False)
        posterior = jnp.exp(jnp.minimum(forward + label + (forward_scale + scale - total_scale - total)[:, None], 0.0))
        posteriors = lax.dynamic_update_index_in_dim(posteriors, jnp.where(inside[:, None], posterior, 0.0), index, 0)
        by_blank, by_label = blank + blank_score[:, None], label + label_score
        label_after = jnp.pad(by_label, ((0, 0), (0, 1)), constant_values=IMPOSSIBLE)  # each blank
        from_blank = _log_add(by_blank, label_after)
        new = from_blank, _log_add(by_label, jnp.where(changes, from_blank[:, 1:], by_blank[:, 1:]))
        new, scale = _rescale(new, (blank, label), scale, inside)
        return (new, scale, posteriors), None

    labels_before = jnp.arange(width + 1)[None]  # number of labels before each blank
    ends_in_blank = jnp.where(labels_before == label_lengths[:, None], 0.0, IMPOSSIBLE)
    ends_in_label = jnp.where(labels_before[:, 1:] == label_lengths[:, None], 0.0, IMPOSSIBLE)
    frames = jnp.arange(len(log_probs))
    inside = frames[:, None] < lengths
    inputs = frames, log_probs, scales, inside
    # the posteriors [U, B, L] overwrite the forward sums, frame by frame
    start = (ends_in_blank, ends_in_label), jnp.zeros(len(labels)), forward_sums
    (_, _, posteriors), _ = lax.scan(frame, start, inputs, reverse=True)
    one_hot = jax.nn.one_hot(labels, logits.shape[2])
    symbol_posteriors = jnp.einsum("ubl,blk->buk", posteriors, one_hot, precision=lax.Precision.HIGHEST)
    symbol_posteriors = symbol_posteriors.at[:, :, 0].set(1.0 - posteriors.sum(2).T)  # the rest is blank
    d_logits = jnp.where(inside.T[..., None], jnp.exp(log_probs).transpose(1, 0, 2) - symbol_posteriors, 0.0)
    return (d_logits * gradient[:, None, None]).astype(logits.dtype), None, None, None


negative_log_likelihood.defvjp(_forward, _backward)


def _changes(labels: jax.Array) -> jax.Array:
    """Return where a label differs from the previous one, so that no blank is needed between them: [B, L], false at 0."""
    return jnp.pad(labels[:, 1:] != labels[:, :-1], ((0, 0), (1, 0)))


def _rescale(new, old, scale, inside):
    """Shift the sums of each utterance so that the largest is about 0, and add the shift to `scale` [B].

    Shifts are whole numbers, which float32 adds exactly: a thousand frames lose no precision. Outside an utterance, the
    old sums are kept.
    """
    shift = jnp.where(inside, jnp.round(jnp.maximum(new[0].max(1), new[1].max(1))), 0.0)
    shifted = tuple(jnp.where(inside[:, None], n - shift[:, None], o) for n, o in zip(new, old, strict=True))
    return shifted, scale + shift


def _log_add(a: jax.Array, b: jax.Array) -> jax.Array:
    """Return ln(exp a + exp b) of finite a and b."""
    return jnp.maximum(a, b) + jnp.log1p(jnp.exp(-jnp.abs(a - b)))
