"""2-D convolution over time and frequency; on CPU it is computed as large matrix products, forward and backward.

XLA's CPU convolution runs at half the speed of its matrix products, and its gradient is slower still. Here the time
stride is folded into channels, the frequency taps of an output bin are gathered into columns, and one product computes
all time taps, whose results are shifted and added. Output bins are computed one after another, so that the gathered
columns stay in the cache. On other platforms (GPU, TPU), XLA's convolution is used.

Letters: B batch, T time, F frequency, C input channels, O output channels, k taps; U output frames, G output bins, V
frames covered by a product, F' padded bins, S input channels with the time stride folded in.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

Pair = tuple[int, int]


def out_size(size, stride: int):
    """Return the frames (or bins) after a convolution with odd kernel k and padding (k - 1) / 2.

    The result is floor((size - 1) / stride) + 1; `size` is a number or an integer array.
    """
    return (size - 1) // stride + 1


def conv2d_valid(x: jax.Array, kernel: jax.Array, strides: Pair) -> jax.Array:
    """Convolve as `conv2d`, but without padding in time: U = floor((T - kt) / st) + 1. For inference: no gradient."""
    products, plain = (functools.partial(f, strides, padded=False) for f in (_product_forward, _plain))
    return lax.platform_dependent(x, kernel, cpu=products, default=plain)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv2d(x: jax.Array, kernel: jax.Array, strides: Pair) -> jax.Array:
    """Cross-correlate x [B, T, F, C] with kernel [kt, kf, C, O] (kt and kf odd), padded by half a kernel on each side.

    Returns [B, U, G, O] with U = floor((T - 1) / st) + 1 and G = floor((F - 1) / sf) + 1.
    """
    products, plain = (functools.partial(f, strides) for f in (_product_forward, _plain))
    return lax.platform_dependent(x, kernel, cpu=products, default=plain)


def _forward(x, kernel, strides):
    return conv2d(x, kernel, strides), (x, kernel)


def _backward(strides, residuals, d_out):
    products, plain = (functools.partial(f, strides) for f in (_product_backward, _plain_backward))
    return lax.platform_dependent(*residuals, d_out, cpu=products, default=plain)


conv2d.defvjp(_forward, _backward)


def _plain(strides: Pair, x: jax.Array, kernel: jax.Array, *, padded: bool = True) -> jax.Array:
    padding = [((k - 1) // 2, (k - 1) // 2) for k in kernel.shape[:2]]
    if not padded:
        padding[0] = (0, 0)
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _plain_backward(strides: Pair, x: jax.Array, kernel: jax.Array, d_out: jax.Array):
    return jax.vjp(functools.partial(_plain, strides), x, kernel)[1](d_out)


def _product_forward(strides: Pair, x: jax.Array, kernel: jax.Array, *, padded: bool = True) -> jax.Array:
    wide, matrix = _widen(x, kernel.shape, strides, padded=padded), _by_taps(kernel, strides[0])
    (batch, length, _, _), (kf, out) = wide.shape, (kernel.shape[1], kernel.shape[3])
    frames, bins = _frames(x, kernel.shape, strides, padded=padded), out_size(x.shape[2], strides[1])
    taps = length - frames + 1

    def output_bin(_, index):
        pieces = (_columns(wide, index * strides[1], kf) @ matrix).reshape(batch, length, taps, out)
        return None, sum(pieces[:, a : a + frames, a] for a in range(taps))

    return lax.scan(output_bin, None, jnp.arange(bins))[1].transpose(1, 2, 0, 3)  # [G, B, U, O] -> [B, U, G, O]


def _product_backward(strides: Pair, x: jax.Array, kernel: jax.Array, d_out: jax.Array):
    """Return the gradients of x and kernel, computed by two products for each output bin."""
    wide, pull_x = jax.vjp(lambda x: _widen(x, kernel.shape, strides), x)
    matrix, pull_kernel = jax.vjp(lambda kernel: _by_taps(kernel, strides[0]), kernel)
    (batch, length, _, channels), (_, frames, bins, out) = wide.shape, d_out.shape
    kf, taps = kernel.shape[1], length - frames + 1
    d_bins = jnp.pad(d_out.transpose(2, 0, 1, 3), ((0, 0), (0, 0), (taps - 1, taps - 1), (0, 0)))

    def output_bin(carry, inputs):
        (d_matrix, d_wide), (index, d_bin) = carry, inputs
        shifted = jnp.stack([d_bin[:, taps - 1 - a :][:, :length] for a in range(taps)], axis=2)
        shifted = shifted.reshape(batch * length, taps * out)
        columns = _columns(wide, index * strides[1], kf)
        d_matrix += lax.dot_general(columns, shifted, (((0,), (0,)), ((), ())), preferred_element_type=d_matrix.dtype)
        d_columns = (shifted @ matrix.T).reshape(batch, length, kf, channels)
        d_window = lax.dynamic_slice_in_dim(d_wide, index * strides[1], kf, axis=2) + d_columns
        return (d_matrix, lax.dynamic_update_slice_in_dim(d_wide, d_window, index * strides[1], axis=2)), None

    start = jnp.zeros(matrix.shape, jnp.promote_types(x.dtype, jnp.float32)), jnp.zeros_like(wide)
    (d_matrix, d_wide), _ = lax.scan(output_bin, start, (jnp.arange(bins), d_bins))
    return *pull_x(d_wide), *pull_kernel(d_matrix.astype(kernel.dtype))


def _frames(x: jax.Array, kernel_shape: tuple[int, ...], strides: Pair, *, padded: bool) -> int:
    """Return U."""
    return out_size(x.shape[1], strides[0]) if padded else (x.shape[1] - kernel_shape[0]) // strides[0] + 1


def _widen(x: jax.Array, kernel_shape: tuple[int, ...], strides: Pair, *, padded: bool = True) -> jax.Array:
    """Pad for all taps and fold the time stride into channels: [B, T, F, C] -> [B, V, F', S]."""
    (kt, kf, *_), (st, sf) = kernel_shape, strides
    batch, frames, bins, channels = x.shape
    length = _frames(x, kernel_shape, strides, padded=padded) + -(-kt // st) - 1
    before, half = (kt - 1) // 2 if padded else 0, (kf - 1) // 2
    after = max(length * st - before - frames, 0)
    padded_bins = max((out_size(bins, sf) - 1) * sf + kf, half + bins)
    x = jnp.pad(x, ((0, 0), (before, after), (half, padded_bins - half - bins), (0, 0)))[:, : length * st]
    x = x.reshape(batch, length, st, padded_bins, channels).transpose(0, 1, 3, 2, 4)
    return x.reshape(batch, length, padded_bins, st * channels)


def _by_taps(kernel: jax.Array, st: int) -> jax.Array:
    """Arrange a kernel for the product: [kt, kf, C, O] -> [kf*S, taps*O], taps = ceil(kt / st)."""
    kt, kf, channels, out = kernel.shape
    taps = -(-kt // st)
    kernel = jnp.pad(kernel, ((0, taps * st - kt), (0, 0), (0, 0), (0, 0))).reshape(taps, st, kf, channels, out)
    return kernel.transpose(2, 1, 3, 0, 4).reshape(kf * st * channels, taps * out)


def _columns(wide: jax.Array, first: jax.Array, kf: int) -> jax.Array:
    """Gather the inputs of one output bin, whose first tap is at bin `first`: [B, V, F', S] -> [B*V, kf*S]."""
    batch, length, _, channels = wide.shape
    return lax.dynamic_slice_in_dim(wide, first, kf, axis=2).reshape(batch * length, kf * channels)
