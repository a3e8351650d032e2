"""The Deep Speech 2 network: convolutions, recurrent layers and a linear layer; a pure function of variables and input.

Letters: B batch, T frames, U frames after striding, F frequency, C channels, H hidden, K vocabulary with blank
(index 0).
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ds2_jax.network.conv import conv2d, out_size
from ds2_jax.network.norm import MaskedBatchNorm
from ds2_jax.network.rnn import CELLS, Recurrent, RowConvolution

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


@dataclasses.dataclass(frozen=True)
class ConvLayer:
    """Kernel and stride over (time, frequency), and the number of output channels."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    channels: int


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """The section `model` of a config: shapes and arithmetic of the network, except input and vocabulary size.

    conv: convolutions as text, each kernel/stride:channels in time x frequency. Raises ValueError naming the field, its
    value and what is allowed.
    """

    conv: str = "11x41/3x2:32, 11x21/1x2:32"
    cell: str = "gru"
    rnn_size: int = 512
    rnn_layers: int = 3
    bidirectional: bool = True
    merge: str = "sum"
    share_input: bool = False
    lookahead: int = 0
    lookahead_clip: bool = False
    activation_clip: float = 20.0
    dropout: float = 0.0
    norm: str = "input"
    norm_momentum: float = 0.9
    compute_dtype: str = "float32"

    def __post_init__(self):
        """Refuse values that cannot be built."""
        for layer in self.conv_layers:
            if any(k < 1 or k % 2 == 0 for k in layer.kernel) or any(s < 1 for s in layer.stride) or layer.channels < 1:
                raise ValueError(
                    f"config.model.conv: {layer} is impossible; use odd kernels, and strides and channels of 1 or more"
                )
        _check(self.cell in CELLS, "cell", self.cell, f"choose one of {', '.join(CELLS)}")
        _check(self.merge in ("sum", "concat"), "merge", self.merge, "choose 'sum' or 'concat'")
        _check(self.rnn_size >= 1, "rnn_size", self.rnn_size, "use 1 or more")
        _check(self.rnn_layers >= 1, "rnn_layers", self.rnn_layers, "use 1 or more")
        _check(self.lookahead >= 0, "lookahead", self.lookahead, "use 0 for none, or a number of output frames")
        if self.bidirectional:
            advice = "use 0 for a bidirectional network, which sees the whole utterance"
            _check(self.lookahead == 0, "lookahead", self.lookahead, advice)
        _check(0 <= self.dropout < 1, "dropout", self.dropout, "use a probability of at least 0 and below 1")
        _check(self.norm in ("input", "projection"), "norm", self.norm, "choose 'input' or 'projection'")
        _check(0 <= self.norm_momentum < 1, "norm_momentum", self.norm_momentum, "use 0.9 to 0.999")
        _check(self.activation_clip > 0, "activation_clip", self.activation_clip, "use a positive ceiling such as 20")
        _check(self.compute_dtype in DTYPES, "compute_dtype", self.compute_dtype, f"choose one of {', '.join(DTYPES)}")

    @functools.cached_property
    def conv_layers(self) -> tuple[ConvLayer, ...]:
        """The convolutions, in order."""
        return parse_conv(self.conv)

    @property
    def time_stride(self) -> int:
        """Number of input frames for each output frame."""
        return int(np.prod([layer.stride[0] for layer in self.conv_layers]))

    def output_frames(self, frames):
        """Return U for T input frames, given as a number or an integer array."""
        for layer in self.conv_layers:
            frames = out_size(frames, layer.stride[0])
        return frames


def _check(valid: bool, name: str, value, advice: str) -> None:
    if not valid:
        raise ValueError(f"config.model.{name} is {value!r}: {advice}")


def parse_conv(text: str) -> tuple[ConvLayer, ...]:
    """Parse text such as '11x41/3x2:32, 11x21/1x2:32' into layers. Raises ValueError with the expected form."""
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


