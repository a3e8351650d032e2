"""Recurrent layers: one scan for both directions, with a backward pass of their own.

The input projection of all frames is one product outside the scan; the scan holds `h @ W_h` and element-wise work
only. Going back, the scan holds one product and a multiplication; slopes are made before it and the gradient of `W_h`
after it, for all frames at once. Gates are arrays of their own: XLA's CPU code reads a part of a frame ten times slower.

Letters: U frames, D directions (1 or 2), B batch, H hidden units, G gates, X input width.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

State = tuple[jax.Array, ...]  # each [D, B, H]; the first one is the layer's output
Gates = tuple[jax.Array, ...]  # each [D, B, H]
Cell = Callable[[State, Gates, Gates], State]


def simple_rnn(state: State, x: Gates, h: Gates, clip: float = 20.0) -> State:
    """h' = min(max(x + h, 0), clip), the clipped rectifier of Deep Speech 2 (arXiv:1512.02595, section 3.1)."""
    del state
    return (jnp.clip(x[0] + h[0], 0, clip),)


def gru(state: State, x: Gates, h: Gates) -> State:
    """Gated recurrent unit with the reset gate after the recurrent product; gates are reset, update, candidate.

    r = sigmoid(x_r + h_r);  z = sigmoid(x_z + h_z);  n = tanh(x_n + r * h_n);  h' = (1 - z) * n + z * h.
    """
    reset = jax.nn.sigmoid(x[0] + h[0])
    update = jax.nn.sigmoid(x[1] + h[1])
    candidate = jnp.tanh(x[2] + reset * h[2])
    return (candidate + update * (state[0] - candidate),)


