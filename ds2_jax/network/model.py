"""The Deep Speech 2 network: convolutions, recurrent layers, a linear layer; a pure function of variables and input.

Letters: B batch, T frames, U frames after striding, F frequency, C channels, H hidden, K vocabulary with blank
(index 0).
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ds2_jax.network.conv import conv2d, out_size
from ds2_jax.network.norm import MaskedBatchNorm
from ds2_jax.network.rnn import CELLS, Recurrent

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


@dataclasses.dataclass(frozen=True)
class ConvLayer:
    """Kernel and stride over (time, frequency) and the channels that come out."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    channels: int


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """The section `model` of a config: the shapes and the arithmetic of the network, besides its input and vocabulary size.

    conv: convolutions as text, time x frequency, kernel/stride:channels. Raises ValueError naming field, value and mend.
    """

    conv: str = "11x41/3x2:32, 11x21/1x2:32"
    cell: str = "gru"
    rnn_size: int = 512
    rnn_layers: int = 3
    bidirectional: bool = True
    merge: str = "sum"
    share_input: bool = False
    activation_clip: float = 20.0
    dropout: float = 0.0
    norm_momentum: float = 0.9
    compute_dtype: str = "float32"

    def __post_init__(self):
        """Refuse what cannot be built."""
        for layer in self.conv_layers:
            if any(k < 1 or k % 2 == 0 for k in layer.kernel) or any(s < 1 for s in layer.stride) or layer.channels < 1:
                raise ValueError(
                    f"config.model.conv: {layer} is not possible; use odd kernels, strides and channels of 1 or more"
                )
        _check(self.cell in CELLS, "cell", self.cell, f"choose one of {', '.join(CELLS)}")
        _check(self.merge in ("sum", "concat"), "merge", self.merge, "choose 'sum' or 'concat'")
        _check(self.rnn_size >= 1, "rnn_size", self.rnn_size, "use 1 or more")
        _check(self.rnn_layers >= 1, "rnn_layers", self.rnn_layers, "use 1 or more")
        _check(0 <= self.dropout < 1, "dropout", self.dropout, "use a share from 0 up to, not including, 1")
        _check(0 <= self.norm_momentum < 1, "norm_momentum", self.norm_momentum, "use 0.9 to 0.999")
        _check(self.activation_clip > 0, "activation_clip", self.activation_clip, "use a positive ceiling such as 20")
        _check(self.compute_dtype in DTYPES, "compute_dtype", self.compute_dtype, f"choose one of {', '.join(DTYPES)}")

    @functools.cached_property
    def conv_layers(self) -> tuple[ConvLayer, ...]:
        """The convolutions, in order."""
        return parse_conv(self.conv)

    @property
    def time_stride(self) -> int:
        """Input frames that become one output frame."""
        return int(np.prod([layer.stride[0] for layer in self.conv_layers]))

    def output_frames(self, frames):
        """U for T frames; works on numbers and on integer arrays."""
        for layer in self.conv_layers:
            frames = out_size(frames, layer.stride[0])
        return frames


def _check(holds: bool, name: str, value, mend: str) -> None:
    if not holds:
        raise ValueError(f"config.model.{name} is {value!r}: {mend}")


def parse_conv(text: str) -> tuple[ConvLayer, ...]:
    """Parse '11x41/3x2:32, 11x21/1x2:32' into layers; ValueError says what was expected."""
    layers = []
    for part in text.split(","):
        try:
            shape, channels = part.strip().split(":")
            kernel, stride = ([int(n) for n in pair.split("x")] for pair in shape.split("/"))
            (kt, kf), (st, sf) = kernel, stride
            layers.append(ConvLayer((kt, kf), (st, sf), int(channels)))
        except ValueError:
            raise ValueError(
                f"config.model.conv is {text!r}: cannot read {part.strip()!r}; write time x frequency as "
                "kernel/stride:channels, e.g. '11x41/3x2:32, 11x21/1x2:32'"
            ) from None
    return tuple(layers)


class DeepSpeech2(nn.Module):
    """Log-mel or linear spectrograms in, one score a symbol and frame out (arXiv:1512.02595, section 3)."""

    settings: ModelSettings
    vocabulary_size: int
    remat: bool = False  # compute recurrent layers again going back, instead of keeping what is inside them

    @nn.compact
    def __call__(self, spectrogram: jax.Array, frames: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        """Map spectrogram [B, T, F] and frames [B] to logits [B, U, K] f32 and lengths [B] i32.

        frames is 0 in rows that only fill the batch. Training needs a 'dropout' key if dropout is on, and changes
        'batch_stats'. Logits behind an utterance's length mean nothing; those within it do not depend on padding, nor
        (outside training) on the rest of the batch.
        """
        s = self.settings
        dtype = DTYPES[s.compute_dtype]
        inside = jnp.arange(spectrogram.shape[1]) < frames[:, None]  # [B, T]; the first kernel reaches into padding
        x, lengths = jnp.where(inside[..., None], spectrogram, 0)[..., None].astype(dtype), frames
        for i, layer in enumerate(s.conv_layers):
            x, lengths = self._convolve(i, layer, x, lengths, train)
        batch, length, bins, channels = x.shape
        x = x.transpose(1, 0, 2, 3).reshape(length, batch, bins * channels)  # time first: the recurrence slices it
        mask = jnp.arange(length)[:, None] < lengths  # [U, B]
        recurrent = nn.remat(Recurrent) if self.remat else Recurrent
        for i in range(s.rnn_layers):
            x = MaskedBatchNorm(s.norm_momentum, name=f"rnn_norm_{i}")(x, mask[..., None], train)
            x = nn.Dropout(s.dropout, broadcast_dims=(0,), deterministic=not train)(x)
            x, _ = recurrent(
                s.cell, s.rnn_size, s.bidirectional, s.merge, s.share_input, s.activation_clip, dtype, name=f"rnn_{i}"
            )(x, mask)
        x = nn.Dropout(s.dropout, broadcast_dims=(0,), deterministic=not train)(x)
        logits = nn.Dense(self.vocabulary_size, dtype=dtype, name="output")(x)  # [U, B, K]
        return logits.transpose(1, 0, 2).astype(jnp.float32), lengths

    def _convolve(self, i: int, layer: ConvLayer, x: jax.Array, lengths: jax.Array, train: bool):
        """Convolve, normalise, clip and blank the padding: [B, T, F, C] -> [B, T', F', C'], lengths [B]."""
        shape = (*layer.kernel, x.shape[-1], layer.channels)
        kernel = self.param(f"conv_{i}", nn.initializers.he_normal(), shape)
        x = conv2d(x, kernel.astype(x.dtype), layer.stride)
        lengths = out_size(lengths, layer.stride[0])
        mask = (jnp.arange(x.shape[1]) < lengths[:, None])[:, :, None, None]  # [B, T', 1, 1]
        x = MaskedBatchNorm(self.settings.norm_momentum, name=f"conv_norm_{i}")(x, mask, train)
        return jnp.clip(x, 0, self.settings.activation_clip) * mask, lengths


def init_variables(model: DeepSpeech2, feature_size: int, seed: int) -> dict:
    """Draw initial parameters and batch statistics; they depend on the seed only, not on a batch."""
    frames = 4 * model.settings.time_stride
    spectrogram = jnp.zeros((1, frames, feature_size))
    init = jax.jit(lambda key: model.init(key, spectrogram, jnp.array([frames]), train=False))
    return init(jax.random.key(seed))
