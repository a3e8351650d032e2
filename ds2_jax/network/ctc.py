"""Connectionist temporal classification with its own backward pass, blind to utterances that cannot be aligned.

Graves, Fernandez, Gomez and Schmidhuber 2006, sections 4.1 (forward-backward sums) and 4.2 (gradient).

Letters: B batch, U frames, K vocabulary with blank (index 0), L labels, l a label. An alignment walks through the states
blank 0, label 0, blank 1, label 1, ..., blank L. Sums over alignments are natural logarithms, IMPOSSIBLE for none.
"""

import jax
import jax.numpy as jnp
from jax import lax

IMPOSSIBLE = -1e30  # finite, so that differences are never NaN


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
    counted [B], infeasible [B]: valid rows that no alignment fits). The latter get neither loss nor gradient.
    """
    possible = feasible(lengths, labels, label_lengths)
    counted = valid & possible & (lengths > 0)
    loss = negative_log_likelihood(logits, lengths, labels, label_lengths)
    return jnp.where(counted, loss, 0.0).sum(), counted, valid & ~possible


@jax.custom_vjp
def negative_log_likelihood(
    logits: jax.Array, lengths: jax.Array, labels: jax.Array, label_lengths: jax.Array
) -> jax.Array:
    """Return -ln p(labels | logits) of each utterance, [B] f32; shapes as in `ctc_loss`.

    Huge where no alignment exists. The gradient is softmax(logits) minus the probability, given the labels, of each
    symbol in each frame; it takes about two floats a frame and label of memory (optax's: eleven).
    """
    return _forward(logits, lengths, labels, label_lengths)[0]


def _forward(logits, lengths, labels, label_lengths):
    """Sum over alignments from the first frame on (equations 6 to 8)."""
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32)).transpose(1, 0, 2)  # [U, B, K]
    batch, width = labels.shape
    changes = _changes(labels)

    def frame(carry, inputs):
        (blank, label), scale = carry  # sums over alignments that end here: [B, L + 1], [B, L]; their scale [B]
        scores, inside = inputs
        blank_score, label_score = scores[:, 0], jnp.take_along_axis(scores, labels, axis=1)
        before = _log_add(
            blank, jnp.pad(label, ((0, 0), (1, 0)), constant_values=IMPOSSIBLE)
        )  # each blank, or its label
        into_label = _log_add(label, jnp.where(changes, before[:, :-1], blank[:, :-1]))
        new = before + blank_score[:, None], into_label + label_score
        new, scale = _rescale(new, (blank, label), scale, inside)
        return (new, scale), (new[1], scale)

    start = jnp.full((batch, width + 1), IMPOSSIBLE).at[:, 0].set(0.0), jnp.full((batch, width), IMPOSSIBLE)
    inside = jnp.arange(len(log_probs))[:, None] < lengths
    ((blank, label), scale), passed = lax.scan(frame, (start, jnp.zeros(batch)), (log_probs, inside))
    ends_in_blank = jnp.take_along_axis(blank, label_lengths[:, None], axis=1)[:, 0]
    ends_in_label = jnp.take_along_axis(label, jnp.maximum(label_lengths - 1, 0)[:, None], axis=1)[:, 0]
    total = _log_add(ends_in_blank, jnp.where(label_lengths > 0, ends_in_label, IMPOSSIBLE))
    return -(total + scale), (logits, lengths, labels, label_lengths, passed, total, scale)


def _backward(residuals, gradient):
    """Sum over alignments from the last frame back (equations 10 and 11), and the gradient (equations 14 to 16)."""
    logits, lengths, labels, label_lengths, (passed, scales), total, total_scale = residuals
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32)).transpose(1, 0, 2)
    width = labels.shape[1]
    changes = jnp.pad(_changes(labels)[:, 1:], ((0, 0), (0, 1)))  # from a label to the next

    def frame(carry, inputs):
        (blank, label), scale, shares = carry  # sums over ways on from here; shares of the frames behind
        index, scores, scale_before, inside = inputs
        blank_score, label_score = scores[:, 0], jnp.take_along_axis(scores, labels, axis=1)
        ended = lax.dynamic_index_in_dim(shares, index, keepdims=False)
        share = jnp.exp(jnp.minimum(ended + label + (scale_before + scale - total_scale - total)[:, None], 0.0))
        shares = lax.dynamic_update_index_in_dim(shares, jnp.where(inside[:, None], share, 0.0), index, 0)
        by_blank, by_label = blank + blank_score[:, None], label + label_score
        on = _log_add(
            by_blank, jnp.pad(by_label, ((0, 0), (0, 1)), constant_values=IMPOSSIBLE)
        )  # stay, or the next label
        new = on, _log_add(by_label, jnp.where(changes, on[:, 1:], by_blank[:, 1:]))
        new, scale = _rescale(new, (blank, label), scale, inside)
        return (new, scale, shares), None

    labels_before = jnp.arange(width + 1)[None]  # of each blank
    ends_in_blank = jnp.where(labels_before == label_lengths[:, None], 0.0, IMPOSSIBLE)
    ends_in_label = jnp.where(labels_before[:, 1:] == label_lengths[:, None], 0.0, IMPOSSIBLE)
    frames = jnp.arange(len(log_probs))
    inside = frames[:, None] < lengths
    inputs = frames, log_probs, scales, inside
    start = (
        (ends_in_blank, ends_in_label),
        jnp.zeros(len(labels)),
        passed,
    )  # the shares [U, B, L] take its place, frame by frame
    (_, _, shares), _ = lax.scan(frame, start, inputs, reverse=True)
    one_hot = jax.nn.one_hot(labels, logits.shape[2])
    of_symbols = jnp.einsum("ubl,blk->buk", shares, one_hot, precision=lax.Precision.HIGHEST)
    of_symbols = of_symbols.at[:, :, 0].set(1.0 - shares.sum(2).T)  # blank, where no label is
    d_logits = jnp.where(inside.T[..., None], jnp.exp(log_probs).transpose(1, 0, 2) - of_symbols, 0.0)
    return (d_logits * gradient[:, None, None]).astype(logits.dtype), None, None, None


negative_log_likelihood.defvjp(_forward, _backward)


def _changes(labels: jax.Array) -> jax.Array:
    """Tell where a label differs from the one before, so that no blank need part them. [B, L], false at 0."""
    return jnp.pad(labels[:, 1:] != labels[:, :-1], ((0, 0), (1, 0)))


def _rescale(new, old, scale, inside):
    """Bring the largest sum of each utterance to about 0 and count in `scale` [B] what was taken off.

    The scale is a whole number, exact in float32, so that a thousand frames lose no digit. Outside of an utterance the
    old sums stay.
    """
    off = jnp.where(inside, jnp.round(jnp.maximum(new[0].max(1), new[1].max(1))), 0.0)
    kept = tuple(jnp.where(inside[:, None], n - off[:, None], o) for n, o in zip(new, old, strict=True))
    return kept, scale + off


def _log_add(a: jax.Array, b: jax.Array) -> jax.Array:
    """Return ln(exp a + exp b) of finite a and b."""
    return jnp.maximum(a, b) + jnp.log1p(jnp.exp(-jnp.abs(a - b)))
