"""Cells, and the scan of a cell over all frames and both directions, with a custom backward pass.

The input projection of all frames is one product outside the scan, which contains only `h @ W_h` and element-wise
operations; the gradient of `W_h` is one product after the backward scan. (The original's GRU needs two products a step and
JAX's own gradient.) State, gates and sums are float32 also where `compute_dtype` is bfloat16; what is kept for the backward
pass has the compute type.

What costs time differs, so there are two forms of the scan, equal up to rounding; the platform of the program decides
(`platforms`). A CPU computes: its form keeps the recurrent products, multiplies by local derivatives that are computed for all
frames at once, and holds gates as separate arrays, because XLA's CPU code reads a slice of a frame ten times slower than a
whole one. A GPU or TPU launches kernels and moves memory: its form unrolls frames, so that each is one product and one or two
fused kernels, keeps only the states, and makes the products again, for all frames at once. On TPUs, all frames are one
kernel where the recurrent matrix fits into fast memory (`vmem_scan`).

Letters: U frames, D directions (1 or 2), B batch, H hidden units, G gates.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ds2_jax.network.platforms import platform_dependent
from ds2_jax.network.vmem_scan import fits, vmem_scan

UNROLL = 8  # frames of one turn of an accelerator's loop

State = tuple[jax.Array, ...]  # each [D, B, H]; the first is the layer's output
Gates = tuple[jax.Array, ...]  # each [D, B, H]
# Of state, x and h. If the state has a carry, the cell also takes the new carry, as if it were known; the output depends on
# that and the last gate, the carry on the other gates.
Cell = Callable[..., State]
Loop = Callable[..., tuple]  # of frame, constants, carry, inputs and reverse, like unrolled_scan


def simple_rnn(state: State, x: Gates, h: Gates, clip: float = 20.0) -> State:
    """Compute h' = min(max(x + h, 0), clip), the clipped rectifier of Deep Speech 2 (arXiv:1512.02595, section 3.1)."""
    del state
    return (jnp.clip(x[0] + h[0], 0, clip),)


def gru(state: State, x: Gates, h: Gates) -> State:
    """Advance a gated recurrent unit that applies its reset gate after the recurrent product.

    Gates: reset, update, candidate. r = sigmoid(x_r + h_r);  z = sigmoid(x_z + h_z);  n = tanh(x_n + r * h_n);
    h' = (1 - z) * n + z * h.
    """
    reset = jax.nn.sigmoid(x[0] + h[0])
    update = jax.nn.sigmoid(x[1] + h[1])
    candidate = jnp.tanh(x[2] + reset * h[2])
    return (candidate + update * (state[0] - candidate),)


