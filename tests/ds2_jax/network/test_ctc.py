"""CTC against the sum over all paths and against optax; utterances without an alignment."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks.measure import temporary_bytes
from ds2_jax.network.ctc import TURN, ctc_loss, feasible, sum_alignments, sum_losses

U, K, L = 5, 3, 4
ROUNDING = 1e-4  # log-space sums in float32; optax substitutes -1e5 for log 0
UTTERANCES = {  # frames, labels; each has an alignment
    "one label": (5, [2]),
    "two labels": (4, [1, 2]),
    "empty label": (3, []),
    "repeated labels": (5, [1, 1, 2]),
    "full length": (4, [1, 2, 1, 2]),
    "full length with repeats": (5, [2, 2, 1, 2]),
    "one frame": (1, [2]),
    "one frame, empty label": (1, []),
}


def batch_of(cases, seed=0):
    """Draw logits [B, U, K] (random beyond the lengths, too); return them, lengths, labels [B, L] and label lengths."""
    logits = np.random.default_rng(seed).normal(0, 2, (len(cases), U, K)).astype(np.float32)
    labels = np.zeros((len(cases), L), np.int32)
    for row, (_, text) in zip(labels, cases, strict=True):
        row[: len(text)] = text
    lengths, label_lengths = (np.array(n, np.int32) for n in zip(*((n, len(t)) for n, t in cases), strict=True))
    return logits, lengths, labels, label_lengths


def collapse(path):
    return [symbol for symbol, _ in itertools.groupby(path) if symbol != 0]


def all_paths_loss(logits, text):
    """Return -ln of the sum over all K^n paths that collapse to `text`; logits [n, K] without padding."""
    paths = np.array([p for p in itertools.product(range(K), repeat=len(logits)) if collapse(p) == list(text)])
    log_probs = jax.nn.log_softmax(logits)
    return -jax.nn.logsumexp(log_probs[jnp.arange(len(logits)), paths].sum(1))


@jax.jit
def loss_of(*arguments):
    return ctc_loss(*arguments)


@jax.jit
def gradient_of(logits, *rest):
    return jax.grad(lambda x: ctc_loss(x, *rest)[0])(logits)


@jax.jit
def gradient_on_accelerators(logits, lengths, labels, label_lengths, valid):
    def loss(x):
        losses = sum_alignments(TURN, x, lengths, labels, label_lengths)
        return sum_losses(losses, lengths, labels, label_lengths, valid)[0]

    return jax.grad(loss)(logits)


FORMS = {"CPU": gradient_of, "accelerators": gradient_on_accelerators}


@functools.cache
def reference():
    """Compute loss and gradient [U, K] of each utterance by summing over all paths, in float64."""
    cases = list(UTTERANCES.values())
    logits = batch_of(cases)[0]
    losses, gradients = [], np.zeros(logits.shape)
    with jax.enable_x64(True):
        for b, (n, text) in enumerate(cases):
            loss, gradient = jax.value_and_grad(all_paths_loss)(jnp.asarray(logits[b, :n], jnp.float64), text)
            losses.append(float(loss))
            gradients[b, :n] = gradient
    return losses, gradients


@pytest.mark.parametrize("name", UTTERANCES)
def test_loss_is_the_sum_over_all_paths(name):
    index = list(UTTERANCES).index(name)
    valid = np.arange(len(UTTERANCES)) == index
    loss, counted, infeasible = loss_of(*batch_of(list(UTTERANCES.values())), valid)
    assert float(loss) == pytest.approx(reference()[0][index], abs=ROUNDING)
    np.testing.assert_array_equal(counted, valid)
    assert not infeasible.any()


@pytest.mark.parametrize("form", FORMS)
def test_gradient_is_that_of_the_sum_over_all_paths_and_zero_beyond_the_end(form):
    batch = batch_of(list(UTTERANCES.values()))
    gradient = np.asarray(FORMS[form](*batch, np.ones(len(UTTERANCES), bool)))
    np.testing.assert_allclose(gradient, reference()[1], atol=ROUNDING)
    assert not gradient[np.arange(U) >= batch[1][:, None]].any()


def test_sum_equals_optax_where_alignments_exist():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(8, 20, 6)).astype(np.float32)
    labels = rng.integers(1, 6, (8, 7)).astype(np.int32)
    lengths, label_lengths = rng.integers(14, 21, 8).astype(np.int32), rng.integers(0, 8, 8).astype(np.int32)
    padding = [np.float32(np.arange(n) >= k[:, None]) for n, k in ((20, lengths), (7, label_lengths))]
    expected = optax.ctc_loss(logits, padding[0], labels, padding[1])
    loss, counted, _ = loss_of(logits, lengths, labels, label_lengths, np.ones(8, bool))
    assert counted.all()
    assert float(loss) == pytest.approx(float(expected.sum()), rel=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_infeasible_and_invalid_utterances_have_neither_loss_nor_gradient(form):
    cases = [(4, [1, 2]), (2, [1, 1]), (3, [1, 2, 1, 2]), (0, [1]), (0, []), (4, [2])]
    valid = np.array([True, True, True, True, True, False])
    batch = batch_of(cases)
    loss, counted, infeasible = loss_of(*batch, valid)
    np.testing.assert_array_equal(counted, [True, False, False, False, False, False])
    np.testing.assert_array_equal(infeasible, [False, True, True, True, False, False])
    assert float(loss) == pytest.approx(float(all_paths_loss(batch[0][0, :4], [1, 2])), abs=ROUNDING)
    gradient = np.asarray(FORMS[form](*batch, valid))
    assert gradient[0, :4].any()
    assert not gradient[1:].any()


def test_bfloat16_logits_are_summed_in_float32():
    batch = batch_of(list(UTTERANCES.values()))
    valid = np.ones(len(UTTERANCES), bool)
    narrow = jnp.bfloat16(batch[0])
    loss, _, _ = loss_of(narrow, *batch[1:], valid)
    assert loss.dtype == jnp.float32
    assert float(loss) == float(loss_of(narrow.astype(jnp.float32), *batch[1:], valid)[0])


def long_batch(batch, frames, width, vocabulary):
    """Draw logits and labels of many lengths, as large as in training."""
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 2, (batch, frames, vocabulary)).astype(np.float32)
    labels = rng.integers(1, vocabulary, (batch, width)).astype(np.int32)
    lengths = rng.integers(frames * 3 // 4, frames + 1, batch).astype(np.int32)
    return logits, lengths, labels, rng.integers(0, width + 1, batch).astype(np.int32)


@pytest.mark.slow
def test_long_utterances_are_more_precise_than_in_optax():
    logits, lengths, labels, label_lengths = batch = long_batch(4, 400, 120, 29)
    padding = [np.float32(np.arange(n) >= k[:, None]) for n, k in ((400, lengths), (120, label_lengths))]

    def optax_gradient(dtype):
        arguments = (jnp.asarray(p, dtype) for p in padding)
        return jax.grad(lambda x: optax.ctc_loss(x, next(arguments), labels, next(arguments)).sum())(
            jnp.asarray(logits, dtype)
        )

    with jax.enable_x64(True):
        exact = np.asarray(optax_gradient(jnp.float64))
    optax_error = np.abs(np.asarray(optax_gradient(jnp.float32)) - exact).max()
    for gradient in FORMS.values():
        error = np.abs(np.asarray(gradient(*batch, np.ones(4, bool))) - exact).max()
        assert error < 1e-4
        assert error < optax_error / 2


def test_loss_and_gradient_need_less_than_three_floats_per_frame_and_label():
    batch = long_batch(32, 400, 200, 29)
    compiled = gradient_of.lower(*batch, np.ones(32, bool)).compile()
    assert temporary_bytes(compiled) < 3 * 4 * 32 * 400 * 200


@pytest.mark.parametrize(
    ("text", "shortest"),
    [([], 0), ([1], 1), ([1, 2], 2), ([1, 1], 3), ([1, 1, 1], 5), ([1, 1, 2, 2], 6), ([1, 2, 1], 3)],
)
def test_feasible_counts_a_blank_between_equal_neighbours(text, shortest):
    labels = np.full((3, 4), 1, np.int32)  # padding must not count as a repeat
    labels[:, : len(text)] = text
    lengths = np.array([max(shortest - 1, 0), shortest, shortest + 1])
    expected = [shortest == 0, True, True]
    np.testing.assert_array_equal(feasible(*map(jnp.asarray, (lengths, labels, np.full(3, len(text))))), expected)


def test_feasible_accepts_batches_without_labels():
    assert feasible(jnp.array([3, 0]), jnp.zeros((2, 0), jnp.int32), jnp.zeros(2, jnp.int32)).all()
