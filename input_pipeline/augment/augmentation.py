"""Read an augmentation file and apply it.

The file is a list of `{"type": ..., "params": {...}, "prob": ...}`, applied in this order, each with probability `prob`.
All draws are pure functions of (seed, epoch, utterance, copy), independent of workers, hosts and order.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from input_pipeline.augment.audio_effects import FASTEST_RATE, SLOWEST_RATE, change_speed
from input_pipeline.augment.augmentors import AUGMENTORS, Masks, SpecAugment, Speed
from input_pipeline.augment.params import AugmentationError, Params

SPEED_STREAM = 0x5350454544  # makes the generator of an epoch's speed rates different from those of rng_for


def rng_for(seed: int, epoch: int, utterance: int, copy: int = 0) -> np.random.Generator:
    """Return the random generator of an utterance in an epoch; copy: number of its occurrence there."""
    return np.random.default_rng([seed, epoch, utterance, copy])


class Entry(NamedTuple):
    """An augmentor of the file and its probability."""

    kind: str  # type in the file
    augmentor: Any
    prob: float
    description: str


@dataclass(frozen=True)
class Augmentation:
    """The augmentors of a file, in order; none: no augmentation."""

    entries: tuple[Entry, ...] = ()

    @classmethod
    def load(cls, path: str | Path, sample_rate_hz: int, *, read_clips: bool = True) -> "Augmentation":
        """Read a JSON file ('' for no augmentation). Raises AugmentationError.

        sample_rate_hz: of the speech. read_clips: also read the noise and impulse response clips, to report bad ones now.
        """
        if not str(path):
            return cls()
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
        except (OSError, ValueError) as error:
            raise AugmentationError(
                f"the augmentation file {path} cannot be read as JSON: {error}: correct it"
            ) from error
        if content in ([], {}):
            return cls()
        if not isinstance(content, list):
            raise AugmentationError(
                f'{path} is not a list: write a list of {{"type", "params", "prob"}}, or [] for no augmentation'
            )
        parsed = [_parse_entry(entry, n, Path(path), sample_rate_hz, read_clips) for n, entry in enumerate(content, 1)]
        loaded = cls(tuple(parsed))
        shortest, longest = loaded.stretch_limits
        if shortest < 1 / FASTEST_RATE or longest > 1 / SLOWEST_RATE:
            raise AugmentationError(
                f"{path}: the speed entries together reach rates of {1 / longest:g} to {1 / shortest:g}: limit them to "
                f"{SLOWEST_RATE:g} to {FASTEST_RATE:g}"
            )
        return loaded

    def describe(self) -> str:
        """Return a description with one line per augmentor."""
        return "\n".join(entry.description for entry in self.entries) or "no augmentation"

    @property
    def stretch_limits(self) -> tuple[float, float]:
        """The smallest and the largest factor by which a clip's length can change."""
        shortest = longest = 1.0
        for entry in self.entries:
            if isinstance(entry.augmentor, Speed) and entry.prob > 0:
                rates = [entry.augmentor.min_rate, entry.augmentor.max_rate, *([1.0] if entry.prob < 1 else [])]
                shortest /= max(rates)
                longest /= min(rates)
        return shortest, longest

    def speed_rates(self, n_utterances: int, seed: int, epoch: int, copy: int = 0) -> np.ndarray:
        """Draw the speed rates [N] float64 of all utterances of an epoch, which the batch plan needs in advance."""
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
        """Augment samples [N] float32; rate: from `speed_rates`, applied at the position of the first speed entry."""
        for entry in self.entries:
            if isinstance(entry.augmentor, Speed):
                samples, rate = change_speed(samples, rate), 1.0
            elif hasattr(entry.augmentor, "apply_audio") and rng.random() < entry.prob:
                samples = entry.augmentor.apply_audio(samples, sample_rate_hz, rng)
        return samples

    def apply_features(self, features: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Augment normalised features [T, F] float32, whose mean is 0."""
        for augmentor, drawn in zip(self.masking, self.draw_masks(len(features), features.shape[1], rng), strict=True):
            if drawn is not None:
                features = augmentor.apply_features(features, drawn)
        return features

    @property
    def masking(self) -> list[SpecAugment]:
        """The augmentors of features, in order."""
        return [entry.augmentor for entry in self.entries if isinstance(entry.augmentor, SpecAugment)]

    def draw_masks(self, frames: int, bins: int, rng: np.random.Generator) -> list[Masks | None]:
        """Draw what each augmentor of features does to an utterance; None if its probability leaves the utterance out."""
        return [
            entry.augmentor.draw(frames, bins, rng) if rng.random() < entry.prob else None
            for entry in self.entries
            if isinstance(entry.augmentor, SpecAugment)
        ]


def _parse_entry(entry: Any, number: int, path: Path, sample_rate_hz: int, read_clips: bool) -> Entry:
    where = f"{path}: entry {number}"
    if not isinstance(entry, dict) or not isinstance(entry.get("type"), str):
        raise AugmentationError(f'{where} is {entry!r}: write {{"type": ..., "params": {{...}}, "prob": ...}}')
    kind = AUGMENTORS.get(entry["type"])
    if kind is None:
        raise AugmentationError(f"{where}: unknown type {entry['type']!r}: use one of {', '.join(AUGMENTORS)}")
    where = f"{where} ({entry['type']})"
    outer = Params(entry, where, path.parent, sample_rate_hz, known=["type", "params"])
    prob = outer.number("prob", 0.0, 1.0)
    outer.refuse_others()
    values = entry.get("params", {})
    if not isinstance(values, dict):
        raise AugmentationError(f"{where}: 'params' is {values!r}: it must be an object with named values")
    params = Params(values, where, path.parent, sample_rate_hz, read_clips)
    augmentor = kind.parse(params)
    params.refuse_others()
    described = "".join(f", {name} {value}" for name, value in values.items())
    return Entry(entry["type"], augmentor, prob, f"{entry['type']}: prob {prob:g}{described}")
