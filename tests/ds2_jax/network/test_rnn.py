"""Recurrent layers against slow loops, their custom backward against autodiff; padding, direction and state."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ds2_jax.network import recurrence
from ds2_jax.network.recurrence import (
    gru,
    lstm,
    scan_cell,
    scan_keeping_products,
    scan_keeping_states,
    simple_rnn,
    unrolled_scan,
)
from ds2_jax.network.rnn import CELLS, Recurrent, RowConvolution
from ds2_jax.network.vmem_scan import vmem_scan

B, T, X, H = 2, 7, 5, 3
LENGTHS = np.array([7, 4])
ROUNDING = 2e-5  # float32 against float64 through seven frames of values around 1
EXACT = 1e-10  # the same sums in a different order, in float64
DIFFERENCE = 1e-6  # central differences in float64 with a step of 1e-5, on sums of about 100 terms
POISON = 1e6  # finite, far larger than any spectrogram
ELEMENTWISE = {"rnn": simple_rnn, "gru": gru, "lstm": lstm}  # cells with a custom backward pass


def with_loop(loop):
    return lambda cell, *arguments: scan_keeping_states(cell, loop, *arguments)


FORMS = {
    "CPU": scan_keeping_products,
    "GPU": with_loop(unrolled_scan),
    "TPU": with_loop(functools.partial(vmem_scan, interpret=True)),
}
CLIP = 1.5  # low enough that the simple RNN is clipped


def mask_of(lengths, frames=T):
    return jnp.asarray(np.arange(frames)[:, None] < np.asarray(lengths))  # [U, B]


def draw(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def slow_frame(cell, state, x, h):
    """Compute one frame of one utterance in numpy, following the formulas of the papers."""
    if cell == "rnn":
        return (np.minimum(np.maximum(x + h, 0), CLIP),)
    if cell == "gru":
        reset, update = sigmoid(x[:H] + h[:H]), sigmoid(x[H : 2 * H] + h[H : 2 * H])
        return ((1 - update) * np.tanh(x[2 * H :] + reset * h[2 * H :]) + update * state[0],)
    i, f, g, o = (x + h).reshape(4, H)
    carry = sigmoid(f) * state[1] + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(carry), carry


def slow_gru_relu(state, x, weights, bias):
    """Compute one frame of the original's GRU of one utterance in numpy."""
    (h,), (w_r, w_z, w_n) = state, np.split(weights, 3, axis=1)
    b_r, b_z, b_n = np.split(bias, 3)
    reset, update = sigmoid(x[:H] + h @ w_r + b_r), sigmoid(x[H : 2 * H] + h @ w_z + b_z)
    candidate = np.maximum(x[2 * H :] + (reset * h) @ w_n + b_n, 0)
    return ((1 - update) * candidate + update * h,)


def slow_layer(cell, x, variables, direction):
    """Run one utterance [n, X], without padding, in one direction -> outputs [n, H], last state."""
    p = {name: np.asarray(value, np.float64) for name, value in variables["params"].items()}
    columns = p["bias"].shape[1]
    w_x = p["input_kernel"].reshape(X, -1, columns)
    w_x = w_x[:, min(direction, w_x.shape[1] - 1)]
    state = (np.zeros(H),) * CELLS[cell].arrays
    outputs = np.zeros((len(x), H))
    for t in range(len(x))[:: -1 if direction else 1]:
        weights, bias = p["recurrent_kernel"][direction], p["bias"][direction]
        if cell == "gru_relu":
            state = slow_gru_relu(state, x[t] @ w_x, weights, bias)
        else:
            state = slow_frame(cell, state, x[t] @ w_x, state[0] @ weights + bias)
        outputs[t] = state[0]
    return outputs, state


def make_layer(cell, **settings):
    """Return random parameters (biases too) of a layer, its jitted apply, and an input [U, B, X]."""
    layer = Recurrent(cell, H, clip=CLIP, **settings)
    x = jnp.asarray(draw(T, B, X), jnp.float32)
    shapes = jax.eval_shape(layer.init, jax.random.key(0), x, mask_of(LENGTHS))
    variables = jax.tree.map(lambda s: jnp.asarray(0.5 * draw(*s.shape, seed=1), s.dtype), shapes)
    return variables, jax.jit(layer.apply), x


