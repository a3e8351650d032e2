"""The front end inside a compiled step: samples in, what the network sees out, as `input_pipeline.audio` and `augment` make it.

Letters: B batch, N samples, W samples of a window, T frames, F features.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ds2_jax.network.fourier import power_spectrum, split_matrix
from input_pipeline.audio.features import (
    FLOOR,
    FeatureError,
    FeatureSettings,
    density_factors,
    fourier_matrix,
    hann_window,
    mel_filters,
    transform_length,
)
from input_pipeline.audio.front_end import STD_FLOOR, FrontEnd
from input_pipeline.augment.packed_masks import unpack
from input_pipeline.batches.inputs import FeatureInput, Inputs, SampleInput

Batch = dict[str, jax.Array]  # docs/design.md, Contracts
MOST_WARPED = 1 << 15  # frames: positions of a warp are fractions of 32-bit whole numbers


def with_features(step: Callable[[Any, Batch], Any], inputs: Inputs) -> Callable[[Any, Batch], Any]:
    """Return a step that makes the spectrogram of its batch first, or the step itself if the host has made it."""
    if isinstance(inputs, FeatureInput):
        return step
    front_end, taken = make_front_end(inputs), inputs.arrays(1, 1)

    def step_with_features(state: Any, batch: Batch) -> Any:
        rest = {name: array for name, array in batch.items() if name not in taken}
        return step(state, rest | {"spectrogram": front_end(batch)})

    return step_with_features


def make_front_end(inputs: SampleInput) -> Callable[[Batch], jax.Array]:
    """Return the function from a batch with samples to its spectrogram [B, T, F] f32, zero beyond each row's frames."""
    settings, augmentors = inputs.front_end.settings, inputs.augmentation.masking
    spectra = _make_spectra(settings)

    def front_end(batch: Batch) -> jax.Array:
        frames = jnp.where(batch["valid"], batch["frames"], 0)
        samples = batch["samples"].astype(jnp.float32) * batch["gain"][:, None]
        features = spectra(_cut_frames(samples, settings), batch.get("gains"))
        inside = (jnp.arange(features.shape[1]) < frames[:, None])[..., None]  # [B, T, 1]
        features = _normalise(features, inside, frames, inputs.front_end)
        drawn = unpack(augmentors, batch["masks"]) if augmentors else []
        for augmentor, (warp, bands, times) in zip(augmentors, drawn, strict=True):
            fill = 0.0 if augmentor.replace_with_zero else _mean(features, inside, frames)
            if augmentor.warp:
                features = _warp_time(features, warp, frames)
            features = _mask(features, bands, times, fill)
        return jnp.where(inside, features, 0)

    return front_end


