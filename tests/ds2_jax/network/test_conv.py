"""The convolution for CPUs, forward and backward, against XLA, finite differences and slow loops; its rounding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ds2_jax.network.conv import _plain, _plain_backward, _spectral_backward, conv2d, conv2d_valid, out_size

B, C, OUT = 2, 3, 4
EXACT = 1e-9  # the same sums in a different order, in float64
ROUNDING = 1e-4  # float32 sums of up to 1,000 products of values around 1

CASES = {  # kernel, stride, (T, F)
    "first layer of the paper": ((11, 41), (3, 2), (20, 23)),
    "odd sizes": ((5, 3), (3, 2), (13, 9)),
    "even sizes": ((5, 3), (3, 2), (12, 8)),
    "stride 1": ((3, 5), (1, 1), (7, 6)),
    "stride in frequency only": ((3, 5), (1, 2), (6, 7)),
    "one frame": ((5, 3), (3, 2), (1, 9)),
    "one frame and one bin": ((3, 5), (2, 2), (1, 1)),
    "taps divide the stride": ((3, 3), (3, 3), (10, 10)),
    "one tap": ((1, 1), (1, 1), (4, 5)),
    "one tap with strides": ((1, 1), (3, 2), (8, 5)),
    "strides longer than the kernel": ((3, 3), (5, 4), (12, 11)),
    "kernel longer than the input": ((11, 9), (2, 2), (3, 4)),
}
every_case = pytest.mark.parametrize(("kernel", "stride", "size"), CASES.values(), ids=CASES.keys())


def draw(kernel, stride, size):
    """Draw x [B, T, F, C], kernel [kt, kf, C, O] and the gradient of the output, float64."""
    rng = np.random.default_rng([*kernel, *stride, *size])
    out = [out_size(n, s) for n, s in zip(size, stride, strict=True)]
    return rng.normal(size=(B, *size, C)), rng.normal(size=(*kernel, C, OUT)), rng.normal(size=(B, *out, OUT))


def slow_conv(x, kernel, stride):
    """Cross-correlate by loops over the output, in numpy."""
    kt, kf = kernel.shape[:2]
    half_t, half_f = (kt - 1) // 2, (kf - 1) // 2
    padded = np.pad(x, ((0, 0), (half_t, half_t), (half_f, half_f), (0, 0)))
    frames, bins = ((n - 1) // s + 1 for n, s in zip(x.shape[1:3], stride, strict=True))
    out = np.zeros((len(x), frames, bins, kernel.shape[3]))
    for u in range(frames):
        for g in range(bins):
            t, f = u * stride[0], g * stride[1]
            out[:, u, g] = np.einsum("bijc,ijco->bo", padded[:, t : t + kt, f : f + kf], kernel)
    return out


@every_case
def test_backward_on_cpus_equals_xla_and_finite_differences(kernel, stride, size):
    """The convolution is linear in x and in the kernel, so a difference over a step of 1 is exact."""
    x, w, d_out = draw(kernel, stride, size)
    with jax.enable_x64(True):
        d_x, d_w = map(np.asarray, jax.jit(functools.partial(_spectral_backward, stride))(x, w, d_out))
        expected = list(map(np.asarray, jax.jit(functools.partial(_plain_backward, stride))(x, w, d_out)))
    np.testing.assert_allclose(d_x, expected[0], atol=EXACT)
    np.testing.assert_allclose(d_w, expected[1], atol=EXACT)

    rng = np.random.default_rng(1)
    other_x, other_w = rng.normal(size=x.shape), rng.normal(size=w.shape)
    assert (slow_conv(other_x, w, stride) * d_out).sum() == pytest.approx((d_x * other_x).sum(), abs=EXACT)
    assert (slow_conv(x, other_w, stride) * d_out).sum() == pytest.approx((d_w * other_w).sum(), abs=EXACT)


@pytest.mark.parametrize("name", ["odd sizes", "even sizes", "one frame", "strides longer than the kernel"])
def test_forward_equals_slow_loops(name):
    kernel, stride, size = CASES[name]
    x, w, d_out = draw(kernel, stride, size)
    out = jax.jit(conv2d, static_argnums=2)(jnp.float32(x), jnp.float32(w), stride)
    assert out.shape == d_out.shape
    np.testing.assert_allclose(out, slow_conv(x, w, stride), atol=ROUNDING)


def test_gradient_inside_jit_is_right_in_both_float_types():
    kernel, stride, size = CASES["odd sizes"]
    x, w, d_out = draw(kernel, stride, size)
    gradient = jax.jit(jax.grad(lambda x, w: (conv2d(x, w, stride) * jnp.float32(d_out)).sum(), argnums=(0, 1)))
    with jax.enable_x64(True):
        expected = list(map(np.asarray, jax.jit(functools.partial(_plain_backward, stride))(x, w, d_out)))
    for got, want in zip(gradient(jnp.float32(x), jnp.float32(w)), expected, strict=True):
        np.testing.assert_allclose(got, want, atol=ROUNDING)
    narrow = gradient(jnp.bfloat16(x), jnp.bfloat16(w))
    for got, want in zip(narrow, expected, strict=True):
        assert got.dtype == jnp.bfloat16
        error = np.linalg.norm(got.astype(jnp.float32) - want) / np.linalg.norm(want)
        assert error < 0.02  # 8 bits of mantissa


def test_rounding_errors_are_at_most_those_of_the_plain_sum():
    kernel, stride, size = (11, 21), (1, 2), (40, 81)
    x, w, _ = draw(kernel, stride, size)
    exact = slow_conv(x, w, stride)
    narrow = jnp.float32(x), jnp.float32(w)
    results = conv2d(*narrow, stride), _plain(stride, *narrow)
    spectral, plain = (np.sqrt(np.mean((np.asarray(result) - exact) ** 2)) for result in results)
    assert spectral <= plain


def test_a_frame_changes_no_bit_beyond_the_reach_of_the_kernel():
    kernel, stride, size = (5, 3), (1, 2), (13, 9)
    x, w, _ = map(jnp.float32, draw(kernel, stride, size))
    other = x.at[:, 9:].set(1e6)
    ours, theirs = (np.asarray(conv2d(each, w, stride)) for each in (x, other))
    np.testing.assert_array_equal(ours[:, :7], theirs[:, :7])
    assert (ours[:, 7:] != theirs[:, 7:]).any((0, 2, 3)).all()


@pytest.mark.parametrize("stride", [1, 2, 3, 5])
def test_out_size_counts_the_positions_of_the_kernel(stride):
    sizes = np.arange(1, 20)
    np.testing.assert_array_equal(out_size(sizes, stride), [len(range(0, n, stride)) for n in sizes])


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_out_size_of_no_frames_is_zero(stride):
    """Padding rows have no frames, and rounding must not give them one."""
    assert out_size(0, stride) == 0
    assert out_size(jnp.array([0]), stride)[0] == 0


@pytest.mark.parametrize("shape", [(11, 21, 1, 4), (7, 11, 3, 2), (1, 3, 2, 2)])
@pytest.mark.parametrize("strides", [(3, 2), (1, 2), (2, 1)])
def test_without_padding_in_time_outputs_are_those_of_complete_windows(shape, strides):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, 40, 24, shape[2])), jnp.float32)
    kernel = jnp.asarray(rng.standard_normal(shape), jnp.float32)
    half = shape[0] // 2
    shift = -half % strides[0]  # so that the first complete window is one of the padded convolution's
    padded = conv2d(jnp.pad(x, ((0, 0), (shift, 0), (0, 0), (0, 0))), kernel, strides)
    actual = conv2d_valid(x, kernel, strides)
    first = (half + shift) // strides[0]
    assert actual.shape[1] == (40 - shape[0]) // strides[0] + 1
    np.testing.assert_allclose(actual, padded[:, first : first + actual.shape[1]], atol=1e-3)
