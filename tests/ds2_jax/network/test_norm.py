"""Masked batch normalisation against numpy over the valid positions only."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ds2_jax.network.norm import MaskedBatchNorm

B, T, C = 2, 7, 3
LENGTHS = [7, 4]
MOMENTUM, EPSILON = 0.8, 1e-5
ROUNDING = 1e-5  # float32 sums of 11 values around 3
STEEP = 2e-4  # without variance the gain is up to 2 / sqrt(EPSILON) = 632, times values of 6, in float32
POISON = 1e6  # finite, far larger than any activation

norm = MaskedBatchNorm(MOMENTUM, EPSILON)
MASK = np.arange(T)[None, :, None] < np.array(LENGTHS)[:, None, None]  # [B, T, 1]


@jax.jit
def train(variables, x, mask):
    return norm.apply(variables, x, mask, True, mutable=["batch_stats"])


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(3.0, 2.0, (B, T, C)).astype(np.float32)


@pytest.fixture
def variables():
    """Return values that differ from each other and from the defaults."""
    return {
        "params": {"scale": jnp.array([1.5, 0.5, -2.0]), "bias": jnp.array([0.1, -0.2, 0.3])},
        "batch_stats": {"mean": jnp.array([1.0, 2.0, 3.0]), "var": jnp.array([0.5, 4.0, 9.0])},
    }


def by_numpy(x, mean, var, variables):
    scale, bias = (np.asarray(variables["params"][name]) for name in ("scale", "bias"))
    return (x - mean) / np.sqrt(var + EPSILON) * scale + bias


def test_statistics_are_those_of_the_valid_positions(x, variables):
    out, _ = train(variables, x, MASK)
    valid = x[MASK[..., 0]]
    expected = by_numpy(x, valid.mean(0), valid.var(0), variables)
    np.testing.assert_allclose(out, expected, atol=ROUNDING)


def test_running_statistics_move_by_one_minus_momentum(x, variables):
    _, updated = train(variables, x, MASK)
    real, old, new = x[MASK[..., 0]], variables["batch_stats"], updated["batch_stats"]
    for name, value in (("mean", real.mean(0)), ("var", real.var(0))):
        np.testing.assert_allclose(new[name], MOMENTUM * old[name] + (1 - MOMENTUM) * value, atol=ROUNDING)


def test_padding_changes_neither_output_nor_statistics_nor_gradients(x, variables):
    def total(params, x):
        out, updated = norm.apply({**variables, "params": params}, x, MASK, True, mutable=["batch_stats"])
        out = jnp.where(MASK, out, 0)
        return (out**3).sum(), (out, updated)

    run = jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))
    clean = run(variables["params"], jnp.where(MASK, x, 0))
    poisoned = run(variables["params"], jnp.where(MASK, x, POISON))
    jax.tree.map(np.testing.assert_array_equal, clean, poisoned)


def test_gradient_equals_autodiff_of_the_valid_rows_alone(x, variables):
    real = x[MASK[..., 0]]  # [n, C]

    def masked(params, x):
        out, _ = norm.apply({**variables, "params": params}, x, MASK, True, mutable=["batch_stats"])
        return (jnp.where(MASK, out, 0) ** 3).sum()

    def plain(params, real):
        out = (real - real.mean(0)) / jnp.sqrt(real.var(0) + EPSILON) * params["scale"] + params["bias"]
        return (out**3).sum()

    d_params, d_x = jax.jit(jax.grad(masked, argnums=(0, 1)))(variables["params"], x)
    expected, d_real = jax.jit(jax.grad(plain, argnums=(0, 1)))(variables["params"], real)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3), d_params, expected)  # sums of cubes of 30
    np.testing.assert_allclose(np.asarray(d_x)[MASK[..., 0]], d_real, atol=1e-3)  # of values up to 50


def test_a_batch_of_padding_only_changes_nothing(x, variables):
    out, updated = train(variables, x, np.zeros_like(MASK))
    jax.tree.map(np.testing.assert_array_equal, updated["batch_stats"], variables["batch_stats"])
    assert np.isfinite(out).all()


def test_one_valid_position_has_no_variance_and_stays_finite(x, variables):
    mask = np.zeros_like(MASK)
    mask[1, 2] = True
    out, _ = train(variables, x, mask)
    np.testing.assert_allclose(out[1, 2], variables["params"]["bias"], atol=STEEP)
    assert np.isfinite(out).all()


def test_evaluation_uses_the_running_statistics_and_keeps_them(x, variables):
    out, updated = norm.apply(variables, x, MASK, False, mutable=["batch_stats"])
    old = variables["batch_stats"]
    np.testing.assert_allclose(out, by_numpy(x, old["mean"], old["var"], variables), atol=ROUNDING)
    jax.tree.map(np.testing.assert_array_equal, updated["batch_stats"], old)


def test_initialisation_does_not_move_the_running_statistics(x):
    stats = norm.init(jax.random.key(0), x, MASK, True)["batch_stats"]
    np.testing.assert_array_equal(stats["mean"], np.zeros(C))
    np.testing.assert_array_equal(stats["var"], np.ones(C))


def test_frequency_is_pooled_with_time_after_a_convolution(variables):
    x = np.random.default_rng(1).normal(3.0, 2.0, (B, T, 5, C)).astype(np.float32)
    out, _ = train(variables, x, MASK[..., None])
    real = x[MASK[..., 0]].reshape(-1, C)
    np.testing.assert_allclose(out, by_numpy(x, real.mean(0), real.var(0), variables), atol=ROUNDING)


def test_bfloat16_input_keeps_its_type_and_float32_statistics(x, variables):
    out, updated = train(variables, jnp.bfloat16(x), MASK)
    assert out.dtype == jnp.bfloat16
    assert all(s.dtype == jnp.float32 for s in jax.tree.leaves(updated))
    wide = np.asarray(jnp.bfloat16(x), np.float32)[MASK[..., 0]]
    expected = MOMENTUM * variables["batch_stats"]["mean"] + (1 - MOMENTUM) * wide.mean(0)
    np.testing.assert_allclose(updated["batch_stats"]["mean"], expected, atol=ROUNDING)
