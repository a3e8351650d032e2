"""The vocabulary of a network: its symbols and their output indices."""

import collections
import hashlib
import os
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from input_pipeline.storage import whole_file
from input_pipeline.text.characters import (
    SHOWN,
    by_frequency,
    count_characters,
    describe_character,
    describe_characters,
    standing,
)

LISTED = 80  # symbols in a message


class VocabularyError(ValueError):
    """A vocabulary that cannot be used; the message names file and line and says what to do."""


class UnknownCharacters(ValueError):
    """A transcript with characters that the vocabulary lacks."""

    def __init__(self, characters: Sequence[str], text: str):
        self.characters = tuple(characters)
        self.text = text
        where = text if len(text) <= 60 else text[:60] + "..."
        super().__init__(
            f"not in the vocabulary: {describe_characters(self.characters)}, in {where!r}; correct the text or extend the vocabulary"
        )

    def __reduce__(self):
        """Pickle the arguments of the constructor: a worker process sends its exceptions back."""
        return type(self), (self.characters, self.text)


@dataclass(frozen=True)
class Vocabulary:
    """The symbols that a network outputs: symbol i has index i + 1; index 0 is the blank, which is not among them."""

    symbols: tuple[str, ...]
    _index: dict[str, int] = field(init=False, repr=False, compare=False)
    _by_code: np.ndarray = field(
        init=False, repr=False, compare=False
    )  # index of each code point, 0 for none; the last entry stands for all code points beyond

    def __post_init__(self):
        """Raise VocabularyError unless the symbols are distinct single characters that can be written one per line."""
        object.__setattr__(self, "_index", {symbol: i + 1 for i, symbol in enumerate(self.symbols)})
        if not self.symbols:
            raise VocabularyError(
                "a vocabulary needs at least one symbol; make it from transcripts: python -m input_pipeline.text"
            )
        unfit = [s for s in self.symbols if len(s) != 1 or s in "\r\n" or "\ud800" <= s <= "\udfff"]
        if unfit:
            raise VocabularyError(f"symbols must be single characters, and not line ends: {unfit[:SHOWN]}; remove them")
        if len(self._index) != len(self.symbols):
            twice = [s for s, n in collections.Counter(self.symbols).items() if n > 1]
            raise VocabularyError(f"symbols occur twice in the vocabulary: {twice[:SHOWN]}; remove one of each")
        codes = [ord(symbol) for symbol in self.symbols]
        by_code = np.zeros(max(codes) + 2, np.int32)
        by_code[codes] = np.arange(1, self.size)
        object.__setattr__(self, "_by_code", by_code)

    def beginning(self) -> str:
        """Return the first symbols for a message, with a sign if there are more."""
        return "".join(map(standing, self.symbols[:LISTED])) + (" ..." if len(self.symbols) > LISTED else "")

    @property
    def size(self) -> int:
        """Outputs of the network, K: the symbols and the blank."""
        return len(self.symbols) + 1

    @property
    def digest(self) -> str:
        """Start of the SHA-256 of the symbols in order."""
        return hashlib.sha256("\n".join(self.symbols).encode()).hexdigest()[:12]

    def encode(self, text: str) -> np.ndarray:
        """Return the indices [L] int32 of a text's characters. Raises UnknownCharacters."""
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        indices = self._by_code[np.minimum(codes, len(self._by_code) - 1)]
        if not indices.all():
            raise UnknownCharacters(sorted(set(text) - set(self._index)), text)
        return indices

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of indices from 1 to K - 1. Raises ValueError for others, the blank included."""
        indices = list(ids)
        if indices and not 0 < min(indices) <= max(indices) < self.size:
            raise ValueError(
                f"indices {min(indices)} to {max(indices)} are not all symbols: these have indices 1 to {self.size - 1}"
            )
        return "".join(self.symbols[i - 1] for i in indices)

    def extended(self, others: Iterable[str]) -> "Vocabulary":
        """Return a vocabulary with the new symbols of `others` appended, so that all indices stay valid."""
        return Vocabulary((*self.symbols, *dict.fromkeys(s for s in others if s not in self._index)))

    @classmethod
    def build(cls, texts: Iterable[str], count_threshold: int = 0) -> "Vocabulary":
        """Make a vocabulary of the characters that occur at least `count_threshold` times, by decreasing frequency."""
        counts = count_characters(texts)
        return cls(tuple(c for c in by_frequency(counts) if counts[c] >= count_threshold))

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Vocabulary":
        """Read a file with one character per line; a line with a single space is the space. Raises VocabularyError."""
        try:
            content = Path(path).read_bytes().decode("utf-8-sig")
        except OSError as error:
            raise VocabularyError(f"vocabulary {path} cannot be read: {error.strerror}; check the path") from error
        except UnicodeDecodeError as error:
            raise VocabularyError(f"vocabulary {path} is not UTF-8 ({error.reason}); save it as UTF-8") from error
        lines = content.replace("\r\n", "\n").removesuffix("\n").split("\n")
        if lines == [""]:
            raise VocabularyError(f"vocabulary {path} is empty; make it: python -m input_pipeline.text")
        seen: dict[str, int] = {}
        for number, line in enumerate(lines, start=1):
            if len(line) != 1:
                raise VocabularyError(f"{path}:{number}: {line!r} must be one character; {_advice(line)}")
            if line in seen:
                raise VocabularyError(f"{path}:{number}: {line!r} is in line {seen[line]} already; remove one")
            seen[line] = number
        return cls(tuple(lines))

    def save(self, path: str | os.PathLike) -> None:
        """Write one character per line; the folder is created if necessary. Raises VocabularyError."""
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            with whole_file.open_binary(path) as file:
                file.write("".join(symbol + "\n" for symbol in self.symbols).encode())
        except OSError as error:
            reason = f"vocabulary {path} cannot be written: {error.strerror}"
            raise VocabularyError(f"{reason}; check the path and the space left") from error


def _advice(line: str) -> str:
    """Say what to do with a line that is not one character."""
    if not line:
        return "remove the line; the space is a line with one space"
    composed = unicodedata.normalize("NFC", line)
    if len(composed) == 1:
        return f"it is decomposed (NFD): write {describe_character(composed)}, as texts are normalised to NFC"
    return "put each symbol on its own line"