def check_against_loops(cell, merge, share_input):
    variables, apply, x = make_layer(cell, merge=merge, share_input=share_input)
    outputs, last = apply(variables, x, mask_of(LENGTHS))
    for b, n in enumerate(LENGTHS):
        forward, backward = (slow_layer(cell, np.asarray(x[:n, b]), variables, d) for d in (0, 1))
        both = forward[0] + backward[0] if merge == "sum" else np.concatenate([forward[0], backward[0]], axis=1)
        np.testing.assert_allclose(outputs[:n, b], both, atol=ROUNDING)
        assert not outputs[n:, b].any()
        for array, ahead, back in zip(last, forward[1], backward[1], strict=True):
            np.testing.assert_allclose(array[:, b], [ahead, back], atol=ROUNDING)


@pytest.mark.parametrize("cell", CELLS)
def test_both_directions_equal_loops_over_each_utterance_alone(cell):
    check_against_loops(cell, "sum", False)


def test_concatenated_directions_and_shared_input_equal_loops():
    check_against_loops("rnn", "concat", True)


def test_one_direction_equals_a_loop():
    variables, apply, x = make_layer("gru", bidirectional=False)
    outputs, last = apply(variables, x, mask_of(LENGTHS))
    for b, n in enumerate(LENGTHS):
        slow, state = slow_layer("gru", np.asarray(x[:n, b]), variables, 0)
        np.testing.assert_allclose(outputs[:n, b], slow, atol=ROUNDING)
        np.testing.assert_allclose(last[0][0, b], state[0], atol=ROUNDING)


def plain_scan(cell, projected, weights, bias, initial, mask):
    """Compute what scan_cell computes, differentiated by JAX."""

    def frame(state, inputs):
        x, valid = inputs
        new = cell(state, x, tuple(jnp.split(state[0] @ weights + bias[:, None], len(x), axis=-1)))
        state = tuple(jnp.where(valid[..., None], n, o) for n, o in zip(new, state, strict=True))
        return state, state[0]

    last, outputs = jax.lax.scan(frame, initial, (projected, mask))
    return outputs, last


def scan_arguments(gates, state_size):
    """Draw float64 arguments of scan_cell; in the second direction, padding comes first."""
    columns = gates * H
    mask = mask_of(LENGTHS)
    projected = tuple(draw(T, 2, B, H, seed=gate) for gate in range(gates))
    arguments = (projected, draw(2, H, columns), draw(2, columns), (draw(2, B, H),) * state_size)
    return jax.tree.map(jnp.asarray, arguments), jnp.stack([mask, mask[::-1]], axis=1)


def weighted_sum(scan, cell, mask):
    """Return an objective that depends on every output and on the last state."""

    def objective(arguments):
        outputs, last = scan(cell, *arguments, mask)
        return (outputs * draw(*outputs.shape, seed=2)).sum() + sum((x * draw(*x.shape, seed=3)).sum() for x in last)

    return objective


@pytest.fixture
def short_turns(monkeypatch):
    """A turn of an accelerator's loop has fewer frames than the utterances, whose number is no multiple of it."""
    monkeypatch.setattr(recurrence, "UNROLL", 3)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_custom_backward_equals_autodiff_and_finite_differences(name, form, short_turns):
    cell, (_, gates, state_size), scan = ELEMENTWISE[name], CELLS[name], FORMS[form]
    with jax.enable_x64(True):
        arguments, mask = scan_arguments(gates, state_size)
        objective = jax.jit(weighted_sum(scan, cell, mask))
        gradient = jax.jit(jax.grad(weighted_sum(scan, cell, mask)))(arguments)
        expected = jax.jit(jax.grad(weighted_sum(plain_scan, cell, mask)))(arguments)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=EXACT, rtol=EXACT), gradient, expected)

        direction = jax.tree.map(lambda a: draw(*a.shape, seed=4), arguments)
        ahead, behind = (jax.tree.map(lambda a, d: a + s * d, arguments, direction) for s in (1e-5, -1e-5))  # noqa: B023
        slope = sum(jax.tree.leaves(jax.tree.map(lambda g, d: (g * d).sum(), gradient, direction)))
        assert (objective(ahead) - objective(behind)) / 2e-5 == pytest.approx(float(slope), rel=DIFFERENCE)


