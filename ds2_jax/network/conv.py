"""2-D convolution over time and frequency; on CPUs it is computed in the Fourier domain of the frequency axis.

A convolution with k taps along the frequency axis needs k products for each output bin and pair of channels; between
discrete Fourier transforms of the bins, which are products with small matrices, it needs 2 * stride * Q / G, about five for
the strides and sizes of Deep Speech 2. Strides are folded into channels. Each frequency of the transform is a convolution
over time only, computed as one product for all time taps, whose results are shifted and added. Frequencies are computed one
after another, so that pieces stay in the cache. Frames are transformed one by one, so what is in one frame rounds no
other, and rounding errors are smaller than those of the plain sum. On other platforms (GPU, TPU), XLA's convolution is used.

Letters: B batch, T time, F frequency, C input channels, O output channels, k taps; U output frames, G output bins; with
strides folded into channels: V frames, Q bins, S channels; P pairs of real Fourier coefficients.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ds2_jax.network.platforms import platform_dependent

Pair = tuple[int, int]


def out_size(size, stride: int):
    """Return the frames (or bins) after a convolution with odd kernel k and padding (k - 1) / 2.

    The result is floor((size - 1) / stride) + 1; `size` is a number or an integer array.
    """
    return (size - 1) // stride + 1


def conv2d_valid(x: jax.Array, kernel: jax.Array, strides: Pair) -> jax.Array:
    """Convolve as `conv2d`, but without padding in time: U = floor((T - kt) / st) + 1. For inference: no gradient."""
    spectral, plain = (functools.partial(f, strides, padded=False) for f in (_spectral_forward, _plain))
    return platform_dependent(x, kernel, cpu=spectral, default=plain)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv2d(x: jax.Array, kernel: jax.Array, strides: Pair) -> jax.Array:
    """Cross-correlate x [B, T, F, C] with kernel [kt, kf, C, O] (kt and kf odd), padded by half a kernel on each side.

    Returns [B, U, G, O] with U = floor((T - 1) / st) + 1 and G = floor((F - 1) / sf) + 1.
    """
    spectral, plain = (functools.partial(f, strides) for f in (_spectral_forward, _plain))
    return platform_dependent(x, kernel, cpu=spectral, default=plain)


def _forward(x, kernel, strides):
    return conv2d(x, kernel, strides), (x, kernel)


def _backward(strides, residuals, d_out):
    spectral, plain = (functools.partial(f, strides) for f in (_spectral_backward, _plain_backward))
    return platform_dependent(*residuals, d_out, cpu=spectral, default=plain)


conv2d.defvjp(_forward, _backward)


def _plain(strides: Pair, x: jax.Array, kernel: jax.Array, *, padded: bool = True) -> jax.Array:
    padding = [((k - 1) // 2, (k - 1) // 2) for k in kernel.shape[:2]]
    if not padded:
        padding[0] = (0, 0)
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _plain_backward(strides: Pair, x: jax.Array, kernel: jax.Array, d_out: jax.Array):
    return jax.vjp(functools.partial(_plain, strides), x, kernel)[1](d_out)


@dataclasses.dataclass(frozen=True)
class Axis:
    """The Fourier transform of the frequency axis: number of bins, taps of the kernel along it, stride.

    Its size is even. A pair of coefficients is the real and the imaginary part of a frequency; the first pair is the lowest
    and the highest frequency, which are real.
    """

    bins: int
    taps: int
    stride: int

    @property
    def folded(self) -> int:
        """Q, the number of bins that the outputs depend on, after folding."""
        return out_size(self.bins, self.stride) + self.folded_taps - 1

    @property
    def folded_taps(self) -> int:
        """Number of taps along the frequency axis after folding."""
        return -(-self.taps // self.stride)

    @property
    def analysis(self) -> np.ndarray:
        """Matrices [P, 2, Q] from bins to coefficients."""
        return self._waves()[:, :, : self.folded]

    @property
    def synthesis(self) -> np.ndarray:
        """Matrices [P, 2, G] from coefficients to output bins."""
        waves = self._waves()
        scale = np.where(np.arange(len(waves)) > 0, 2, 1) / waves.shape[2]
        return (waves * scale[:, None, None])[:, :, : out_size(self.bins, self.stride)]

    @property
    def factors(self) -> np.ndarray:
        """Factors [P, 2, 2, folded_taps] of a kernel's taps in the matrices that map coefficients of input to output.

        They multiply by the conjugate of the kernel's transform, which correlates.
        """
        real, imaginary = self._waves()[:, :, : self.folded_taps].transpose(1, 0, 2)
        first = np.arange(len(real))[:, None] == 0
        mixed = np.where(first, 0, imaginary)
        return np.stack([np.stack([real, -mixed], 1), np.stack([mixed, np.where(first, imaginary, real)], 1)], 1)

    def _waves(self) -> np.ndarray:
        """Return cosine and negative sine [P, 2, size] of each frequency."""
        size = self.folded + self.folded % 2
        angles = 2 * np.pi / size * np.outer(np.arange(size // 2), np.arange(size))
        waves = np.stack([np.cos(angles), -np.sin(angles)], 1)
        waves[0, 1] = np.cos(np.pi * np.arange(size))
        return waves


def _spectral_forward(strides: Pair, x: jax.Array, kernel: jax.Array, *, padded: bool = True) -> jax.Array:
    axis = Axis(x.shape[2], kernel.shape[1], strides[1])
    spectrum, kernel = _spectrum(x, kernel.shape, strides, padded=padded), _fold(kernel, strides)
    (_, _, batch, length, _), (_, taps, _, out) = spectrum.shape, kernel.shape
    frames = length - taps + 1

    def frequency(_, inputs):
        spectrum, factors = inputs
        pieces = (_columns(spectrum) @ _weights(factors, kernel)).reshape(batch, length, taps, 2 * out)
        summed = sum(pieces[:, a : a + frames, a] for a in range(taps))
        return None, jnp.reshape(summed, (batch, frames, 2, out)).transpose(2, 0, 1, 3)

    _, result = lax.scan(frequency, None, (spectrum, jnp.asarray(axis.factors, spectrum.dtype)))  # [P, 2, B, U, O]
    return jnp.einsum("pdg,pdbuo->bugo", jnp.asarray(axis.synthesis, result.dtype), result).astype(x.dtype)


def _spectral_backward(strides: Pair, x: jax.Array, kernel: jax.Array, d_out: jax.Array):
    """Return the gradients of x and kernel, computed by two products for each frequency."""
    axis = Axis(x.shape[2], kernel.shape[1], strides[1])
    spectrum, pull_x = jax.vjp(lambda x: _spectrum(x, kernel.shape, strides), x)
    kernel, pull_kernel = jax.vjp(lambda kernel: _fold(kernel, strides), kernel)
    (_, _, batch, length, channels), (_, taps, _, out) = spectrum.shape, kernel.shape
    d_out = jnp.einsum("pdg,bugo->pdbuo", jnp.asarray(axis.synthesis, spectrum.dtype), d_out.astype(spectrum.dtype))

    def frequency(d_kernel, inputs):
        spectrum, factors, d_out = inputs
        weights, pull_weights = jax.vjp(functools.partial(_weights, factors), kernel)
        d_out = d_out.transpose(1, 2, 0, 3).reshape(batch, -1, 2 * out)
        d_out = jnp.pad(d_out, ((0, 0), (taps - 1, taps - 1), (0, 0)))
        d_pieces = jnp.stack([d_out[:, taps - 1 - a :][:, :length] for a in range(taps)], axis=2)
        d_pieces = d_pieces.reshape(batch * length, taps * 2 * out)
        [d_share] = pull_weights(lax.dot_general(_columns(spectrum), d_pieces, (((0,), (0,)), ((), ()))))
        d_spectrum = (d_pieces @ weights.T).reshape(batch, length, 2, channels).transpose(2, 0, 1, 3)
        return d_kernel + d_share, d_spectrum

    inputs = spectrum, jnp.asarray(axis.factors, spectrum.dtype), d_out
    d_kernel, d_spectrum = lax.scan(frequency, jnp.zeros_like(kernel), inputs)
    return *pull_x(d_spectrum), *pull_kernel(d_kernel)


def _spectrum(x: jax.Array, kernel_shape: tuple[int, ...], strides: Pair, *, padded: bool = True) -> jax.Array:
    """Pad, fold the strides into channels, and transform over the bins: [B, T, F, C] -> [P, 2, B, V, S]."""
    (kt, kf, *_), (st, sf) = kernel_shape, strides
    batch, frames, bins, channels = x.shape
    analysis = Axis(bins, kf, sf).analysis
    out_frames = out_size(frames, st) if padded else (frames - kt) // st + 1
    length, folded = out_frames + -(-kt // st) - 1, analysis.shape[2]
    before, half = (kt - 1) // 2 if padded else 0, (kf - 1) // 2
    after, above = max(length * st - before - frames, 0), max(folded * sf - half - bins, 0)
    x = jnp.pad(x.astype(_wide(x)), ((0, 0), (before, after), (half, above), (0, 0)))
    x = x[:, : length * st, : folded * sf].reshape(batch, length, st, folded, sf, channels)
    x = x.transpose(3, 0, 1, 2, 4, 5).reshape(folded, batch, length, st * sf * channels)
    return jnp.einsum("pcq,qbvs->pcbvs", jnp.asarray(analysis, x.dtype), x)


def _columns(spectrum: jax.Array) -> jax.Array:
    """Put the two coefficients of a pair side by side: [2, B, V, S] -> [B * V, 2 * S]."""
    _, batch, length, channels = spectrum.shape
    return spectrum.transpose(1, 2, 0, 3).reshape(batch * length, 2 * channels)


def _fold(kernel: jax.Array, strides: Pair) -> jax.Array:
    """Fold the strides into channels: [kt, kf, C, O] -> [bin taps, time taps, S, O]."""
    (kt, kf, channels, out), (st, sf) = kernel.shape, strides
    taps, bin_taps = -(-kt // st), -(-kf // sf)
    kernel = jnp.pad(kernel.astype(_wide(kernel)), ((0, taps * st - kt), (0, bin_taps * sf - kf), (0, 0), (0, 0)))
    kernel = kernel.reshape(taps, st, bin_taps, sf, channels, out).transpose(2, 0, 1, 3, 4, 5)
    return kernel.reshape(bin_taps, taps, st * sf * channels, out)


def _weights(factors: jax.Array, kernel: jax.Array) -> jax.Array:
    """Transform a folded kernel to one pair of coefficients, with its factors [2, 2, bin taps]: -> [2 * S, taps * 2 * O]."""
    _, taps, channels, out = kernel.shape
    weights = jnp.einsum("cdj,jtso->cdtso", factors, kernel).transpose(0, 3, 2, 1, 4)
    return weights.reshape(2 * channels, taps * 2 * out)


def _wide(array: jax.Array) -> jnp.dtype:
    """Return the type of sums: float32, or float64 for float64."""
    return jnp.promote_types(array.dtype, jnp.float32)
