"""Recurrent layers: one scan for both directions, with a backward pass of their own.

The input projection of all frames is one product outside the scan; the scan holds `h @ W_h` and element-wise work
only. Going back, the scan passes gradients from frame to frame, and the gradient of `W_h` is one product over all
frames afterwards.

Letters: U frames, D directions (1 or 2), B batch, H hidden units, G gate columns (H, 3H or 4H), X input width.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

State = tuple[jax.Array, ...]  # each [D, B, H]; the first one is the layer's output
Cell = Callable[[State, jax.Array, jax.Array], State]


def simple_rnn(state: State, x: jax.Array, h: jax.Array, clip: float = 20.0) -> State:
    """h' = min(max(x + h, 0), clip), the clipped rectifier of Deep Speech 2 (arXiv:1512.02595, section 3.1)."""
    del state
    return (jnp.clip(x + h, 0, clip),)


def gru(state: State, x: jax.Array, h: jax.Array) -> State:
    """Gated recurrent unit with the reset gate after the recurrent product; columns are reset, update, candidate.

    r = sigmoid(x_r + h_r);  z = sigmoid(x_z + h_z);  n = tanh(x_n + r * h_n);  h' = (1 - z) * n + z * h.
    """
    x_r, x_z, x_n = jnp.split(x, 3, axis=-1)
    h_r, h_z, h_n = jnp.split(h, 3, axis=-1)
    reset = jax.nn.sigmoid(x_r + h_r)
    update = jax.nn.sigmoid(x_z + h_z)
    candidate = jnp.tanh(x_n + reset * h_n)
    return (candidate + update * (state[0] - candidate),)


def lstm(state: State, x: jax.Array, h: jax.Array) -> State:
    """Long short-term memory; columns are input, forget, candidate, output.

    c' = sigmoid(f) * c + sigmoid(i) * tanh(g);  h' = sigmoid(o) * tanh(c').
    """
    i, f, g, o = jnp.split(x + h, 4, axis=-1)
    carry = jax.nn.sigmoid(f) * state[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(carry), carry


CELLS: dict[str, tuple[Cell, int, int]] = {  # function, gate columns per unit, arrays in the state
    "rnn": (simple_rnn, 1, 1),
    "gru": (gru, 3, 1),
    "lstm": (lstm, 4, 2),
}


def _select(mask: jax.Array, new: State, old: State) -> State:
    """Keep the old state where a frame is padding. mask [D, B]."""
    return tuple(jnp.where(mask[..., None], n, o) for n, o in zip(new, old, strict=True))


def _recurrent_product(h: jax.Array, weights: jax.Array, bias: jax.Array) -> jax.Array:
    """[D, B, H] x [D, H, G] + [D, 1, G]: one product for both directions (a third faster on CPU than one each)."""
    return jnp.einsum("dbh,dhg->dbg", h, weights) + bias[:, None]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def scan_cell(
    cell: Cell, projected: jax.Array, weights: jax.Array, bias: jax.Array, initial: State, mask: jax.Array
) -> tuple[jax.Array, State]:
    """Run a cell over all frames in the order given.

    projected [U, D, B, G] is W_x x of every frame, weights [D, H, G], bias [D, G] (inside the recurrent term),
    initial states [D, B, H], mask [U, D, B] false in padding, where the state stays as it is. A direction whose
    padding comes first therefore starts from its initial state at its first real frame. Returns outputs [U, D, B, H]
    and the last state.
    """
    return _scan_forward(cell, projected, weights, bias, initial, mask)[0]


def _scan_forward(cell, projected, weights, bias, initial, mask):
    def frame(state, inputs):
        x, valid = inputs
        h = _recurrent_product(state[0], weights, bias)
        new = _select(valid, cell(state, x, h), state)
        return new, (new, h)

    last, (states, recurrent) = jax.lax.scan(frame, initial, (projected, mask))
    return (states[0], last), (projected, weights, bias, initial, mask, states, recurrent)


def _scan_backward(cell, residuals, gradients):
    projected, weights, bias, initial, mask, states, recurrent = residuals
    d_outputs, d_last = gradients
    before = tuple(jnp.concatenate([i[None], s[:-1]]) for i, s in zip(initial, states, strict=True))

    def frame(d_state, inputs):
        d_output, previous, x, h, valid = inputs
        d_state = (d_state[0] + d_output, *d_state[1:])
        zeros = tuple(jnp.zeros_like(d) for d in d_state)
        d_previous, d_x, d_h = jax.vjp(cell, previous, x, h)[1](_select(valid, d_state, zeros))
        through = jnp.einsum("dbg,dhg->dbh", d_h, weights)
        passed = _select(valid, zeros, d_state)
        d_previous = tuple(d + p for d, p in zip(d_previous, passed, strict=True))
        return (d_previous[0] + through, *d_previous[1:]), (d_x, d_h)

    d_initial, (d_projected, d_recurrent) = jax.lax.scan(
        frame, d_last, (d_outputs, before, projected, recurrent, mask), reverse=True
    )
    wide = jnp.promote_types(weights.dtype, jnp.float32)
    d_weights = jnp.einsum("udbh,udbg->dhg", before[0], d_recurrent, preferred_element_type=wide)
    d_bias = d_recurrent.sum((0, 2), dtype=wide)
    return d_projected, d_weights.astype(weights.dtype), d_bias.astype(bias.dtype), d_initial, None


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

        projected = (x.reshape(frames * batch, width) @ w_x.astype(self.dtype)).reshape(frames, batch, copies, columns)
        projected = jnp.broadcast_to(projected.transpose(0, 2, 1, 3), (frames, directions, batch, columns))
        if initial is None:
            initial = (jnp.zeros((directions, batch, self.hidden), self.dtype),) * state_size
        outputs, last = scan_cell(
            function,
            _flip_second(projected),
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
