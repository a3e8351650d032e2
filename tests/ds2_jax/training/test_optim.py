"""Schedules at their ends, clipping, and the parameters that decay."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ds2_jax.training.optim import make_optimizer, make_schedule
from ds2_jax.training.settings import SCHEDULES, OptimSettings

PEAK, WARMUP, TOTAL, EPOCH = 0.3, 10, 50, 8
ROUNDING = 1e-6  # float32 rates below 1


def settings(**changes) -> OptimSettings:
    start = OptimSettings(
        learning_rate=PEAK, warmup_steps=WARMUP, final_share=0.2, decay=0.3, beta2=0.99, clip_norm=0.0
    )
    return dataclasses.replace(start, **changes)


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_rises_linearly_from_zero_to_the_peak(name):
    schedule = make_schedule(settings(schedule=name), TOTAL, EPOCH)
    rates = [float(schedule(step)) for step in (0, WARMUP // 2, WARMUP)]
    np.testing.assert_allclose(rates, [0, PEAK / 2, PEAK], atol=ROUNDING)


@pytest.mark.parametrize(
    ("name", "at_the_end"),
    [("cosine", 0.2 * PEAK), ("exponential", PEAK * 0.3 ** ((TOTAL - WARMUP) // EPOCH)), ("constant", PEAK)],
)
def test_every_schedule_ends_at_the_configured_rate(name, at_the_end):
    schedule = make_schedule(settings(schedule=name), TOTAL, EPOCH)
    assert float(schedule(TOTAL)) == pytest.approx(at_the_end, abs=ROUNDING)


def test_cosine_is_halfway_in_the_middle_and_stays_at_its_end():
    schedule = make_schedule(settings(), TOTAL, EPOCH)
    assert float(schedule((WARMUP + TOTAL) // 2)) == pytest.approx((1 + 0.2) / 2 * PEAK, abs=ROUNDING)
    assert float(schedule(10 * TOTAL)) == pytest.approx(0.2 * PEAK, abs=ROUNDING)


def test_exponential_falls_once_per_epoch():
    schedule = make_schedule(settings(schedule="exponential"), TOTAL, EPOCH)
    rates = [float(schedule(WARMUP + step)) for step in (EPOCH - 1, EPOCH, 2 * EPOCH - 1)]
    np.testing.assert_allclose(rates, [PEAK, 0.3 * PEAK, 0.3 * PEAK], atol=ROUNDING)


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("cosine", optax.cosine_decay_schedule(PEAK, TOTAL - WARMUP, alpha=0.2)),
        ("exponential", optax.exponential_decay(PEAK, EPOCH, 0.3, staircase=True)),
        ("constant", optax.constant_schedule(PEAK)),
    ],
)
def test_every_schedule_is_that_of_optax(name, reference):
    schedule = make_schedule(settings(schedule=name), TOTAL, EPOCH)
    reference = optax.join_schedules([optax.linear_schedule(0.0, PEAK, WARMUP), reference], [WARMUP])
    steps = jnp.arange(TOTAL + 5)
    np.testing.assert_allclose(schedule(steps), reference(steps), atol=ROUNDING)


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("adam", optax.adam),
        ("adamw", functools.partial(optax.adamw, mask=lambda tree: jax.tree.map(bool, jax.tree.map(jnp.ndim, tree)))),
    ],
)
def test_the_state_is_that_of_optax(name, reference, parameters):
    """Checkpoints of earlier versions have it."""
    expected = optax.chain(optax.clip_by_global_norm(1.0), reference(optax.constant_schedule(PEAK)))
    state = make_optimizer(settings(name=name, clip_norm=1.0)).init(parameters)
    assert str(jax.tree.structure(state)) == str(jax.tree.structure(expected.init(parameters)))


@pytest.mark.parametrize("name", SCHEDULES)
def test_without_warm_up_the_first_step_has_the_peak_rate(name):
    assert float(make_schedule(settings(schedule=name, warmup_steps=0), TOTAL, EPOCH)(0)) == pytest.approx(PEAK)


@pytest.mark.parametrize("total", [0, 1, 5])
def test_a_training_shorter_than_its_warm_up_has_finite_rates(total):
    schedule = make_schedule(settings(), total, EPOCH)
    rates = np.array([float(schedule(step)) for step in range(total + 1)])
    assert np.isfinite(rates).all()
    assert (rates <= PEAK + ROUNDING).all()
    assert rates.max() == pytest.approx(PEAK)


@pytest.fixture
def parameters():
    """Return parameters with the model's names and ranks: a recurrent layer's bias has two axes."""
    shapes = {
        "rnn_0": {"recurrent_kernel": (2, 3, 9), "bias": (2, 9)},
        "norm": {"scale": (5,), "bias": (5,)},
        "conv_0": (3, 5, 1, 4),
    }
    return jax.tree.map(jnp.ones, shapes, is_leaf=lambda s: isinstance(s, tuple))


CONSTANT = make_schedule(settings(schedule="constant", warmup_steps=0), TOTAL, EPOCH)


def one_update(optimizer, gradients, parameters):
    updates, _ = optimizer.update(gradients, optimizer.init(parameters), parameters, schedule=CONSTANT)
    return updates


def test_weight_decay_does_not_apply_to_biases_and_normalisation(parameters):
    optimizer = make_optimizer(settings(name="adamw", weight_decay=0.1))
    updates = one_update(optimizer, jax.tree.map(jnp.zeros_like, parameters), parameters)
    for kernel in (updates["rnn_0"]["recurrent_kernel"], updates["conv_0"]):
        np.testing.assert_allclose(kernel, -PEAK * 0.1, rtol=ROUNDING)
    for update in (updates["rnn_0"]["bias"], updates["norm"]["scale"], updates["norm"]["bias"]):
        np.testing.assert_array_equal(update, 0)


def test_adam_without_clipping_follows_the_published_rule(parameters):
    """The first step moves each parameter by the rate against the sign of its gradient (Kingma and Ba 2015)."""
    gradients = jax.tree.map(lambda p: -3.0 * p, parameters)
    updates = one_update(make_optimizer(settings()), gradients, parameters)
    jax.tree.map(lambda u: np.testing.assert_allclose(u, PEAK, rtol=1e-5), updates)  # 1 - beta2 is rounded in float32


def test_gradients_are_clipped_by_their_global_norm_before_the_moments(parameters):
    optimizer = make_optimizer(settings(clip_norm=2.0))
    gradients = jax.tree.map(lambda p: 100.0 * p, parameters)
    _, state = optimizer.update(gradients, optimizer.init(parameters), parameters, schedule=CONSTANT)
    moments = optax.tree_utils.tree_get(state, "mu")
    assert float(optax.tree.norm(moments)) == pytest.approx((1 - 0.9) * 2.0, rel=1e-5)  # a sum of 128 squares


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"name": "sgd"}, "config.optim.name"), ({"weight_decay": 0.1}, "config.optim.weight_decay")],
)
def test_the_error_for_an_invalid_optimizer_names_its_field(changes, field):
    with pytest.raises(ValueError, match=field):
        settings(**changes)


def test_the_error_for_an_unknown_schedule_lists_all_schedules():
    with pytest.raises(ValueError, match=r"config.optim.schedule is 'sine': choose one of cosine"):
        settings(schedule="sine")