@pytest.mark.parametrize("cell", CELLS)
def test_padding_changes_neither_outputs_nor_gradients(cell):
    variables, apply, x = make_layer(cell)
    mask = mask_of(LENGTHS)

    def outputs_and_sum(variables, x):
        outputs, last = apply(variables, x, mask)
        return (outputs * draw(T, B, H)).sum() + sum(s.sum() for s in last), outputs

    run = jax.jit(jax.grad(outputs_and_sum, argnums=(0, 1), has_aux=True))
    (gradients, d_x), outputs = run(variables, x)
    (poisoned, d_poison), same = run(variables, jnp.where(mask[..., None], x, POISON))
    np.testing.assert_array_equal(outputs, same)
    jax.tree.map(np.testing.assert_array_equal, gradients, poisoned)
    np.testing.assert_array_equal(d_x, d_poison)
    assert not np.asarray(d_x)[~np.asarray(mask)].any()


def test_more_padding_changes_nothing():
    variables, apply, x = make_layer("lstm")
    outputs, last = apply(variables, x, mask_of(LENGTHS))
    longer, same = apply(variables, jnp.pad(x, ((0, 4), (0, 0), (0, 0))), mask_of(LENGTHS, T + 4))
    np.testing.assert_allclose(longer[:T], outputs, atol=ROUNDING)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=ROUNDING), same, last)


@pytest.mark.parametrize("cell", CELLS)
def test_two_halves_with_the_state_carried_equal_the_whole(cell):
    """The utterance that ends inside the first half keeps its state through the second."""
    variables, apply, x = make_layer(cell, bidirectional=False)
    mask = mask_of([7, 3])

    def whole(variables):
        outputs, last = apply(variables, x, mask)
        return (outputs**2).sum() + sum(s.sum() for s in last), (outputs, last)

    def halves(variables):
        first, state = apply(variables, x[:4], mask[:4])
        second, last = apply(variables, x[4:], mask[4:], state)
        outputs = jnp.concatenate([first, second])
        return (outputs**2).sum() + sum(s.sum() for s in last), (outputs, last)

    results = [jax.jit(jax.grad(f, has_aux=True))(variables) for f in (whole, halves)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=ROUNDING, rtol=ROUNDING), *results)


@pytest.mark.parametrize("form", FORMS)
def test_an_utterance_without_frames_keeps_its_initial_state(form):
    (projected, weights, bias, initial), _ = scan_arguments(CELLS["lstm"].gates, CELLS["lstm"].arrays)
    outputs, last = jax.jit(FORMS[form], static_argnums=0)(
        lstm, projected, weights, bias, initial, jnp.zeros((T, 2, B), bool)
    )
    jax.tree.map(np.testing.assert_array_equal, last, initial)
    assert outputs.shape == (T, 2, B, H)


@pytest.mark.parametrize(
    ("settings", "width", "input_columns"),
    [
        ({"bidirectional": True, "merge": "sum"}, H, 2 * 3 * H),
        ({"bidirectional": True, "merge": "concat"}, 2 * H, 2 * 3 * H),
        ({"bidirectional": True, "merge": "sum", "share_input": True}, H, 3 * H),
        ({"bidirectional": False, "merge": "concat"}, H, 3 * H),
    ],
)
def test_shapes_follow_merge_and_sharing(settings, width, input_columns):
    layer = Recurrent("gru", H, **settings)
    x = jnp.zeros((T, B, X))
    (outputs, last), variables = jax.eval_shape(layer.init_with_output, jax.random.key(0), x, mask_of(LENGTHS))
    assert outputs.shape == (T, B, width)
    assert [s.shape for s in last] == [(1 + settings["bidirectional"], B, H)]
    assert variables["params"]["input_kernel"].shape == (X, input_columns)