def _cut_frames(samples: jax.Array, settings: FeatureSettings) -> jax.Array:
    """Cut samples [B, N] into frames [B, T, W], as slices of strides side by side: a gather would be slower."""
    window, stride = settings.window_samples, settings.stride_samples
    strides = samples.reshape(len(samples), -1, stride)
    parts = -(-window // stride)
    frames = strides.shape[1] - parts + 1
    return jnp.concatenate([strides[:, part : part + frames] for part in range(parts)], axis=2)[..., :window]


def _make_spectra(settings: FeatureSettings) -> Callable[[jax.Array, jax.Array | None], jax.Array]:
    """Return `features.spectra` of frames [B, T, W], times gains [B, T] of their power: [B, T, F]."""
    fft, size = transform_length(settings), FrontEnd(settings, "none").size
    filters = mel_filters(settings, fft) if settings.kind == "fbank" else None
    used = size if filters is None else int(np.flatnonzero(filters.any(axis=1)).max()) + 1  # bins, from the lowest
    bins = fft // 2 + 1
    matrix = fourier_matrix(settings.window_samples, fft)
    factors = split_matrix(np.concatenate([matrix[:, :used], matrix[:, bins : bins + used]], axis=1))
    densities = density_factors(settings, fft)[:used]

    def spectra(frames: jax.Array, gains: jax.Array | None) -> jax.Array:
        power = power_spectrum(frames * hann_window(settings), factors)
        power *= densities if gains is None else densities * gains[..., None]
        if filters is not None:
            power = jnp.matmul(power, filters[:used], precision=jax.lax.Precision.HIGHEST)
        return jnp.log(power + np.float32(FLOOR))

    return spectra


def _normalise(features: jax.Array, inside: jax.Array, frames: jax.Array, front_end: FrontEnd) -> jax.Array:
    """Normalise features [B, T, F] as `front_end.normalise`, by the frames inside [B, T, 1] of each row."""
    mode, stats = front_end.normalisation, front_end.stats
    if mode == "none":
        return features
    if mode == "corpus":
        if stats is None or len(stats.mean) != front_end.size:
            raise FeatureError(f"statistics of {front_end.size} features are needed; make them again")
        return (features - stats.mean) / (stats.std + np.float32(1e-14))
    axes = (1,) if mode == "utterance" else (1, 2)
    count = jnp.maximum(frames, 1)[:, None, None] * (1 if mode == "utterance" else front_end.size)
    # Differences from a value of the row are small, and so are the rounding errors of their sums.
    offset = features[:, :1] if mode == "utterance" else features[:, :1, :1]
    deviations = jnp.where(inside, features - offset, 0)
    mean = deviations.sum(axes, keepdims=True) / count
    deviations = jnp.where(inside, deviations - mean, 0)
    degrees = count if mode == "utterance" else jnp.maximum(count - 1, 1)
    variance = jnp.square(deviations).sum(axes, keepdims=True) / degrees
    return deviations / jnp.maximum(jnp.sqrt(variance), np.float32(STD_FLOOR))


def _mean(features: jax.Array, inside: jax.Array, frames: jax.Array) -> jax.Array:
    """Return the mean of each row's features: [B, T, F] -> [B, 1, 1]."""
    count = jnp.maximum(frames, 1)[:, None, None] * features.shape[2]
    return jnp.where(inside, features, 0).sum((1, 2), keepdims=True) / count


def _warp_time(features: jax.Array, warp: jax.Array, frames: jax.Array) -> jax.Array:
    """Warp features [B, T, F] as `feature_effects.warp_time`; warp [B, 2]: the frame that moves, and where to; 0, 0: none.

    Positions are fractions of whole numbers, because float32 would be less exact than the interpolation needs.
    """
    length = features.shape[1]
    if length > MOST_WARPED:
        raise ValueError(
            f"a time warp of {length} frames is not computed on the device: lower config.data.max_duration_s, set W to 0 in "
            "the augmentation file, or set config.features.on_device to false"
        )
    frame = jnp.arange(length)
    centre, moved = warp[:, :1], warp[:, 1:]  # [B, 1]
    early = frame < moved  # [B, T]
    source = jnp.where(early, centre, frames[:, None] - centre)  # frames that become so many, `target`
    target = jnp.maximum(jnp.where(early, moved, frames[:, None] - moved), 1)
    first = jnp.where(early, 0, centre)
    twice = jnp.maximum((2 * (frame - jnp.where(early, 0, moved)) + 1) * source - target, 0)  # position * 2 * target
    left, rest = twice // (2 * target), twice % (2 * target)
    last = source - 1  # positions end there
    share = jnp.where(left < last, rest / (2 * target), 0)
    left = first + jnp.clip(left, 0, jnp.maximum(last, 0))
    right = jnp.minimum(left + 1, jnp.maximum(frames[:, None] - 1, 0))
    take = jax.vmap(lambda row, index: row[index])
    warped = take(features, left) * (1 - share)[..., None] + take(features, right) * share[..., None]
    return jnp.where(centre[..., None] > 0, warped, features)


def _mask(features: jax.Array, bands: jax.Array, times: jax.Array, fill: jax.Array | float) -> jax.Array:
    """Set bands [B, n, 2] and times [B, m, 2], first and number, of features [B, T, F] to a value."""
    masked = _covered(times, features.shape[1])[:, :, None] | _covered(bands, features.shape[2])[:, None, :]
    return jnp.where(masked, fill, features)


def _covered(spans: jax.Array, length: int) -> jax.Array:
    """Return which of `length` positions are in one of the spans [B, n, 2]: [B, length] bool."""
    position = jnp.arange(length)
    first, size = spans[..., :1], spans[..., 1:]
    return ((position >= first) & (position < first + size)).any(axis=1)
