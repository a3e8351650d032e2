"""Connectionist temporal classification with a custom backward pass; utterances without an alignment are ignored.

Graves, Fernandez, Gomez and Schmidhuber 2006, sections 4.1 (forward-backward sums) and 4.2 (gradient).

Letters: B batch, U frames, K vocabulary with blank (index 0), L labels, l a label. An alignment passes through the states
blank 0, label 1, blank 1, ..., label L, blank L. Sums over alignments are natural logarithms; IMPOSSIBLE if there is none.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from ds2_jax.network.platforms import platform_dependent

IMPOSSIBLE = -1e30  # finite: differences are never NaN
TURN = 4  # frames between two rescalings on a GPU or TPU

Sums = tuple[jax.Array, jax.Array]  # over alignments that are in blank k, or in label k, both [B, L + 1]


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


def negative_log_likelihood(
    logits: jax.Array, lengths: jax.Array, labels: jax.Array, label_lengths: jax.Array
) -> jax.Array:
    """Return -ln p(labels | logits) of each utterance, [B] f32; shapes as in `ctc_loss`.

    The value is huge if no alignment exists. The gradient is softmax(logits) minus the posterior probability of each
    symbol in each frame, given the labels; it needs about two floats of memory per frame and label (optax: eleven).
    """
    every_frame, by_turns = functools.partial(sum_alignments, 1), functools.partial(sum_alignments, TURN)
    return platform_dependent(logits, lengths, labels, label_lengths, cpu=every_frame, default=by_turns)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def sum_alignments(
    turn: int, logits: jax.Array, lengths: jax.Array, labels: jax.Array, label_lengths: jax.Array
) -> jax.Array:
    """Compute `negative_log_likelihood` and rescale after each `turn` frames, which a GPU computes in one kernel each."""
    return _forward(turn, logits, lengths, labels, label_lengths)[0]


def _forward(turn, logits, lengths, labels, label_lengths):
    """Compute the forward sums over alignments (equations 6 to 8)."""
    changes = _changes(labels)

    def advance(carry, inputs):
        sums, scale = carry
        log_probs, inside = inputs
        blank_scores, label_scores = _scores(log_probs, labels)
        kept: list[jax.Array] = []
        for frame in range(turn):
            blank, label = sums
            into_blank = _log_add(blank, label)
            before = jnp.where(changes, _later(into_blank), _later(blank))  # what label k may follow
            new = into_blank + blank_scores[frame], _log_add(label, before) + label_scores[frame]
            sums = _where(inside[frame], new, sums)
            kept.append(sums[1])
        return _rescale(sums, scale), (jnp.stack(kept), scale)

    nothing = jnp.full((len(labels), labels.shape[1] + 1), IMPOSSIBLE)
    start = (nothing.at[:, 0].set(0.0), nothing), jnp.zeros(len(labels))
    (sums, scale), forward_sums = lax.scan(advance, start, _turns(turn, logits, lengths))
    total = _log_add(*(jnp.take_along_axis(s, label_lengths[:, None], axis=1)[:, 0] for s in sums))
    return -(total + scale), (logits, lengths, labels, label_lengths, forward_sums, total, scale)


def _backward(turn, residuals, gradient):
    """Compute the backward sums over alignments (equations 10 and 11) and the gradient (equations 14 to 16)."""
    logits, lengths, labels, label_lengths, (forward_sums, forward_scales), total, total_scale = residuals
    changes = _earlier(_changes(labels))  # from each label to the next

    def advance(carry, inputs):
        sums, scale, posteriors = carry  # sums over continuations; posteriors of the later frames
        index, log_probs, inside, forward_scale = inputs
        blank_scores, label_scores = _scores(log_probs, labels)
        kept: list[jax.Array] = []
        for frame in reversed(range(turn)):
            blank, label = sums
            kept.insert(0, label)
            by_blank, by_label = blank + blank_scores[frame], label + label_scores[frame]
            from_blank = _log_add(by_blank, _earlier(by_label))
            new = from_blank, _log_add(by_label, jnp.where(changes, from_blank, by_blank))
            sums = _where(inside[frame], new, sums)
        scales = (forward_scale + scale - total_scale - total)[:, None]
        forward = lax.dynamic_index_in_dim(posteriors, index, keepdims=False)
        posterior = jnp.exp(jnp.minimum(forward + jnp.stack(kept) + scales, 0.0))
        posterior = jnp.where(inside[..., None], posterior, 0.0)
        posteriors = lax.dynamic_update_index_in_dim(posteriors, posterior, index, 0)
        return (*_rescale(sums, scale), posteriors), None

    end = jnp.where(jnp.arange(labels.shape[1] + 1) == label_lengths[:, None], 0.0, IMPOSSIBLE)  # after the last label
    start = (end, end.at[:, 0].set(IMPOSSIBLE)), jnp.zeros(len(labels)), forward_sums
    # the posteriors overwrite the forward sums, turn by turn
    log_probs, inside = _turns(turn, logits, lengths)
    inputs = jnp.arange(len(inside)), log_probs, inside, forward_scales
    (_, _, posteriors), _ = lax.scan(advance, start, inputs, reverse=True)
    frames = logits.shape[1]
    posteriors = posteriors.reshape(-1, *posteriors.shape[2:])[:frames]  # [U, B, L + 1]
    one_hot = jax.nn.one_hot(jnp.pad(labels, ((0, 0), (1, 0))), logits.shape[2])
    symbol_posteriors = jnp.einsum("ubl,blk->buk", posteriors, one_hot, precision=lax.Precision.HIGHEST)
    symbol_posteriors = symbol_posteriors.at[:, :, 0].set(1.0 - posteriors.sum(2).T)  # the rest is blank
    probabilities = jax.nn.softmax(logits.astype(jnp.float32))
    d_logits = jnp.where((jnp.arange(frames) < lengths[:, None])[..., None], probabilities - symbol_posteriors, 0.0)
    return (d_logits * gradient[:, None, None]).astype(logits.dtype), None, None, None


sum_alignments.defvjp(_forward, _backward)


def _rescale(sums: Sums, scale: jax.Array) -> tuple[Sums, jax.Array]:
    """Shift the sums of each utterance so that the largest is about 0, and add the shift to `scale` [B].

    Shifts are whole numbers, which float32 adds exactly: a thousand frames lose no precision.
    """
    shift = jnp.round(jnp.maximum(*sums).max(1))
    return (sums[0] - shift[:, None], sums[1] - shift[:, None]), scale + shift


def _turns(turn: int, logits: jax.Array, lengths: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return log probabilities [N, turn, B, K] of logits [B, U, K], and whether each frame is inside, [N, turn, B]."""
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32)).transpose(1, 0, 2)
    log_probs = jnp.pad(log_probs, ((0, -len(log_probs) % turn), (0, 0), (0, 0)))
    log_probs = log_probs.reshape(-1, turn, *log_probs.shape[1:])
    return log_probs, jnp.arange(log_probs.shape[0] * turn).reshape(-1, turn, 1) < lengths


