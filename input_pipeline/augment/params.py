"""Checked access to the parameters of an entry of an augmentation file."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from input_pipeline import audio, manifest
from input_pipeline.storage.object_store import is_remote


class AugmentationError(ValueError):
    """An unusable augmentation file, noise clip or impulse response."""


@dataclass
class Params:
    """The parameters of an entry: each access is checked, and `refuse_others` raises for parameters never accessed."""

    values: dict
    where: str
    folder: Path  # of the JSON file
    sample_rate_hz: int
    read_clips: bool = True  # read noise and impulse responses now, to check them
    known: list[str] = field(default_factory=list)

    def number(self, name: str, low: float, high: float, default: float | None = None) -> float:
        """Return a number in low..high."""
        expected = f"a number from {low:g} to {high:g}"
        return float(
            self._get(name, default, expected, lambda value: type(value) in (int, float) and low <= value <= high)
        )

    def count(self, name: str, high: int, default: int | None = None) -> int:
        """Return a whole number in 0..high."""
        expected = f"a whole number from 0 to {high}"
        return int(
            self._get(name, default, expected, lambda value: type(value) in (int, float) and value in range(high + 1))
        )

    def switch(self, name: str, default: bool) -> bool:
        """Return true or false."""
        return bool(self._get(name, default, "true or false", lambda value: type(value) is bool))

    def choice(self, name: str, values: tuple[str, ...]) -> str:
        """Return one of these values, the first by default."""
        return str(self._get(name, values[0], f"one of {', '.join(values)}", lambda value: value in values))

    def interval(self, low_name: str, high_name: str, low: float, high: float) -> tuple[float, float]:
        """Return two numbers in low..high, the first not above the second."""
        first, last = self.number(low_name, low, high), self.number(high_name, low, high)
        if first > last:
            raise AugmentationError(
                f"{self.where}: {low_name} {first:g} is above {high_name} {last:g}: correct one of them"
            )
        return first, last

    def clips(self, name: str, longest_s: float) -> manifest.Manifest:
        """Return the manifest of clips that exist and are at most longest_s long. Raises AugmentationError."""
        path = self._file(name)
        try:
            clips = manifest.read(path, need_text=False)
        except manifest.ManifestError as error:
            raise AugmentationError(f"{self.where}: {name}: {error}") from error
        for row, clip in enumerate(clips.audio):
            if not audio.is_there(clip):
                raise AugmentationError(f"{self.where}: {clips.where(row)} does not exist: correct or remove the line")
            if clips.duration[row] > longest_s:
                raise AugmentationError(f"{self.where}: {clips.where(row)} is longer than {longest_s:.0f} s: split it")
        return clips

    def _file(self, name: str) -> str:
        """Return the path of an existing file, relative to the JSON file's folder or else to the working directory.

        The address of an object in a store is returned unchanged.
        """
        value = self._get(name, None, "the path of a file", lambda value: isinstance(value, str) and value != "")
        if is_remote(value):
            return value
        for folder in (self.folder, Path()):
            if (folder / value).is_file():
                return str(folder / value)
        folders = f"{self.folder} (the folder of this file) nor in {Path.cwd()} (the working directory)"
        raise AugmentationError(f"{self.where}: {name!r} is {value!r}, which is neither in {folders}: correct the path")

    def refuse_others(self) -> None:
        """Raise AugmentationError for a parameter that the augmentor has not accessed."""
        for name in self.values:
            if name not in self.known:
                raise AugmentationError(f"{self.where}: unknown {name!r}: use one of {', '.join(self.known)}")

    def _get(self, name: str, default: Any, expected: str, is_valid: Callable[[Any], bool]) -> Any:
        self.known.append(name)
        value = self.values.get(name, default)
        if value is None:
            raise AugmentationError(f"{self.where}: {name!r} is missing: it must be {expected}")
        if not is_valid(value):
            raise AugmentationError(f"{self.where}: {name!r} is {value!r}: it must be {expected}")
        return value