def lstm(state: State, x: Gates, h: Gates, known: jax.Array | None = None) -> State:
    """Advance a long short-term memory.

    Gates: input, forget, candidate, output. c' = sigmoid(f) * c + sigmoid(i) * tanh(g);  h' = sigmoid(o) * tanh(c').
    known: c', if h' is to be computed from it (its gradient is then separate).
    """
    i, f, g, o = (a + b for a, b in zip(x, h, strict=True))
    carry = jax.nn.sigmoid(f) * state[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(carry if known is None else known), carry


def scan_cell(
    cell: Cell, projected: Gates, weights: jax.Array, bias: jax.Array, initial: State, mask: jax.Array
) -> tuple[jax.Array, State]:
    """Run a cell over all frames in the given order, in the form that suits the platform.

    projected: G times [U, D, B, H], W_x x of every frame; weights [D, H, G * H]; bias [D, G * H], inside the recurrent
    term; initial: states [D, B, H]; mask [U, D, B], false in padding, where the state does not change. A direction whose
    padding comes first therefore starts from its initial state at its first valid frame. Returns outputs [U, D, B, H]
    and the last state, in the type of `weights`.
    """
    forms = {"cpu": functools.partial(scan_keeping_products, cell)}
    if fits((weights, bias), initial, projected):
        forms["tpu"] = functools.partial(scan_keeping_states, cell, vmem_scan)
    accelerator = functools.partial(scan_keeping_states, cell, unrolled_scan)
    return platform_dependent(projected, weights, bias, initial, mask, **forms, default=accelerator)


def unrolled_scan(frame, constants, carry, inputs, *, reverse: bool = False):
    """Run a frame, a function of constants, carry and inputs, over all frames in turns of UNROLL frames."""
    turn = _turn(jax.tree.leaves(inputs)[0].shape[0])
    return jax.lax.scan(functools.partial(frame, constants), carry, inputs, reverse=reverse, unroll=turn)


def _plain_scan(frame, constants, carry, inputs):
    return jax.lax.scan(functools.partial(frame, constants), carry, inputs)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def scan_keeping_products(
    cell: Cell, projected: Gates, weights: jax.Array, bias: jax.Array, initial: State, mask: jax.Array
) -> tuple[jax.Array, State]:
    """Run a cell in the form for CPUs; parameters and results as of `scan_cell`."""
    return _keep_products(cell, projected, weights, bias, initial, mask)[0]


def _keep_products(cell, projected, weights, bias, initial, mask):
    def kept(states, products):
        return states, products

    last, (states, products) = _run(cell, kept, _plain_scan, (projected, weights, bias, initial, mask))
    return (states[0], last), (projected, weights, initial, mask, states, products)


class Slopes(NamedTuple):
    """Local derivatives of all frames, each [U, D, B, H]: of the output to the new carry, and of a result to its inputs.

    The result is the output or, for all gates but the last of a cell with a carry, the new carry.
    """

    to_carry: State  # empty for a cell without a carry
    to_state: State
    to_projected: Gates
    to_products: Gates


def _slopes(cell, residuals) -> Slopes:
    """Return the local derivatives.

    A cell is element-wise, so its gradient is the incoming gradient times a local derivative; a vector-Jacobian product
    with ones returns those of all units at once. With the new carry as an input of its own, each gate has an effect on one
    result only, so one such product separates them. In padding the state is copied, so its derivative is 1.
    """
    projected, _, initial, mask, states, products = residuals
    inside = mask[..., None]
    _, pull = jax.vjp(cell, _before(initial, states), projected, products, *states[1:])
    to_state, *rest = pull(tuple(map(jnp.ones_like, states)))
    to_projected, to_products, *to_carry = jax.tree.map(lambda slope: jnp.where(inside, slope, 0), rest)
    return Slopes(tuple(to_carry), tuple(jnp.where(inside, s, 1) for s in to_state), to_projected, to_products)


def _times(results: State, slopes: Gates) -> Gates:
    """Multiply the gradients of the results, output and carry, by the slopes to the gates."""
    last = len(slopes) - 1
    return tuple(results[0 if i == last else -1] * slope for i, slope in enumerate(slopes))


def _backward_of_products(cell, residuals, gradients):
    """Propagate gradients from frame to frame; everything else is computed for all frames before or after the scan."""
    _, weights, initial, _, states, _ = residuals
    slopes = _slopes(cell, residuals)
    transposed = jax.lax.optimization_barrier(weights.transpose(0, 2, 1))  # stored transposed: the product is faster

    def frame(d_state, inputs):
        d_output, to_carry, to_state, to_products = inputs
        d_output = d_state[0] + d_output
        results = (d_output, *(d + d_output * slope for d, slope in zip(d_state[1:], to_carry, strict=True)))
        d_products = jnp.concatenate(_times(results, to_products), axis=-1)
        passed = tuple(d * slope for d, slope in zip(results, to_state, strict=True))
        return (passed[0] + _multiply(d_products, transposed), *passed[1:]), _cast(results, weights.dtype)

    d_outputs, d_last = gradients
    inputs = d_outputs, slopes.to_carry, slopes.to_state, slopes.to_products
    d_initial, d_results = jax.lax.scan(frame, _cast(d_last, _wide(weights)), inputs, reverse=True)
    d_products = jnp.concatenate(_times(d_results, slopes.to_products), axis=-1)  # [U, D, B, G * H]
    d_weights, d_bias = _sum_frames(_before(initial, states)[0], d_products, weights)
    return _times(d_results, slopes.to_projected), d_weights, d_bias, _cast(d_initial, weights.dtype), None


scan_keeping_products.defvjp(_keep_products, _backward_of_products)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def scan_keeping_states(cell: Cell, loop: Loop, *arguments) -> tuple[jax.Array, State]:
    """Run a cell in the form for GPUs and TPUs; arguments and results as of `scan_cell`, loop: how frames are repeated."""
    return _keep_states(cell, loop, *arguments)[0]


def _keep_states(cell, loop, *arguments):
    projected, weights, bias, initial, mask = arguments
    frames = mask.shape[0]
    projected, mask = _whole_turns((projected, mask))  # a rest of fewer frames would cost a copy of everything
    last, states = _run(cell, lambda states, products: states, loop, (projected, weights, bias, initial, mask))
    return (states[0][:frames], last), (projected, weights, bias, initial, mask, states)


def _backward_of_states(cell, loop, residuals, gradients):
    """Propagate gradients from frame to frame through the cell's own gradient, then compute those of all frames again."""
    projected, weights, bias, initial, mask, states = residuals
    before = _before(initial, states)
    # the barrier keeps them in the compute type: float32 sums of all frames would need twice the memory
    products = jax.lax.optimization_barrier(jnp.einsum("udbh,dhg->udbg", before[0], weights))
    transposed = jax.lax.optimization_barrier(weights.transpose(0, 2, 1))

    def pull(bias: jax.Array, d_state: State, before: State, x: Gates, products: jax.Array, valid: jax.Array):
        """Return the gradients of the state before, of x and of the products, whose gates are side by side."""
        h = _split(products.astype(_wide(weights)) + bias, len(x))
        inputs = *_cast((before, x), _wide(weights)), h
        d_before, d_x, d_h = jax.vjp(cell, *inputs)[1](tuple(jnp.where(valid, d, 0) for d in d_state))
        return _select(valid, d_before, d_state), d_x, jnp.concatenate(d_h, axis=-1).astype(weights.dtype)

    def frame(constants, d_state, inputs):
        transposed, bias = constants
        d_output, *rest = inputs
        d_state = (d_state[0] + d_output, *d_state[1:])
        d_before, _, d_products = pull(bias, d_state, *rest)
        return (d_before[0] + _multiply(d_products, transposed), *d_before[1:]), _cast(d_state, weights.dtype)

    d_outputs, d_last = gradients
    start, rest = _cast(d_last, _wide(weights)), (before, projected, products, mask[..., None])
    inputs = _whole_turns(d_outputs), *rest
    d_initial, d_states = loop(frame, (transposed, bias[:, None]), start, inputs, reverse=True)
    _, d_projected, d_products = pull(bias[:, None], _cast(d_states, _wide(weights)), *rest)
    d_weights, d_bias = _sum_frames(before[0], d_products, weights)
    d_projected = tuple(d[: d_outputs.shape[0]].astype(weights.dtype) for d in d_projected)
    return d_projected, d_weights, d_bias, _cast(d_initial, weights.dtype), None


scan_keeping_states.defvjp(_keep_states, _backward_of_states)


def _run(cell, kept, loop, arguments):
    """Return the last state, and what `kept(states, products)` selects of all frames, in the compute type."""
    projected, weights, bias, initial, mask = arguments

    def frame(constants, state, inputs):
        weights, bias = constants
        x, valid = inputs
        h = _split(_multiply(state[0].astype(weights.dtype), weights) + bias, len(x))
        new = _select(valid, cell(state, x, h), state)
        return new, _cast(kept(new, h), weights.dtype)

    start = _cast(initial, _wide(weights))
    last, stored = loop(frame, (weights, bias[:, None]), start, (projected, mask[..., None]))
    return _cast(last, weights.dtype), stored


def _turn(frames: int) -> int:
    """Return how many frames a turn of an accelerator's loop has: one, if their number is unknown (a symbol of an export)."""
    return min(UNROLL, frames) if isinstance(frames, int) else 1


def _whole_turns(arrays):
    """Append zeros to arrays [U, ...], so that turns divide the frames; a mask is false there."""

    def pad(array: jax.Array) -> jax.Array:
        rest = -array.shape[0] % max(1, _turn(array.shape[0]))
        return jnp.pad(array, ((0, rest), *((0, 0),) * (array.ndim - 1)))

    return jax.tree.map(pad, arrays)


def _before(initial: State, states: State) -> State:
    """Return the states [U, D, B, H] before each frame."""
    return tuple(jnp.concatenate([i[None], s[:-1]]) for i, s in zip(initial, states, strict=True))


def _sum_frames(h: jax.Array, d_products: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the gradients of weights and bias: h [U, D, B, H] and d_products [U, D, B, G * H], summed over frames."""
    d_weights = jnp.einsum("udbh,udbg->dhg", h, d_products, preferred_element_type=_wide(weights))
    d_bias = d_products.sum((0, 2), dtype=_wide(weights))
    return d_weights.astype(weights.dtype), d_bias.astype(weights.dtype)


def _multiply(x: jax.Array, weights: jax.Array) -> jax.Array:
    """Multiply [..., D, B, n] by [D, n, m] in both directions at once (on CPU a third faster), summing in float32."""
    return jnp.einsum("...dbn,dnm->...dbm", x, weights, preferred_element_type=_wide(weights))


def _wide(array: jax.Array) -> jnp.dtype:
    """Return the type of sums: float32, or float64 for float64."""
    return jnp.promote_types(array.dtype, jnp.float32)


def _cast(tree, dtype: jnp.dtype):
    return jax.tree.map(lambda array: array.astype(dtype), tree)


def _select(mask: jax.Array, new: State, old: State) -> State:
    """Return the new state for valid frames and the old state for padding. mask [..., D, B, 1]."""
    return tuple(jnp.where(mask, n, o) for n, o in zip(new, old, strict=True))


def _split(x: jax.Array, gates: int) -> Gates:
    """Split the gates: [..., G * H] -> G times [..., H]."""
    return tuple(jnp.split(x, gates, axis=-1))


def scan_gru_relu(
    projected: Gates, weights: jax.Array, bias: jax.Array, initial: State, mask: jax.Array
) -> tuple[jax.Array, State]:
    """Run the original's GRU, which applies its reset gate before the recurrent product and rectifies its candidate.

    Gates: reset, update, candidate. r = sigmoid(x_r + h W_r + b_r);  z = sigmoid(x_z + h W_z + b_z);
    n = max(x_n + (r * h) W_n + b_n, 0);  h' = (1 - z) * n + z * h. Parameters and results as of `scan_cell`.
    """
    hidden = weights.shape[1]
    for_gates, for_candidate = weights[..., : 2 * hidden], weights[..., 2 * hidden :]

    def frame(state, inputs):
        x, valid = inputs
        h = state[0]
        gates = jnp.einsum("dbh,dhg->dbg", h, for_gates) + bias[:, None, : 2 * hidden]
        reset, update = (jax.nn.sigmoid(a + b) for a, b in zip(x[:2], _split(gates, 2), strict=True))
        product = jnp.einsum("dbh,dhg->dbg", reset * h, for_candidate) + bias[:, None, 2 * hidden :]
        candidate = jax.nn.relu(x[2] + product)
        new = _select(valid, (candidate + update * (h - candidate),), state)
        return new, new[0]

    last, outputs = jax.lax.scan(frame, initial, (projected, mask[..., None]))
    return outputs, last