def recurrent_fields(settings: ModelSettings) -> dict[str, Any]:
    """Return the attributes of a network's recurrent layers, `Recurrent`."""
    return {
        "cell": settings.cell,
        "hidden": settings.rnn_size,
        "bidirectional": settings.bidirectional,
        "merge": settings.merge,
        "share_input": settings.share_input,
        "clip": settings.activation_clip,
        "dtype": DTYPES[settings.compute_dtype],
        "norm_momentum": settings.norm_momentum if settings.norm == "projection" else None,
    }


class DeepSpeech2(nn.Module):
    """Network from spectrograms (linear or log-mel) to a score for each frame and symbol (arXiv:1512.02595, section 3)."""

    settings: ModelSettings
    vocabulary_size: int
    remat: bool = False  # recompute recurrent layers in the backward pass instead of storing their activations

    @nn.compact
    def __call__(self, spectrogram: jax.Array, frames: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        """Map spectrogram [B, T, F] and frames [B] to logits [B, U, K] f32 and lengths [B] i32.

        frames is 0 in padding rows. Training needs a 'dropout' key if dropout is on, and updates 'batch_stats'. Logits
        beyond an utterance's length are meaningless; those within it do not depend on padding, nor (except in
        training) on the rest of the batch.
        """
        s = self.settings
        dtype = DTYPES[s.compute_dtype]
        inside = jnp.arange(spectrogram.shape[1]) < frames[:, None]  # [B, T]; the first kernel overlaps padding
        x, lengths = jnp.where(inside[..., None], spectrogram, 0)[..., None].astype(dtype), frames
        for i, layer in enumerate(s.conv_layers):
            x, lengths = self._convolve(i, layer, x, lengths, train)
        batch, length, bins, channels = x.shape
        x = x.transpose(1, 0, 2, 3).reshape(length, batch, bins * channels)  # time first: the recurrence slices it
        mask = jnp.arange(length)[:, None] < lengths  # [U, B]
        recurrent = nn.remat(Recurrent) if self.remat else Recurrent
        for i in range(s.rnn_layers):
            if s.norm == "input":
                x = MaskedBatchNorm(s.norm_momentum, name=f"rnn_norm_{i}")(x, mask[..., None], train)
            x = nn.Dropout(s.dropout, broadcast_dims=(0,), deterministic=not train)(x)
            x, _ = recurrent(**recurrent_fields(s), train=train, name=f"rnn_{i}")(x, mask)
        if s.lookahead:
            x = RowConvolution(s.lookahead, name="lookahead")(x)
            x = jnp.clip(x, 0, s.activation_clip) if s.lookahead_clip else x
        x = nn.Dropout(s.dropout, broadcast_dims=(0,), deterministic=not train)(x)
        logits = nn.Dense(self.vocabulary_size, dtype=dtype, name="output")(x)  # [U, B, K]
        return logits.transpose(1, 0, 2).astype(jnp.float32), lengths

    def _convolve(self, i: int, layer: ConvLayer, x: jax.Array, lengths: jax.Array, train: bool):
        """Convolve, normalise, clip and zero the padding: [B, T, F, C] -> [B, T', F', C'], lengths [B]."""
        shape = (*layer.kernel, x.shape[-1], layer.channels)
        kernel = self.param(f"conv_{i}", nn.initializers.he_normal(), shape)
        x = conv2d(x, kernel.astype(x.dtype), layer.stride)
        lengths = out_size(lengths, layer.stride[0])
        mask = (jnp.arange(x.shape[1]) < lengths[:, None])[:, :, None, None]  # [B, T', 1, 1]
        x = MaskedBatchNorm(self.settings.norm_momentum, name=f"conv_norm_{i}")(x, mask, train)
        return jnp.clip(x, 0, self.settings.activation_clip) * mask, lengths


def init_variables(model: DeepSpeech2, feature_size: int, seed: int) -> dict:
    """Draw initial parameters and batch statistics, which depend only on the seed."""
    frames = 4 * model.settings.time_stride
    spectrogram = jnp.zeros((1, frames, feature_size))
    init = jax.jit(lambda key: model.init(key, spectrogram, jnp.array([frames]), train=False))
    return init(jax.random.key(seed))
