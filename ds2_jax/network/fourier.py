"""Power spectra as exact as those of a float64 transform, from products that any accelerator computes without rounding.

A float32 transform errs by a share of a frame's loudest bin, by which quiet bins may change by a per cent, and accelerators have no
fast float64. Here, samples and the Fourier matrix are split into parts, whole numbers up to 256 (Ozaki et al. 2012, error-free
transformations of matrix multiplication): bfloat16 holds them, and float32 the sums of their products over a window, which
are below 2^24. Letters: W samples of a window, K bins.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

PARTS = 4
BITS = 9  # of a part, with its sign: 36 in all, of which float32 samples need 24, and more where they are quiet in their frame
LEAST_EXPONENT = -100  # of a frame's unit, which stays a normal number for silence


def split_matrix(matrix: np.ndarray) -> list[np.ndarray]:
    """Split a matrix [W, 2 K] within [-1, 1] into factors [n W, 2 K] for the first n parts of samples, n = 1..PARTS."""
    parts, rest = [], matrix * 2.0 ** (BITS - 1)
    for _ in range(PARTS):
        parts.append(np.round(rest))
        rest = (rest - parts[-1]) * 2.0**BITS
    return [np.concatenate(parts[last::-1]) for last in range(PARTS)]


def power_spectrum(frames: jax.Array, factors: Sequence[np.ndarray]) -> jax.Array:
    """Return the squared magnitudes [..., K] f32 of windowed frames [..., W] f32; factors: `split_matrix` of cosines and sines.

    Bins are exact to float32's last digits down to 1e-9 of the frame's loudest one. In windows of more than 1024 samples, a pure
    tone makes sums that are rounded.
    """
    window = frames.shape[-1]
    _, exponent = jnp.frexp(jnp.abs(frames).max(axis=-1, keepdims=True))
    exponent = jnp.maximum(exponent, LEAST_EXPONENT)
    parts = _split_frames(jnp.ldexp(frames, BITS - 1 - exponent))
    high, middle, low, lowest = (
        jnp.matmul(
            parts[..., : (n + 1) * window], jnp.asarray(factor, jnp.bfloat16), preferred_element_type=jnp.float32
        )
        for n, factor in enumerate(factors)
    )
    # The first sum rounds only what is large, so that nothing small is lost.
    total = (high + middle * 2.0**-BITS) + (low + lowest * 2.0**-BITS) * 2.0 ** (-2 * BITS)
    spectrum = jnp.ldexp(total, exponent - 2 * (BITS - 1))
    real, imaginary = jnp.split(spectrum, 2, axis=-1)
    return jnp.square(real) + jnp.square(imaginary)


def _split_frames(scaled: jax.Array) -> jax.Array:
    """Split frames [..., W] within [-256, 256] into parts, side by side: [..., PARTS * W] bf16."""
    parts = []
    for _ in range(PARTS):
        part = jnp.round(scaled)
        parts.append(part.astype(jnp.bfloat16))
        scaled = (scaled - part) * 2.0**BITS
    return jnp.concatenate(parts, axis=-1)
