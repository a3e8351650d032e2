"""The augmentors of the JSON file: a class for each type, with its parameters and their ranges.

To add one, write a class with `parse(params)` and `apply_audio`, and add it to AUGMENTORS. Only Speed changes the length; its
rates are drawn for a whole epoch at once. SpecAugment, which changes features, draws apart from its application, because a
compiled step may compute the features (`augment.packed_masks`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from input_pipeline.augment.audio_effects import (
    FASTEST_RATE,
    SLOWEST_RATE,
    ImpulseResponse,
    NoiseClip,
    add_noise,
    change_volume,
    limit_band,
    normalise_online,
    reverberate,
    shift,
)
from input_pipeline.augment.clip_cache import CACHE_BYTES, Clips
from input_pipeline.augment.feature_effects import draw_spans, draw_warp, mask, warp_time
from input_pipeline.augment.params import AugmentationError, Params

CROSS_FADE_S = 0.05
LONGEST_RESPONSE_S = 30.0
LOUDEST_DB = 100.0  # limit of levels and gains, also as -100 dB; larger values are taken for mistakes
LONGEST_SHIFT_MS = 10_000.0


@dataclass(frozen=True)
class Volume:
    """Change of volume: gain ~ U(min_gain_db, max_gain_db). Features that normalise the level undo it."""

    min_gain_db: float
    max_gain_db: float

    @classmethod
    def parse(cls, params: Params) -> "Volume":
        return cls(*params.interval("min_gain_dBFS", "max_gain_dBFS", -LOUDEST_DB, LOUDEST_DB))

    def apply_audio(self, samples: np.ndarray, sample_rate_hz: int, rng: np.random.Generator) -> np.ndarray:
        """Change the level of samples [N] float32."""
        return change_volume(samples, rng.uniform(self.min_gain_db, self.max_gain_db))


@dataclass(frozen=True)
class Speed:
    """Change of speed and pitch: rate ~ U(min_rate, max_rate); the new length is int(N / rate).

    num_rates (from PaddleSpeech): if above 0, draw one of so many equally spaced rates from min_rate to max_rate.
    """

    min_rate: float
    max_rate: float
    num_rates: int

    @classmethod
    def parse(cls, params: Params) -> "Speed":
        rates = params.interval("min_speed_rate", "max_speed_rate", SLOWEST_RATE, FASTEST_RATE)
        return cls(*rates, params.count("num_rates", 1000, default=0))

    def draw_rates(self, uniform: np.ndarray) -> np.ndarray:
        """Map uniform draws [N] to rates [N]."""
        if self.num_rates:
            return np.linspace(self.min_rate, self.max_rate, self.num_rates)[(uniform * self.num_rates).astype(int)]
        return self.min_rate + (self.max_rate - self.min_rate) * uniform


@dataclass(frozen=True)
class Shift:
    """Shift in time by s ~ U(min_shift_ms, max_shift_ms): if positive, the start is dropped and the end is silent."""

    min_shift_ms: float
    max_shift_ms: float
    where: str = "shift"  # the entry, for messages

    @classmethod
    def parse(cls, params: Params) -> "Shift":
        limits = params.interval("min_shift_ms", "max_shift_ms", -LONGEST_SHIFT_MS, LONGEST_SHIFT_MS)
        return cls(*limits, params.where)

    def apply_audio(self, samples: np.ndarray, sample_rate_hz: int, rng: np.random.Generator) -> np.ndarray:
        """Move samples [N] float32 in time. Raises AugmentationError if no sample would be left, as the original."""
        count = int(rng.uniform(self.min_shift_ms, self.max_shift_ms) * sample_rate_hz / 1000)
        try:
            return shift(samples, count)
        except AugmentationError as error:
            clip_ms = 1000 * len(samples) // sample_rate_hz
            raise AugmentationError(
                f"{self.where}: {error}: keep min_shift_ms and max_shift_ms within -{clip_ms} and {clip_ms}, or exclude "
                "clips as short as this (config.data.min_duration_s)"
            ) from error


@dataclass(frozen=True)
class BayesianNormal:
    """Normalisation of the level to target_db as in a live system, from past samples and a prior estimate."""

    target_db: float
    prior_db: float
    prior_samples: float
    startup_delay_s: float

    @classmethod
    def parse(cls, params: Params) -> "BayesianNormal":
        return cls(
            target_db=params.number("target_db", -LOUDEST_DB, LOUDEST_DB),
            prior_db=params.number("prior_db", -LOUDEST_DB, LOUDEST_DB),
            prior_samples=params.number("prior_samples", 1, 1e9),
            startup_delay_s=params.number("startup_delay", 0.0, 3600.0, default=0.0),
        )

    def apply_audio(self, samples: np.ndarray, sample_rate_hz: int, rng: np.random.Generator) -> np.ndarray:
        """Normalise samples [N] float32; nothing is drawn."""
        delay = round(self.startup_delay_s * sample_rate_hz)
        return normalise_online(samples, self.target_db, self.prior_db, self.prior_samples, delay)


@dataclass(frozen=True)
class Resample:
    """Resampling to a lower rate and back, as by a telephone: frequencies above half that rate are lost."""

    new_sample_rate_hz: int

    @classmethod
    def parse(cls, params: Params) -> "Resample":
        return cls(int(params.number("new_sample_rate", 1000, 1_000_000)))

    def apply_audio(self, samples: np.ndarray, sample_rate_hz: int, rng: np.random.Generator) -> np.ndarray:
        """Limit the band of samples [N] float32; nothing is drawn."""
        return limit_band(samples, sample_rate_hz, self.new_sample_rate_hz)


@dataclass(frozen=True)
class Noise:
    """Addition of a random section of a random clip from a noise manifest, at snr ~ U(min_snr_db, max_snr_db)."""

    min_snr_db: float
    max_snr_db: float
    clips: Clips[NoiseClip]

    @classmethod
    def parse(cls, params: Params) -> "Noise":
        min_snr_db, max_snr_db = params.interval("min_snr_dB", "max_snr_dB", -LOUDEST_DB, LOUDEST_DB)
        longest_s = CACHE_BYTES / 4 / params.sample_rate_hz  # longer clips do not fit the cache
        clips = Clips("noise", NoiseClip, params.clips("noise_manifest_path", longest_s))
        if params.read_clips:
            clips.check(params.sample_rate_hz)
        return cls(min_snr_db, max_snr_db, clips)

    def apply_audio(self, samples: np.ndarray, sample_rate_hz: int, rng: np.random.Generator) -> np.ndarray:
        """Add noise to samples [N] float32."""
        noise = self.clips.draw(sample_rate_hz, rng)
        snr_db = rng.uniform(self.min_snr_db, self.max_snr_db)
        return add_noise(samples, noise, snr_db, rng.random(), int(CROSS_FADE_S * sample_rate_hz))


@dataclass(frozen=True)
class Impulse:
    """Reverberation of a random room: convolution with a clip from a manifest of impulse responses (its first channel)."""

    clips: Clips[ImpulseResponse]

    @classmethod
    def parse(cls, params: Params) -> "Impulse":
        manifest = params.clips("impulse_manifest_path", LONGEST_RESPONSE_S)
        clips = Clips("impulse response", ImpulseResponse, manifest)
        if params.read_clips:
            clips.check(params.sample_rate_hz)
        return cls(clips)

    def apply_audio(self, samples: np.ndarray, sample_rate_hz: int, rng: np.random.Generator) -> np.ndarray:
        """Add the reverberation of a room to samples [N] float32."""
        return reverberate(samples, self.clips.draw(sample_rate_hz, rng))


class Masks(NamedTuple):
    """What SpecAugment draws for an utterance."""

    warp: tuple[int, int]  # the frame that moves, and where to; 0, 0: none
    bands: np.ndarray  # [n, 2] i32, the first and the number of the masked bins
    times: np.ndarray  # [n, 2] i32, of the masked frames


@dataclass(frozen=True)
class SpecAugment:
    """Time warping and masks in frequency and time (SpecAugment, Park et al. 2019), with PaddleSpeech's parameters.

    adaptive_number, adaptive_size (Park et al. 2020): number and width of time masks as shares of the frames, if above 0.
    """

    freq_masks: int
    freq_width: int
    time_masks: int
    time_width: int
    max_time_share: float
    warp: int
    replace_with_zero: bool
    adaptive_number: float
    adaptive_size: float
    max_time_masks: int

    @classmethod
    def parse(cls, params: Params) -> "SpecAugment":
        parsed = cls(
            freq_masks=params.count("n_freq_masks", 100),
            freq_width=params.count("F", 10_000),
            time_masks=params.count("n_time_masks", 100),
            time_width=params.count("T", 1_000_000),
            max_time_share=params.number("p", 0.0, 1.0, default=1.0),
            warp=params.count("W", 1000, default=0),
            replace_with_zero=params.switch("replace_with_zero", True),
            adaptive_number=params.number("adaptive_number_ratio", 0.0, 1.0, default=0.0),
            adaptive_size=params.number("adaptive_size_ratio", 0.0, 1.0, default=0.0),
            max_time_masks=params.count("max_n_time_masks", 100, default=20),
        )
        params.choice("warp_mode", ("PIL",))  # PaddleSpeech's name for this kind of warping
        return parsed

    @property
    def most_time_masks(self) -> int:
        """Number of time masks of the longest utterance."""
        return self.max_time_masks if self.adaptive_number else self.time_masks

    def draw(self, frames: int, bins: int, rng: np.random.Generator) -> Masks:
        """Draw the warp and the masks of an utterance."""
        masks, width = self.time_masks, self.time_width
        if self.adaptive_number:
            masks = min(int(self.adaptive_number * frames), self.max_time_masks)
        if self.adaptive_size:
            width = int(self.adaptive_size * frames)
        warp, bands = draw_warp(rng, frames, self.warp), draw_spans(rng, self.freq_masks, self.freq_width, bins)
        return Masks(warp, bands, draw_spans(rng, masks, min(width, int(self.max_time_share * frames)), frames))

    def apply_features(self, features: np.ndarray, drawn: Masks) -> np.ndarray:
        """Warp and mask features [T, F] float32."""
        fill = 0.0 if self.replace_with_zero else float(features.mean())
        return mask(warp_time(features, *drawn.warp), drawn.bands, drawn.times, fill)


AUGMENTORS: Mapping[str, Any] = {
    "volume": Volume,
    "speed": Speed,
    "shift": Shift,
    "bayesian_normal": BayesianNormal,
    "noise": Noise,
    "impulse": Impulse,
    "resample": Resample,
    "specaugment": SpecAugment,
    "specaug": SpecAugment,
}