def test_only_the_forget_gate_starts_open():
    variables = jax.jit(Recurrent("lstm", H).init)(jax.random.key(0), jnp.zeros((1, B, X)), jnp.ones((1, B), bool))
    np.testing.assert_array_equal(variables["params"]["bias"], np.tile(np.repeat([0.0, 1.0, 0.0, 0.0], H), (2, 1)))


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_bfloat16_runs_close_to_float32_with_float32_gradients(cell):
    variables, apply, x = make_layer(cell)
    narrow = Recurrent(cell, H, clip=CLIP, dtype=jnp.bfloat16)
    mask = mask_of(LENGTHS)

    def total(variables):
        outputs, _ = narrow.apply(variables, x.astype(jnp.bfloat16), mask)
        return outputs.astype(jnp.float32).sum(), outputs

    gradients, outputs = jax.jit(jax.grad(total, has_aux=True))(variables)
    assert outputs.dtype == jnp.bfloat16
    np.testing.assert_allclose(outputs.astype(jnp.float32), apply(variables, x, mask)[0], atol=0.1)  # 8 bits, 7 frames
    assert all(g.dtype == jnp.float32 and np.isfinite(g).all() for g in jax.tree.leaves(gradients))


@pytest.mark.parametrize("form", FORMS)
def test_the_state_is_float32_in_bfloat16_networks(form, short_turns):
    """A state that changes little from frame to frame would stop changing in bfloat16."""
    frames = 200
    projected = (
        jnp.full((frames, 1, 1, 1), -20.0),
        jnp.full((frames, 1, 1, 1), 5.0),
        jnp.full((frames, 1, 1, 1), 20.0),
    )
    weights, bias, initial = jnp.zeros((1, 1, 3)), jnp.zeros((1, 3)), (jnp.zeros((1, 1, 1)),)
    arguments = jax.tree.map(lambda a: a.astype(jnp.bfloat16), (projected, weights, bias, initial))
    outputs, _ = jax.jit(FORMS[form], static_argnums=0)(gru, *arguments, jnp.ones((frames, 1, 1), bool))
    expected = 1 - (1 / (1 + np.exp(-5.0))) ** frames  # h' = z h + (1 - z), from 0
    assert float(outputs[-1, 0, 0, 0]) == pytest.approx(expected, rel=2**-8)


def test_each_platform_gets_its_form():
    cell_arguments, mask = scan_arguments(CELLS["gru"].gates, CELLS["gru"].arrays)
    lowered = {
        platform: jax.jit(scan_cell, static_argnums=0)
        .trace(gru, *cell_arguments, mask)
        .lower(lowering_platforms=(platform,))
        for platform in ("cpu", "cuda", "tpu")
    }
    loops = {platform: program.as_text().count("stablehlo.while") for platform, program in lowered.items()}
    assert loops == {"cpu": 1, "cuda": 0, "tpu": 0}  # so few frames are one turn of an accelerator's loop


def test_the_row_convolution_is_that_of_the_paper():
    """r[t, i] = sum of W[i, j] h[t + j - 1, i] for j = 1 .. tau + 1 (arXiv:1512.02595, section 3.7)."""
    rng = np.random.default_rng(0)
    x, tau = rng.standard_normal((9, 2, 3)).astype(np.float32), 4
    layer = RowConvolution(tau)
    variables = layer.init(jax.random.key(0), x)
    np.testing.assert_array_equal(layer.apply(variables, x), x)
    kernel = rng.standard_normal((tau + 1, 3)).astype(np.float32)
    expected = np.zeros_like(x)
    for t in range(9):
        for j in range(tau + 1):
            if t + j < 9:
                expected[t] += kernel[j] * x[t + j]
    actual = np.asarray(layer.apply({"params": {"kernel": kernel}}, x))
    np.testing.assert_allclose(actual, expected, atol=1e-5)
