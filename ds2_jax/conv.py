"""2-D convolution over time and frequency; on CPU its backward is made of large matrix products.

XLA's CPU convolution is good forward and slow backward. The products below give the same gradients several times
faster: time strides become channels, frequency taps are gathered into columns, and all time taps stand side by side
in one product. Elsewhere (GPU, TPU) XLA's own gradient is used. Letters: B batch, T time, F frequency, C channels in, O
channels out, k taps.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

Pair = tuple[int, int]


def out_size(size, stride: int):
    """Frames (or bins) after a convolution with odd kernel k and padding (k - 1) / 2.

    Floor((size - 1) / stride) + 1.
    """
    return (size - 1) // stride + 1


def _plain(x: jax.Array, kernel: jax.Array, strides: Pair) -> jax.Array:
    padding = [((k - 1) // 2, (k - 1) // 2) for k in kernel.shape[:2]]
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv2d(x: jax.Array, kernel: jax.Array, strides: Pair) -> jax.Array:
    """Cross-correlate x [B, T, F, C] with kernel [kt, kf, C, O] (odd kt, kf), padded by half a kernel on each side.

    Returns [B, floor((T-1)/st) + 1, floor((F-1)/sf) + 1, O].
    """
    return _plain(x, kernel, strides)


def _forward(x, kernel, strides):
    return _plain(x, kernel, strides), (x, kernel)


def _backward(strides, residuals, d_out):
    x, kernel = residuals
    plain = functools.partial(_plain_backward, strides)
    products = functools.partial(_product_backward, strides)
    return lax.platform_dependent(x, kernel, d_out, cpu=products, default=plain)


conv2d.defvjp(_forward, _backward)


def _plain_backward(strides: Pair, x: jax.Array, kernel: jax.Array, d_out: jax.Array):
    return jax.vjp(lambda a, k: _plain(a, k, strides), x, kernel)[1](d_out)


def _product_backward(strides: Pair, x: jax.Array, kernel: jax.Array, d_out: jax.Array):
    """Gradients of x and kernel by two products of matrices.

    With S = st*C channels after the time stride is folded away, the convolution has time stride 1 and `taps` time taps:
    columns [B*V*G, kf*S], gradients of all time taps side by side [B*V*G, taps*O], V = U + taps - 1.
    """
    (st, sf), (kt, kf, channels, out) = strides, kernel.shape
    batch, _, bins, _ = x.shape
    _, frames_out, bins_out, _ = d_out.shape
    taps, wide = -(-kt // st), st * channels
    length = frames_out + taps - 1

    columns = _frequency_columns(_fold_time(x, kt, st, length), kf, sf, bins_out)  # [B, V, G, kf, S]
    shifted = jnp.stack([jnp.pad(d_out, ((0, 0), (a, taps - 1 - a), (0, 0), (0, 0))) for a in range(taps)], axis=3)
    rows = batch * length * bins_out
    columns, shifted = columns.reshape(rows, kf * wide), shifted.reshape(rows, taps * out)

    d_folded = lax.dot_general(columns, shifted, (((0,), (0,)), ((), ())))  # [kf*S, taps*O]
    d_kernel = d_folded.reshape(kf, st, channels, taps, out).transpose(3, 1, 0, 2, 4)  # [taps, st, kf, C, O]
    d_kernel = d_kernel.reshape(taps * st, kf, channels, out)[:kt]

    folded = jnp.pad(kernel, ((0, taps * st - kt), (0, 0), (0, 0), (0, 0))).reshape(taps, st, kf, channels, out)
    folded = folded.transpose(0, 4, 2, 1, 3).reshape(taps * out, kf * wide)
    d_columns = (shifted @ folded).reshape(batch, length, bins_out, kf, wide)
    d_x = _unfold_time(_add_columns(d_columns, kf, sf, bins), kt, st, x.shape)
    return d_x, d_kernel


def _fold_time(x: jax.Array, kt: int, st: int, length: int) -> jax.Array:
    """[B, T, F, C] -> [B, V, F, st*C]: pad time by half a kernel and move each stride's frames into channels."""
    batch, frames, bins, channels = x.shape
    before = (kt - 1) // 2
    after = length * st - before - frames
    x = jnp.pad(x, ((0, 0), (before, max(after, 0)), (0, 0), (0, 0)))[:, : length * st]
    x = x.reshape(batch, length, st, bins, channels).transpose(0, 1, 3, 2, 4)
    return x.reshape(batch, length, bins, st * channels)


def _unfold_time(x: jax.Array, kt: int, st: int, shape: tuple[int, ...]) -> jax.Array:
    """Undo `_fold_time`: [B, V, F, st*C] -> [B, T, F, C]."""
    batch, frames, bins, channels = shape
    length, before = x.shape[1], (kt - 1) // 2
    x = x.reshape(batch, length, bins, st, channels).transpose(0, 1, 3, 2, 4)
    x = x.reshape(batch, length * st, bins, channels)
    x = jnp.pad(x, ((0, 0), (0, max(before + frames - length * st, 0)), (0, 0), (0, 0)))
    return x[:, before : before + frames]


def _frequency_columns(x: jax.Array, kf: int, sf: int, bins_out: int) -> jax.Array:
    """[B, V, F, S] -> [B, V, G, kf, S]: the taps that each output bin sees."""
    half = (kf - 1) // 2
    after = (bins_out - 1) * sf + kf - half - x.shape[2]
    x = jnp.pad(x, ((0, 0), (0, 0), (half, max(after, 0)), (0, 0)))
    return jnp.stack([x[:, :, k : k + (bins_out - 1) * sf + 1 : sf] for k in range(kf)], axis=3)


def _add_columns(columns: jax.Array, kf: int, sf: int, bins: int) -> jax.Array:
    """Undo `_frequency_columns` by adding: [B, V, G, kf, S] -> [B, V, F, S].

    Taps that fall on the same phase of the stride are added with plain shifts; the phases are then interleaved.
    """
    batch, length, bins_out, _, wide = columns.shape
    half = (kf - 1) // 2
    steps = -(-max(bins + 2 * half, (bins_out - 1) * sf + kf) // sf)
    phases = []
    for phase in range(sf):
        taps = range(phase, kf, sf)
        pieces = [
            jnp.pad(columns[:, :, :, k], ((0, 0), (0, 0), (k // sf, steps - bins_out - k // sf), (0, 0))) for k in taps
        ]
        zero = jnp.zeros((batch, length, steps, wide), columns.dtype)
        phases.append(functools.reduce(jnp.add, pieces, zero))
    x = jnp.stack(phases, axis=3).reshape(batch, length, steps * sf, wide)
    return x[:, :, half : half + bins]