def _scores(log_probs: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the scores of a turn [turn, B, K]: of the blank [turn, B, 1], of the labels [turn, B, L + 1]; nothing is at 0."""
    of_labels = jnp.take_along_axis(log_probs, labels[None], axis=2)
    return log_probs[..., :1], jnp.pad(of_labels, ((0, 0), (0, 0), (1, 0)), constant_values=IMPOSSIBLE)


def _changes(labels: jax.Array) -> jax.Array:
    """Return where label k differs from label k - 1, so that no blank is needed between them: [B, L + 1], false at 0 and 1."""
    return jnp.pad(labels[:, 1:] != labels[:, :-1], ((0, 0), (2, 0)))[:, : labels.shape[1] + 1]


def _later(sums: jax.Array) -> jax.Array:
    """Move sums [B, L + 1] to the next label."""
    return jnp.pad(sums[:, :-1], ((0, 0), (1, 0)), constant_values=IMPOSSIBLE)


def _earlier(sums: jax.Array) -> jax.Array:
    """Move sums [B, L + 1] to the previous label."""
    last = False if sums.dtype == bool else IMPOSSIBLE
    return jnp.pad(sums[:, 1:], ((0, 0), (0, 1)), constant_values=last)


def _where(inside: jax.Array, new: Sums, old: Sums) -> Sums:
    """Return the new sums of utterances that have this frame, and the old ones of others. inside [B]."""
    blank, label = (jnp.where(inside[:, None], n, o) for n, o in zip(new, old, strict=True))
    return blank, label


def _log_add(a: jax.Array, b: jax.Array) -> jax.Array:
    """Return ln(exp a + exp b) of finite a and b."""
    return jnp.maximum(a, b) + jnp.log1p(jnp.exp(-jnp.abs(a - b)))
