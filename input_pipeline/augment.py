"""Augmentation: change speech at random before it is learnt from, as a JSON file says.

The file is a list of `{"type": ..., "params": {...}, "prob": ...}`, applied in this order, each when a uniform draw is
below its `prob`. All draws are pure functions of (seed, epoch, utterance, copy), whatever the workers, hosts and order.

A new augmentor is a class with `parse(params)` and one of `draw_rates` (changes the length; drawn for a whole epoch at
once), `apply_audio` or `apply_features`, and a line in AUGMENTORS.
"""

import json
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from input_pipeline import audio, manifest

SLOWEST_RATE, FASTEST_RATE = 0.5, 2.0
MAX_NOISE_GAIN_DB = 300.0  # as the original
CROSS_FADE_S = 0.05
BLOCK = 8192  # samples of change_speed at once: temporaries that stay in the cache make it five times as fast
NOISE_CACHE_BYTES = 128 * 2**20  # in each worker process
SPEED_STREAM = 0x5350454544  # keeps the speed draws of an epoch apart from those of rng_for


class AugmentationError(ValueError):
    """An augmentation file or a noise clip that cannot be used."""


def rng_for(seed: int, epoch: int, utterance: int, copy: int = 0) -> np.random.Generator:
    """Return the generator of one utterance in one epoch; `copy` counts its appearances there."""
    return np.random.default_rng([seed, epoch, utterance, copy])


def speed_length(n: int | np.ndarray, rate: float | np.ndarray) -> np.ndarray:
    """Return how many samples [...] int64 `change_speed` makes of n samples: int(n / rate), at least one of any."""
    return np.maximum((np.asarray(n) / rate).astype(np.int64), np.minimum(n, 1))


def change_speed(samples: np.ndarray, rate: float) -> np.ndarray:
    """Play samples [N] faster (rate > 1) or slower by linear interpolation, as the original; the pitch changes, too.

    The new points are spread over 0..N, both included, although N is one past the last sample: those beyond it repeat
    the last sample.
    """
    if not SLOWEST_RATE <= rate <= FASTEST_RATE:
        raise AugmentationError(f"speed rate {rate}: must be from {SLOWEST_RATE:g} to {FASTEST_RATE:g}")
    n = len(samples)
    if rate == 1.0 or n == 0:
        return samples
    changed = np.empty(int(speed_length(n, rate)), dtype=samples.dtype)
    padded = np.concatenate([samples, samples[-1:], samples[-1:]])
    step = n / max(len(changed) - 1, 1)
    for first in range(0, len(changed), BLOCK):
        position = step * np.arange(first, min(first + BLOCK, len(changed)))
        left = position.astype(np.int64)
        before = padded.take(left)
        changed[first : first + BLOCK] = before + (padded.take(left + 1) - before) * (position - left)
    return changed


def add_noise(
    samples: np.ndarray, noise: np.ndarray, snr_db: float, start: int = 0, cross_fade: int = 800
) -> np.ndarray:
    """Add noise [M] to speech samples [N] at a signal-to-noise ratio, from sample `start` of the noise on.

    The gain is min(rms_db(speech) - rms_db(whole noise) - snr_db, 300) dB, as the original. Noise shorter than the
    speech is repeated, with `cross_fade` samples of overlap so that the joint does not click.
    Raises AugmentationError where the noise is silent or empty.
    """
    noise_db = audio.rms_db(noise)
    if noise_db == -math.inf:
        raise AugmentationError("the noise is silent: no gain gives it a level; remove the clip from the manifest")
    gain = 10.0 ** (min(audio.rms_db(samples) - noise_db - snr_db, MAX_NOISE_GAIN_DB) / 20.0)  # 0 for silent speech
    if start + len(samples) <= len(noise):
        piece = noise[start : start + len(samples)]
    else:
        piece = np.take(loop_noise(noise, cross_fade), np.arange(start, start + len(samples)), mode="wrap")
    return samples + np.float32(gain) * piece


