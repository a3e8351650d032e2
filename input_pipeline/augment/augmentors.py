"""The augmentors of the JSON file: one class a type, with its parameters and their ranges.

A new one is a class with `parse(params)` and one of `draw_rates` (changes the length; drawn for a whole epoch at once),
`apply_audio` or `apply_features`, and a line in AUGMENTORS.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from input_pipeline import audio, manifest
from input_pipeline.augment.audio_effects import (
    FASTEST_RATE,
    SLOWEST_RATE,
    ImpulseResponse,
    NoiseClip,
    add_noise,
    reverberate,
)
from input_pipeline.augment.clip_cache import ClipCache
from input_pipeline.augment.feature_effects import mask_spectrogram
from input_pipeline.augment.params import AugmentationError, Params

CROSS_FADE_S = 0.05
CACHE_BYTES = 128 * 2**20  # of noise, and again of impulse responses, in each worker process
LONGEST_RESPONSE_S = 30.0


@dataclass(frozen=True)
class Speed:
    """Faster or slower, with the pitch: rate ~ U(min_rate, max_rate), the new length int(N / rate)."""

    min_rate: float
    max_rate: float

    @classmethod
    def parse(cls, params: Params) -> "Speed":
        return cls(*params.interval("min_speed_rate", "max_speed_rate", SLOWEST_RATE, FASTEST_RATE))

    def draw_rates(self, uniform: np.ndarray) -> np.ndarray:
        """Turn uniform draws [N] into rates [N]."""
        return self.min_rate + (self.max_rate - self.min_rate) * uniform


@dataclass(frozen=True)
class Noise:
    """A random piece of a random clip of a noise manifest, added at snr ~ U(min_snr_db, max_snr_db)."""

    min_snr_db: float
    max_snr_db: float
    clips: manifest.Manifest
    cache: ClipCache[NoiseClip] = field(
        default_factory=lambda: ClipCache(NoiseClip, CACHE_BYTES), compare=False, repr=False
    )

    @classmethod
    def parse(cls, params: Params) -> "Noise":
        min_snr_db, max_snr_db = params.interval("min_snr_dB", "max_snr_dB", -100.0, 100.0)
        longest_s = CACHE_BYTES / 4 / params.sample_rate_hz  # a longer one would be decoded for each utterance
        return cls(min_snr_db, max_snr_db, params.clips("noise_manifest_path", longest_s))

    def apply_audio(self, samples: np.ndarray, sample_rate_hz: int, rng: np.random.Generator) -> np.ndarray:
        """Add noise to samples [N] float32."""
        row = int(rng.integers(len(self.clips)))
        snr_db = rng.uniform(self.min_snr_db, self.max_snr_db)
        place = rng.random()
        try:
            noise = self.cache.read(self.clips.audio[row], sample_rate_hz)
        except (audio.AudioError, AugmentationError) as error:
            raise AugmentationError(f"noise {self.clips.where(row)}: {error}") from error
        return add_noise(samples, noise, snr_db, place, int(CROSS_FADE_S * sample_rate_hz))


@dataclass(frozen=True)
class Impulse:
    """The sound of a random room: convolution with a clip of a manifest of impulse responses."""

    clips: manifest.Manifest
    cache: ClipCache[ImpulseResponse] = field(
        default_factory=lambda: ClipCache(ImpulseResponse, CACHE_BYTES), compare=False, repr=False
    )

    @classmethod
    def parse(cls, params: Params) -> "Impulse":
        return cls(params.clips("impulse_manifest_path", LONGEST_RESPONSE_S))

    def apply_audio(self, samples: np.ndarray, sample_rate_hz: int, rng: np.random.Generator) -> np.ndarray:
        """Put samples [N] float32 into a room."""
        row = int(rng.integers(len(self.clips)))
        try:
            room = self.cache.read(self.clips.audio[row], sample_rate_hz)
        except (audio.AudioError, AugmentationError) as error:
            raise AugmentationError(f"impulse response {self.clips.where(row)}: {error}") from error
        return reverberate(samples, room)


@dataclass(frozen=True)
class SpecAugment:
    """Bands of frequency and time set to the mean (Park et al. 2019); no time warp."""

    freq_masks: int
    freq_width: int
    time_masks: int
    time_width: int
    max_time_share: float

    @classmethod
    def parse(cls, params: Params) -> "SpecAugment":
        return cls(
            freq_masks=params.count("n_freq_masks", 100),
            freq_width=params.count("F", 10_000),
            time_masks=params.count("n_time_masks", 100),
            time_width=params.count("T", 1_000_000),
            max_time_share=params.number("p", 0.0, 1.0, default=1.0),
        )

    def apply_features(self, features: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Mask features [T, F]."""
        return mask_spectrogram(features, rng, **vars(self))


AUGMENTORS: Mapping[str, Any] = {"speed": Speed, "noise": Noise, "impulse": Impulse, "specaugment": SpecAugment}
