"""Recurrent layers: input projection, both directions, merging; and the look-ahead convolution.

Letters: U frames, D directions (1 or 2), B batch, H hidden units, G gates, X input width.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from ds2_jax.network.norm import MaskedBatchNorm
from ds2_jax.network.recurrence import Cell, Gates, State, gru, lstm, scan_cell, scan_gru_relu, simple_rnn

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
        projected = tuple(_flip_second(gate) for gate in jnp.split(product, gates, axis=-1))
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
