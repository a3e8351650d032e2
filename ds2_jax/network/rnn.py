"""Recurrent layers: one scan for both directions, with a custom backward pass.

The input projection of all frames is one product outside the scan, which contains only `h @ W_h` and element-wise
operations. The backward scan contains one product and one multiplication; the local derivatives are computed before it
and the gradient of `W_h` after it, for all frames at once. Gates are separate arrays because XLA's CPU code reads a
slice of a frame ten times slower than a whole one. The original's GRU needs two products a step and JAX's own gradient.

Letters: U frames, D directions (1 or 2), B batch, H hidden units, G gates, X input width.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from ds2_jax.network.norm import MaskedBatchNorm

State = tuple[jax.Array, ...]  # each [D, B, H]; the first is the layer's output
Gates = tuple[jax.Array, ...]  # each [D, B, H]
Cell = Callable[[State, Gates, Gates], State]


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


def lstm(state: State, x: Gates, h: Gates) -> State:
    """Advance a long short-term memory.

    Gates: input, forget, candidate, output. c' = sigmoid(f) * c + sigmoid(i) * tanh(g);  h' = sigmoid(o) * tanh(c').
    """
    i, f, g, o = (a + b for a, b in zip(x, h, strict=True))
    carry = jax.nn.sigmoid(f) * state[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(carry), carry


def _select(mask: jax.Array, new: State, old: State) -> State:
    """Return the new state for valid frames and the old state for padding. mask [D, B]."""
    return tuple(jnp.where(mask[..., None], n, o) for n, o in zip(new, old, strict=True))


def _split(x: jax.Array, gates: int) -> Gates:
    """Split the gates: [..., G * H] -> G times [..., H]."""
    return tuple(jnp.split(x, gates, axis=-1))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def scan_cell(
    cell: Cell, projected: Gates, weights: jax.Array, bias: jax.Array, initial: State, mask: jax.Array
) -> tuple[jax.Array, State]:
    """Run a cell over all frames in the given order.

    projected: G times [U, D, B, H], W_x x of every frame; weights [D, H, G * H]; bias [D, G * H], inside the recurrent
    term; initial: states [D, B, H]; mask [U, D, B], false in padding, where the state does not change. A direction whose
    padding comes first therefore starts from its initial state at its first valid frame. Returns outputs [U, D, B, H]
    and the last state.
    """
    return _scan_forward(cell, projected, weights, bias, initial, mask)[0]


def _scan_forward(cell, projected, weights, bias, initial, mask):
    def frame(state, inputs):
        x, valid = inputs
        product = jnp.einsum("dbh,dhg->dbg", state[0], weights)  # both directions at once: a third faster on CPU
        h = _split(product + bias[:, None], len(x))
        new = _select(valid, cell(state, x, h), state)
        return new, (new, h)

    last, (states, recurrent) = jax.lax.scan(frame, initial, (projected, mask))
    return (states[0], last), (projected, weights, initial, mask, states, recurrent)


def _scan_backward(cell, residuals, gradients):
    """Propagate gradients from frame to frame; everything else is computed for all frames before or after the scan.

    A cell is element-wise, so its gradient is the incoming gradient times a local derivative for each array of the state;
    a vector-Jacobian product with ones returns the derivatives of all units at once. In padding the state is copied, so
    its derivative is 1.
    """
    projected, weights, initial, mask, states, recurrent = residuals
    d_outputs, d_last = gradients
    before = tuple(jnp.concatenate([i[None], s[:-1]]) for i, s in zip(initial, states, strict=True))
    pull = jax.vjp(cell, before, projected, recurrent)[1]
    arrays, inside = range(len(states)), mask[..., None]
    slopes = [pull(tuple(jnp.full_like(s, i == j) for i, s in enumerate(states))) for j in arrays]
    to_state = [tuple(jnp.where(inside, s, float(i == j)) for i, s in enumerate(slopes[j][0])) for j in arrays]
    to_projected = [tuple(jnp.where(inside, s, 0) for s in slopes[j][1]) for j in arrays]
    to_recurrent = [tuple(jnp.where(inside, s, 0) for s in slopes[j][2]) for j in arrays]
    transposed = jax.lax.optimization_barrier(weights.transpose(0, 2, 1))  # stored transposed: the product is faster

    def times(d_state: State, to: list[State]) -> State:
        """Multiply each gradient of the state by its slopes and sum."""
        return tuple(sum(d * s for d, s in zip(d_state, of_one, strict=True)) for of_one in zip(*to, strict=True))

    def frame(d_state, inputs):
        d_output, to_state, to_recurrent = inputs
        d_state = (d_state[0] + d_output, *d_state[1:])
        d_h = jnp.concatenate(times(d_state, to_recurrent), axis=-1)
        passed = times(d_state, to_state)
        return (passed[0] + jnp.einsum("dbg,dgh->dbh", d_h, transposed), *passed[1:]), d_state

    d_initial, d_states = jax.lax.scan(frame, d_last, (d_outputs, to_state, to_recurrent), reverse=True)
    d_recurrent = jnp.concatenate(times(d_states, to_recurrent), axis=-1)  # [U, D, B, G * H]
    wide = jnp.promote_types(weights.dtype, jnp.float32)
    d_weights = jnp.einsum("udbh,udbg->dhg", before[0], d_recurrent, preferred_element_type=wide)
    d_bias = d_recurrent.sum((0, 2), dtype=wide)
    return times(d_states, to_projected), d_weights.astype(weights.dtype), d_bias.astype(weights.dtype), d_initial, None


scan_cell.defvjp(_scan_forward, _scan_backward)


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

    last, outputs = jax.lax.scan(frame, initial, (projected, mask))
    return outputs, last


Scan = Callable[[Gates, jax.Array, jax.Array, State, jax.Array], tuple[jax.Array, State]]


class CellKind(NamedTuple):
    """A recurrent cell: its scan over all frames, the number of its gates, and of the arrays in its state."""

    scan: Scan
    gates: int
    arrays: int


CELLS = {
    "rnn": CellKind(functools.partial(scan_cell, simple_rnn), 1, 1),
    "gru": CellKind(functools.partial(scan_cell, gru), 3, 1),
    "lstm": CellKind(functools.partial(scan_cell, lstm), 4, 2),
    "gru_relu": CellKind(scan_gru_relu, 3, 1),
}


def _uniform(key: jax.Array, shape: tuple[int, int, int], dtype=jnp.float32) -> jax.Array:
    """Draw uniformly within 1 / sqrt(H), as PyTorch does by default.

    Orthogonal initialisation needs a QR decomposition, which can deadlock inside jit on CPU (jaxlib 0.10).
    """
    bound = shape[1] ** -0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)


class Recurrent(nn.Module):
    """Masked recurrent layer over [U, B, X], unidirectional or bidirectional.

    Attributes: cell (a key of CELLS), hidden H, bidirectional, merge ('sum' or 'concat' of the two directions),
    share_input (one input projection for both directions, as in the original's simple RNN), clip (upper limit of the
    simple RNN's rectifier), norm_momentum (of the batch normalisation of the projection; None for none), train (as of
    `MaskedBatchNorm`).
    """

    cell: str
    hidden: int
    bidirectional: bool = True
    merge: str = "sum"
    share_input: bool = False
    clip: float = 20.0
    dtype: jnp.dtype = jnp.float32
    norm_momentum: float | None = None
    train: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, mask: jax.Array, initial: State | None = None, kept: int | None = None
    ) -> tuple[jax.Array, State]:
        """Map x [U, B, X], mask [U, B] to outputs [U, B, H or 2H], zero in padding, and the last state ([D, B, H] each).

        kept: return the state after this number of steps instead.
        """
        scan_frames, gates, state_size = CELLS[self.cell]
        if self.cell == "rnn":
            scan_frames = functools.partial(scan_cell, _clipped(self.clip))
        frames, batch, width = x.shape
        directions, columns = (2 if self.bidirectional else 1), gates * self.hidden
        copies = 1 if self.share_input else directions
        w_x = self.param("input_kernel", nn.initializers.lecun_normal(), (width, copies * columns))
        w_h = self.param("recurrent_kernel", _uniform, (directions, self.hidden, columns))
        bias = self.param("bias", _bias(self.cell), (directions, columns))

        # not reshaped to [U * B, X]: XLA would gather a batch that is split over devices
        product = x @ w_x.astype(self.dtype)
        if self.norm_momentum is not None:
            product = MaskedBatchNorm(self.norm_momentum, name="norm")(product, mask[..., None], self.train)
        product = product.reshape(frames, batch, copies, columns)
        product = jnp.broadcast_to(product.transpose(0, 2, 1, 3), (frames, directions, batch, columns))
        projected = tuple(_flip_second(gate) for gate in _split(product, gates))
        if initial is None:
            initial = (jnp.zeros((directions, batch, self.hidden), self.dtype),) * state_size
        steps = (projected, _flip_second(jnp.broadcast_to(mask[:, None], (frames, directions, batch))))

        def scan(state: State, part: slice) -> tuple[jax.Array, State]:
            projected, mask = jax.tree.map(lambda array: array[part], steps)
            return scan_frames(projected, w_h.astype(self.dtype), bias.astype(self.dtype), state, mask)

        outputs, last = scan(initial, slice(kept))
        if kept is not None and kept < frames:
            rest, _ = scan(last, slice(kept, None))
            outputs = jnp.concatenate([outputs, rest])
        outputs = _flip_second(outputs) * mask[:, None, :, None]  # [U, D, B, H]
        if self.merge == "sum":
            return outputs.sum(1), last
        return outputs.transpose(0, 2, 1, 3).reshape(frames, batch, directions * self.hidden), last


class RowConvolution(nn.Module):
    """Look-ahead convolution of a unidirectional network (arXiv:1512.02595, section 3.7).

    y[u] = sum of w[j] * x[u + j] for j = 0 .. frames, with a weight for each unit and frame; frames beyond the end are 0.
    Initially y = x.
    """

    frames: int

    @nn.compact
    def __call__(self, x: jax.Array, after: jax.Array | None = None) -> jax.Array:
        """Map x [U, B, H], zero in padding, to [U, B, H]. after [frames, B, H]: the frames that follow x; None for zeros."""
        weights = self.param("kernel", _identity, (self.frames + 1, x.shape[-1])).astype(x.dtype)
        if after is None:
            after = jnp.zeros((self.frames, *x.shape[1:]), x.dtype)
        x, length = jnp.concatenate([x, after]), x.shape[0]
        return jnp.stack([weights[j] * x[j : j + length] for j in range(self.frames + 1)]).sum(0)


def _identity(key: jax.Array, shape: tuple[int, int], dtype=jnp.float32) -> jax.Array:
    del key
    return jnp.zeros(shape, dtype).at[0].set(1)


def _flip_second(x: jax.Array) -> jax.Array:
    """Reverse the second direction of [U, D, ...] in time; its padding, now first, is skipped by the mask."""
    if x.shape[1] == 1:
        return x
    return jnp.stack([x[:, 0], x[::-1, 1]], axis=1)


@functools.cache
def _clipped(clip: float) -> Cell:
    """Return the same function object for the same limit, so that jit recognises the static argument."""
    return functools.partial(simple_rnn, clip=clip)


def _bias(cell: str) -> Callable:
    """Return an initialiser: zeros, but ones for the LSTM's forget gate (Jozefowicz et al. 2015, section 2.2)."""

    def init(key, shape, dtype=jnp.float32):
        zeros = jnp.zeros(shape, dtype)
        if cell != "lstm":
            return zeros
        hidden = shape[-1] // 4
        return zeros.at[:, hidden : 2 * hidden].set(1.0)

    return init