def loop_noise(noise: np.ndarray, cross_fade: int) -> np.ndarray:
    """Shorten noise [M] to a loop [M - overlap] that may be repeated: its end, faded out, lies under its start.

    The fades keep the power of uncorrelated noise: cos^2 + sin^2 = 1.
    """
    overlap = min(cross_fade, len(noise) // 2)
    angle = (np.arange(overlap, dtype=np.float32) + 0.5) * np.float32(np.pi / 2 / max(overlap, 1))
    loop = noise[: len(noise) - overlap].copy()
    loop[:overlap] = noise[:overlap] * np.sin(angle) + noise[len(noise) - overlap :] * np.cos(angle)
    return loop


def mask_spectrogram(
    features: np.ndarray,
    rng: np.random.Generator,
    freq_masks: int,
    freq_width: int,
    time_masks: int,
    time_width: int,
    max_time_share: float,
) -> np.ndarray:
    """Set random bands of frequency and time to 0, the mean of normalised features [T, F]; returns a copy.

    Park et al. 2019, SpecAugment, section 2: widths f ~ U{0..freq_width} and t ~ U{0..time_width}, starts
    f0 ~ U{0..F-f} and t0 ~ U{0..T-t}; one time mask covers at most the share p = max_time_share of the T frames.
    """
    masked = features.copy()
    frames, bins = features.shape
    for _ in range(freq_masks):
        width = rng.integers(0, min(freq_width, bins) + 1)
        first = rng.integers(0, bins - width + 1)
        masked[:, first : first + width] = 0.0
    for _ in range(time_masks):
        width = rng.integers(0, min(time_width, int(max_time_share * frames)) + 1)
        first = rng.integers(0, frames - width + 1)
        masked[first : first + width] = 0.0
    return masked


@dataclass
class Params:
    """The parameters of one entry of the file: hands them out checked, and refuses those nobody asked for."""

    values: dict
    where: str
    folder: Path  # of the JSON file
    sample_rate_hz: int
    known: list[str] = field(default_factory=list)

    def number(self, name: str, low: float, high: float, default: float | None = None) -> float:
        """Return a number in low..high."""
        expected = f"a number from {low:g} to {high:g}"
        return float(
            self._get(name, default, expected, lambda value: type(value) in (int, float) and low <= value <= high)
        )

    def count(self, name: str, high: int) -> int:
        """Return a whole number in 0..high."""
        expected = f"a whole number from 0 to {high}"
        return int(
            self._get(name, None, expected, lambda value: type(value) in (int, float) and value in range(high + 1))
        )

    def interval(self, low_name: str, high_name: str, low: float, high: float) -> tuple[float, float]:
        """Return two numbers in low..high, the first not above the second."""
        first, last = self.number(low_name, low, high), self.number(high_name, low, high)
        if first > last:
            raise AugmentationError(f"{self.where}: {low_name} {first:g} is above {high_name} {last:g}; mend one")
        return first, last

    def file(self, name: str) -> str:
        """Return the path of an existing file, found from the JSON file's folder or from the working directory."""
        value = self._get(name, None, "the path of a file", lambda value: isinstance(value, str) and value != "")
        for folder in (self.folder, Path()):
            if (folder / value).is_file():
                return str(folder / value)
        folders = f"{self.folder} (the folder of this file) nor in {Path.cwd()} (the working directory)"
        raise AugmentationError(f"{self.where}: {name!r} is {value!r}, which is neither in {folders}; mend the path")

    def refuse_others(self) -> None:
        """Raise where a parameter was given that the augmentor has not asked for."""
        for name in self.values:
            if name not in self.known:
                raise AugmentationError(f"{self.where}: unknown {name!r}; there are {', '.join(self.known)}")

    def _get(self, name: str, default: Any, expected: str, is_valid: Callable[[Any], bool]) -> Any:
        self.known.append(name)
        value = self.values.get(name, default)
        if value is None:
            raise AugmentationError(f"{self.where}: {name!r} is missing; it must be {expected}")
        if not is_valid(value):
            raise AugmentationError(f"{self.where}: {name!r} is {value!r}; it must be {expected}")
        return value


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


class NoiseCache:
    """Decoded clips by (path, rate), the least recently used ones given up at a limit of bytes; shared by threads."""

    def __init__(self, limit_bytes: int):
        self.limit_bytes = limit_bytes
        self._clips: OrderedDict[tuple[str, int], np.ndarray] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple:
        return NoiseCache, (self.limit_bytes,)  # pickled empty: worker processes are not sent the audio

    def read(self, path: str, sample_rate_hz: int) -> np.ndarray:
        """Return the samples [M] float32 of a clip at this rate."""
        key = (path, sample_rate_hz)
        with self._lock:
            if key in self._clips:
                self._clips.move_to_end(key)
                return self._clips[key]
        samples, _ = audio.read(path, sample_rate_hz)  # not under the lock: other threads go on meanwhile
        with self._lock:
            if key not in self._clips:
                self._clips[key] = samples
                self._bytes += samples.nbytes
            while self._bytes > self.limit_bytes:
                self._bytes -= self._clips.popitem(last=False)[1].nbytes
        return samples


@dataclass(frozen=True)
class Noise:
    """A random piece of a random clip of a noise manifest, added at snr ~ U(min_snr_db, max_snr_db)."""

    min_snr_db: float
    max_snr_db: float
    clips: manifest.Manifest
    cache: NoiseCache = field(default_factory=lambda: NoiseCache(NOISE_CACHE_BYTES), compare=False, repr=False)

    @classmethod
    def parse(cls, params: Params) -> "Noise":
        min_snr_db, max_snr_db = params.interval("min_snr_dB", "max_snr_dB", -100.0, 100.0)
        path = params.file("noise_manifest_path")
        try:
            clips = manifest.read(path, need_text=False)
        except manifest.ManifestError as error:
            raise AugmentationError(f"{params.where}: noise_manifest_path: {error}") from error
        longest_s = NOISE_CACHE_BYTES / 4 / params.sample_rate_hz  # a longer one would be decoded for each utterance
        for row, clip in enumerate(clips.audio):
            if not audio.is_there(clip):
                raise AugmentationError(f"{params.where}: {clips.where(row)} does not exist; mend or remove the line")
            if clips.duration[row] > longest_s:
                raise AugmentationError(
                    f"{params.where}: {clips.where(row)} is longer than {longest_s:.0f} s; cut it up"
                )
        return cls(min_snr_db, max_snr_db, clips)

    def apply_audio(self, samples: np.ndarray, sample_rate_hz: int, rng: np.random.Generator) -> np.ndarray:
        """Add noise to samples [N] float32."""
        row = int(rng.integers(len(self.clips)))
        snr_db = rng.uniform(self.min_snr_db, self.max_snr_db)
        place = rng.random()
        try:
            noise = self.cache.read(self.clips.audio[row], sample_rate_hz)
            # Shorter noise is a loop, which may start anywhere; longer noise must last until the speech ends.
            starts = len(noise) if len(noise) < len(samples) else len(noise) - len(samples) + 1
            return add_noise(samples, noise, snr_db, int(place * starts), int(CROSS_FADE_S * sample_rate_hz))
        except (audio.AudioError, AugmentationError) as error:
            raise AugmentationError(f"noise {self.clips.where(row)}: {error}") from error


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


AUGMENTORS: Mapping[str, Any] = {"speed": Speed, "noise": Noise, "specaugment": SpecAugment}


class Entry(NamedTuple):
    """One augmentor of the file and how often it is applied."""

    augmentor: Any
    prob: float
    description: str


@dataclass(frozen=True)
class Augmentation:
    """The augmentors of one file, in its order. Empty: nothing is changed."""

    entries: tuple[Entry, ...] = ()

    @classmethod
    def load(cls, path: str | Path, sample_rate_hz: int) -> "Augmentation":
        """Read a JSON file ('' for no augmentation); sample_rate_hz is the speech's; raises AugmentationError."""
        if not str(path):
            return cls()
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
        except (OSError, ValueError) as error:
            raise AugmentationError(f"augmentation file {path} cannot be read as JSON: {error}; mend it") from error
        if content in ([], {}):
            return cls()
        if not isinstance(content, list):
            raise AugmentationError(f'{path}: must be a list of {{"type", "params", "prob"}}, [] for no augmentation')
        parsed = [_parse_entry(entry, index, Path(path), sample_rate_hz) for index, entry in enumerate(content)]
        loaded = cls(tuple(parsed))
        shortest, longest = loaded.stretch_limits
        if shortest < 1 / FASTEST_RATE or longest > 1 / SLOWEST_RATE:
            reached = f"{1 / longest:g}..{1 / shortest:g}; narrow them to {SLOWEST_RATE:g}..{FASTEST_RATE:g}"
            raise AugmentationError(f"{path}: all speed entries together reach rates of {reached}")
        return loaded

    def describe(self) -> str:
        """Return a line for each augmentor."""
        return "\n".join(entry.description for entry in self.entries) or "no augmentation"

    @property
    def stretch_limits(self) -> tuple[float, float]:
        """Smallest and largest factor by which a clip's length can change."""
        shortest = longest = 1.0
        for entry in self.entries:
            if isinstance(entry.augmentor, Speed) and entry.prob > 0:
                rates = [entry.augmentor.min_rate, entry.augmentor.max_rate, *([1.0] if entry.prob < 1 else [])]
                shortest /= max(rates)
                longest /= min(rates)
        return shortest, longest

    def speed_rates(self, n_utterances: int, seed: int, epoch: int, copy: int = 0) -> np.ndarray:
        """Draw the speed rates of an epoch, [N] float64, all at once: batches are planned with them."""
        rates = np.ones(n_utterances)
        for position, entry in enumerate(self.entries):
            if isinstance(entry.augmentor, Speed):
                rng = np.random.default_rng([seed, epoch, copy, position, SPEED_STREAM])
                chance, uniform = rng.random((2, n_utterances))
                rates *= np.where(chance < entry.prob, entry.augmentor.draw_rates(uniform), 1.0)
        return rates

    def apply_audio(
        self, samples: np.ndarray, sample_rate_hz: int, *, rate: float, rng: np.random.Generator
    ) -> np.ndarray:
        """Change samples [N] float32; `rate`, from `speed_rates`, is applied where the first speed entry stands."""
        for entry in self.entries:
            if isinstance(entry.augmentor, Speed):
                samples, rate = change_speed(samples, rate), 1.0
            elif hasattr(entry.augmentor, "apply_audio") and rng.random() < entry.prob:
                samples = entry.augmentor.apply_audio(samples, sample_rate_hz, rng)
        return samples

    def apply_features(self, features: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Change normalised features [T, F] float32, of which the mean is 0."""
        for entry in self.entries:
            if hasattr(entry.augmentor, "apply_features") and rng.random() < entry.prob:
                features = entry.augmentor.apply_features(features, rng)
        return features


def _parse_entry(entry: Any, index: int, path: Path, sample_rate_hz: int) -> Entry:
    where = f"{path}: entry {index + 1}"
    if not isinstance(entry, dict) or not isinstance(entry.get("type"), str):
        raise AugmentationError(f'{where}: {entry!r} is not {{"type": ..., "params": {{...}}, "prob": ...}}')
    kind = AUGMENTORS.get(entry["type"])
    if kind is None:
        raise AugmentationError(f"{where}: unknown type {entry['type']!r}; there are {', '.join(AUGMENTORS)}")
    where = f"{where} ({entry['type']})"
    outer = Params(entry, where, path.parent, sample_rate_hz, known=["type", "params"])
    prob = outer.number("prob", 0.0, 1.0)
    outer.refuse_others()
    values = entry.get("params", {})
    if not isinstance(values, dict):
        raise AugmentationError(f"{where}: 'params' is {values!r}; it must be an object with named values")
    params = Params(values, where, path.parent, sample_rate_hz)
    augmentor = kind.parse(params)
    params.refuse_others()
    named = "".join(f", {name} {value}" for name, value in values.items())
    return Entry(augmentor, prob, f"{entry['type']}: prob {prob:g}{named}")