def lstm(state: State, x: Gates, h: Gates) -> State:
    """Long short-term memory; gates are input, forget, candidate, output.

    c' = sigmoid(f) * c + sigmoid(i) * tanh(g);  h' = sigmoid(o) * tanh(c').
    """
    i, f, g, o = (a + b for a, b in zip(x, h, strict=True))
    carry = jax.nn.sigmoid(f) * state[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(carry), carry


CELLS: dict[str, tuple[Cell, int, int]] = {  # function, gates, arrays in the state
    "rnn": (simple_rnn, 1, 1),
    "gru": (gru, 3, 1),
    "lstm": (lstm, 4, 2),
}


def _select(mask: jax.Array, new: State, old: State) -> State:
    """Keep the old state where a frame is padding. mask [D, B]."""
    return tuple(jnp.where(mask[..., None], n, o) for n, o in zip(new, old, strict=True))


def _split(x: jax.Array, gates: int) -> Gates:
    """[..., G * H] -> G times [..., H]."""
    return tuple(jnp.split(x, gates, axis=-1))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def scan_cell(
    cell: Cell, projected: Gates, weights: jax.Array, bias: jax.Array, initial: State, mask: jax.Array
) -> tuple[jax.Array, State]:
    """Run a cell over all frames in the order given.

    projected G times [U, D, B, H] is W_x x of every frame, weights [D, H, G * H], bias [D, G * H] (inside the recurrent
    term), initial states [D, B, H], mask [U, D, B] false in padding, where the state stays as it is. A direction whose
    padding comes first therefore starts from its initial state at its first real frame. Returns outputs [U, D, B, H]
    and the last state.
    """
    return _scan_forward(cell, projected, weights, bias, initial, mask)[0]


def _scan_forward(cell, projected, weights, bias, initial, mask):
    def frame(state, inputs):
        x, valid = inputs
        product = jnp.einsum("dbh,dhg->dbg", state[0], weights)  # one for both directions: a third faster on CPU
        h = _split(product + bias[:, None], len(x))
        new = _select(valid, cell(state, x, h), state)
        return new, (new, h)

    last, (states, recurrent) = jax.lax.scan(frame, initial, (projected, mask))
    return (states[0], last), (projected, weights, initial, mask, states, recurrent)


def _scan_backward(cell, residuals, gradients):
    """Pass gradients from frame to frame; what does not depend on them is made for all frames before and after.

    A cell works on each unit alone, so its gradient is the arriving one times a slope, one for each array of the state,
    and a vector of ones draws all slopes out at once. Padding has the slope of standing still.
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
    across = jax.lax.optimization_barrier(weights.transpose(0, 2, 1))  # so it lies in memory: the faster product

    def times(d_state: State, to: list[State]) -> State:
        """Multiply each gradient of the state by its slopes and add up."""
        return tuple(sum(d * s for d, s in zip(d_state, of_one, strict=True)) for of_one in zip(*to, strict=True))

    def frame(d_state, inputs):
        d_output, to_state, to_recurrent = inputs
        d_state = (d_state[0] + d_output, *d_state[1:])
        d_h = jnp.concatenate(times(d_state, to_recurrent), axis=-1)
        passed = times(d_state, to_state)
        return (passed[0] + jnp.einsum("dbg,dgh->dbh", d_h, across), *passed[1:]), d_state

    d_initial, d_states = jax.lax.scan(frame, d_last, (d_outputs, to_state, to_recurrent), reverse=True)
    d_recurrent = jnp.concatenate(times(d_states, to_recurrent), axis=-1)  # [U, D, B, G * H]
    wide = jnp.promote_types(weights.dtype, jnp.float32)
    d_weights = jnp.einsum("udbh,udbg->dhg", before[0], d_recurrent, preferred_element_type=wide)
    d_bias = d_recurrent.sum((0, 2), dtype=wide)
    return times(d_states, to_projected), d_weights.astype(weights.dtype), d_bias.astype(weights.dtype), d_initial, None


scan_cell.defvjp(_scan_forward, _scan_backward)


def _uniform(key: jax.Array, shape: tuple[int, int, int], dtype=jnp.float32) -> jax.Array:
    """Uniform within 1 / sqrt(H), as cuDNN's users do.

    (Orthogonal blocks need a QR, which can deadlock in jit on CPU: jaxlib 0.10.)
    """
    bound = shape[1] ** -0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)


class Recurrent(nn.Module):
    """One recurrent layer over [U, B, X], masked, uni- or bidirectional.

    Attributes: cell (a key of CELLS), hidden H, bidirectional, merge ('sum' or 'concat' of the two directions),
    share_input (one input projection for both directions, as the original's simple RNN), clip (ceiling of the simple
    RNN's rectifier).
    """

    cell: str
    hidden: int
    bidirectional: bool = True
    merge: str = "sum"
    share_input: bool = False
    clip: float = 20.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, initial: State | None = None) -> tuple[jax.Array, State]:
        """x [U, B, X], mask [U, B] -> outputs [U, B, H or 2H] that are zero in padding, last state ([D, B, H] each)."""
        function, gates, state_size = CELLS[self.cell]
        if self.cell == "rnn":
            function = _clipped(self.clip)
        frames, batch, width = x.shape
        directions, columns = (2 if self.bidirectional else 1), gates * self.hidden
        copies = 1 if self.share_input else directions
        w_x = self.param("input_kernel", nn.initializers.lecun_normal(), (width, copies * columns))
        w_h = self.param("recurrent_kernel", _uniform, (directions, self.hidden, columns))
        bias = self.param("bias", _bias(self.cell), (directions, columns))

        # x stays [U, B, X] in it: merged into [U * B, X], a batch that is split over devices would be gathered
        product = (x @ w_x.astype(self.dtype)).reshape(frames, batch, copies, columns)
        product = jnp.broadcast_to(product.transpose(0, 2, 1, 3), (frames, directions, batch, columns))
        projected = tuple(_flip_second(gate) for gate in _split(product, gates))
        if initial is None:
            initial = (jnp.zeros((directions, batch, self.hidden), self.dtype),) * state_size
        outputs, last = scan_cell(
            function,
            projected,
            w_h.astype(self.dtype),
            bias.astype(self.dtype),
            initial,
            _flip_second(jnp.broadcast_to(mask[:, None], (frames, directions, batch))),
        )
        outputs = _flip_second(outputs) * mask[:, None, :, None]  # [U, D, B, H]
        if self.merge == "sum":
            return outputs.sum(1), last
        return outputs.transpose(0, 2, 1, 3).reshape(frames, batch, directions * self.hidden), last


def _flip_second(x: jax.Array) -> jax.Array:
    """Turn the second direction of [U, D, ...] round in time; its padding, now first, is passed over by the mask."""
    if x.shape[1] == 1:
        return x
    return jnp.stack([x[:, 0], x[::-1, 1]], axis=1)


@functools.cache
def _clipped(clip: float) -> Cell:
    """Return one function object for each ceiling, so that jit sees the same static argument again."""
    return functools.partial(simple_rnn, clip=clip)


def _bias(cell: str) -> Callable:
    """Zero, but 1 for the LSTM's forget gate (Jozefowicz et al. 2015, section 2.2)."""

    def init(key, shape, dtype=jnp.float32):
        zeros = jnp.zeros(shape, dtype)
        if cell != "lstm":
            return zeros
        hidden = shape[-1] // 4
        return zeros.at[:, hidden : 2 * hidden].set(1.0)

    return init
