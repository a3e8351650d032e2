"""The network over audio that arrives in pieces: the same parameters, and the same logits, as `DeepSpeech2`.

A step takes the last frames of each row, of which c * s are new, and returns c output frames, D frames behind: D covers the
right context of the convolutions, of the look-ahead layer, and of the backward direction. A unidirectional network gives the
logits of the whole utterance; a bidirectional one sees only `right` output frames after the step's own ones.

Letters: B batch, T frames, U output frames, F features, K vocabulary with blank, s time stride, c output frames of a step.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from ds2_jax.network.conv import conv2d_valid, out_size
from ds2_jax.network.model import DTYPES, ModelSettings, recurrent_fields
from ds2_jax.network.norm import MaskedBatchNorm
from ds2_jax.network.rnn import CELLS, Recurrent, RowConvolution, State

ENDLESS = 1 << 30  # frames of an utterance whose end is not known


class NetworkState(NamedTuple):
    """What a row carries from step to step."""

    recurrent: tuple[State, ...]  # of each layer's forward direction, [B, H] each
    ahead: jax.Array  # [B, lookahead, H], the last outputs of the recurrent layers


@dataclasses.dataclass(frozen=True)
class Chunking:
    """Sizes of a step in output frames: `chunk` new ones, `right` after them for the backward direction."""

    settings: ModelSettings
    chunk: int
    right: int = 0

    @property
    def frames(self) -> int:
        """New frames of a step, c * s."""
        return self.chunk * self.settings.time_stride

    @property
    def half(self) -> int:
        """Frames that an output frame sees on each side through the convolutions."""
        half, stride = 0, 1
        for layer in self.settings.conv_layers:
            half += stride * (layer.kernel[0] // 2)
            stride *= layer.stride[0]
        return half

    @property
    def conv_delay(self) -> int:
        """Output frames by which the convolutions are behind."""
        return math.ceil((self.half + 1) / self.settings.time_stride) - 1

    @property
    def delay(self) -> int:
        """Output frames D by which a step's result is behind its input."""
        return self.conv_delay + self.right + self.settings.lookahead

    @property
    def lookahead_frames(self) -> int:
        """Frames after an output frame's first one that its logits depend on; the step's own size comes on top."""
        return (self.right + self.settings.lookahead) * self.settings.time_stride + self.half

    @property
    def window(self) -> int:
        """Frames that a step reads, old and new."""
        return self.settings.time_stride * (self.chunk + self.conv_delay + self.right) + self.half


class StreamingDeepSpeech2(nn.Module):
    """A step of DeepSpeech2; it has the same parameters."""

    chunking: Chunking
    vocabulary_size: int

    @nn.compact
    def __call__(
        self, window: jax.Array, step: jax.Array, total: jax.Array, state: NetworkState
    ) -> tuple[jax.Array, NetworkState]:
        """Map the window [B, W, F] of frames up to (step + 1) * c * s to logits [B, c, K] f32 and the next state.

        step [B] i32: steps that a row has taken. total [B] i32: frames of its utterance, ENDLESS until they are known;
        frames beyond it, and those before the utterance, are ignored. The logits belong to output frames step * c - D and
        following; those below 0 or beyond the end are meaningless.
        """
        sizes = self.chunking
        s = sizes.settings
        dtype = DTYPES[s.compute_dtype]
        first = step * sizes.chunk - sizes.conv_delay - sizes.right  # first frame of the recurrent layers [B]
        scale = s.time_stride
        left = sizes.half  # frames of the current layer's input before the centre of the first output frame
        mask = _inside(first * scale - left, window.shape[1], total)
        x, lengths = jnp.where(mask[..., None], window, 0)[..., None].astype(dtype), total
        for i, layer in enumerate(s.conv_layers):
            shape = (*layer.kernel, x.shape[-1], layer.channels)
            kernel = self.param(f"conv_{i}", nn.initializers.he_normal(), shape)
            x = conv2d_valid(x, kernel.astype(x.dtype), layer.stride)
            lengths = out_size(lengths, layer.stride[0])
            left, scale = (left - layer.kernel[0] // 2) // layer.stride[0], scale // layer.stride[0]
            mask = _inside(first * scale - left, x.shape[1], lengths)[:, :, None, None]
            x = MaskedBatchNorm(s.norm_momentum, name=f"conv_norm_{i}")(x, mask, False)
            x = jnp.clip(x, 0, s.activation_clip) * mask
        batch, _, bins, channels = x.shape
        length = sizes.chunk + sizes.right
        x = x[:, :length].transpose(1, 0, 2, 3).reshape(length, batch, bins * channels)
        mask = _inside(first, length, lengths).T  # [U, B]
        carried: list[State] = []
        for i in range(s.rnn_layers):
            if s.norm == "input":
                x = MaskedBatchNorm(s.norm_momentum, name=f"rnn_norm_{i}")(x, mask[..., None], False)
            recurrent = Recurrent(**recurrent_fields(s), name=f"rnn_{i}")
            x, last = recurrent(x, mask, self._initial(state.recurrent[i]), kept=sizes.chunk)
            carried.append(tuple(array[0] for array in last))
        ahead = state.ahead
        if s.lookahead:
            x = jnp.concatenate([ahead.transpose(1, 0, 2), x])
            ahead = x[-s.lookahead :].transpose(1, 0, 2)
            x = RowConvolution(s.lookahead, name="lookahead")(x[: sizes.chunk], x[sizes.chunk :][: s.lookahead])
            x = jnp.clip(x, 0, s.activation_clip) if s.lookahead_clip else x
        logits = nn.Dense(self.vocabulary_size, dtype=dtype, name="output")(x[: sizes.chunk])
        return logits.transpose(1, 0, 2).astype(jnp.float32), NetworkState(tuple(carried), ahead)

    def _initial(self, forward: State) -> State:
        """Return the layer's initial state [D, B, H]: the forward direction goes on, the backward one starts anew."""
        if not self.chunking.settings.bidirectional:
            return tuple(array[None] for array in forward)
        return tuple(jnp.stack([array, jnp.zeros_like(array)]) for array in forward)


def initial_state(chunking: Chunking, rows: int) -> NetworkState:
    """Return the state of `rows` utterances before their first step."""
    s = chunking.settings
    dtype = DTYPES[s.compute_dtype]
    return NetworkState(
        recurrent=((jnp.zeros((rows, s.rnn_size), dtype),) * CELLS[s.cell].arrays,) * s.rnn_layers,
        ahead=jnp.zeros((rows, s.lookahead, s.rnn_size), dtype),
    )


def _inside(first: jax.Array, count: int, end: jax.Array) -> jax.Array:
    """Return whether each of `count` frames from `first` [B] on lies in 0 <= frame < end [B]: [B, count]."""
    frames = first[:, None] + jnp.arange(count)
    return (frames >= 0) & (frames < end[:, None])
