"""Transcripts: normalisation by language, the vocabulary of a network, and the rules by which errors are counted.

`python -m input_pipeline.text --language=en --output=vocabulary.txt train.jsonl` makes a vocabulary from manifests.
"""

import argparse
import collections
import contextlib
import hashlib
import os
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

LANGUAGES = ("en", "zh", "none")
APOSTROPHES = str.maketrans(dict.fromkeys("\u2018\u2019\u201b\u02bc\u2032\uff07`\u00b4", "'"))
SHOWN = 20  # characters of a long list that a message shows
RARE_SCRIPT = 0.05  # share of the main script's letters below which another script looks like a slip


class VocabularyError(ValueError):
    """A vocabulary file that cannot be used; the message names file, line and mend."""


class UnknownCharacters(ValueError):
    """A transcript with characters outside of the vocabulary."""

    def __init__(self, characters: Sequence[str], text: str):
        self.characters = tuple(characters)
        self.text = text
        where = text if len(text) <= 60 else text[:60] + "..."
        super().__init__(
            f"not in the vocabulary: {_list(self.characters)}, in {where!r}; mend the text or extend the vocabulary"
        )

    def __reduce__(self):
        """Survive the way back from a worker process: an exception is rebuilt from what its constructor takes."""
        return type(self), (self.characters, self.text)


def describe_character(character: str) -> str:
    """Name a character with its code point: 'é' (U+00E9 LATIN SMALL LETTER E WITH ACUTE)."""
    return f"{character!r} (U+{ord(character):04X} {unicodedata.name(character, 'without a name')})"


def _list(characters: Sequence[str]) -> str:
    shown = ", ".join(describe_character(c) for c in characters[:SHOWN])
    return shown if len(characters) <= SHOWN else f"{shown} and {len(characters) - SHOWN} more"


def normalise(text: str, language: str) -> str:
    """Bring a transcript into the form that is learnt.

    en: compatibility forms folded (NFKC), one kind of apostrophe, lower case, white space as single spaces. zh:
    NFKC, Latin letters lower-case, no white space. none: canonical composition (NFC) and single spaces. Nothing else
    is removed, so that a vocabulary shows what is foreign.
    """
    if language == "en":
        return " ".join(_compatible(text).lower().split())
    if language == "zh":
        joined = "".join(unicodedata.normalize("NFKC", text).lower().split())
        return unicodedata.normalize("NFC", joined)  # a mark may have lost the space that NFKC gave it
    if language == "none":
        return " ".join(unicodedata.normalize("NFC", text).split())
    raise ValueError(f"config.text.language is {language!r}: choose one of {', '.join(LANGUAGES)}")


def _compatible(text: str) -> str:
    """Fold compatibility forms and apostrophes; NFKC makes a space and a mark of some, and apostrophes of others."""
    return unicodedata.normalize("NFKC", text.translate(APOSTROPHES)).translate(APOSTROPHES)


@dataclass(frozen=True)
class Vocabulary:
    """The symbols a network writes, without the blank: symbol i has index i + 1, the blank is index 0."""

    symbols: tuple[str, ...]
    _index: dict[str, int] = field(init=False, repr=False, compare=False)
    _by_code: np.ndarray = field(
        init=False, repr=False, compare=False
    )  # index of each code point; 0: none, as the last

    def __post_init__(self):
        """Refuse what is not a list of different characters, or could not be written one a line."""
        object.__setattr__(self, "_index", {symbol: i + 1 for i, symbol in enumerate(self.symbols)})
        if not self.symbols:
            raise VocabularyError(
                "a vocabulary needs at least one symbol; make it from transcripts: python -m input_pipeline.text"
            )
        unfit = [s for s in self.symbols if len(s) != 1 or s in "\r\n" or "\ud800" <= s <= "\udfff"]
        if unfit:
            raise VocabularyError(f"symbols must be single characters and no line ends: {unfit[:SHOWN]}; remove them")
        if len(self._index) != len(self.symbols):
            twice = [s for s, n in collections.Counter(self.symbols).items() if n > 1]
            raise VocabularyError(f"symbols stand twice in the vocabulary: {twice[:SHOWN]}; remove one of each")
        codes = [ord(symbol) for symbol in self.symbols]
        by_code = np.zeros(max(codes) + 2, np.int32)
        by_code[codes] = np.arange(1, self.size)
        object.__setattr__(self, "_by_code", by_code)

    @property
    def size(self) -> int:
        """Outputs of the network, K: the symbols and the blank."""
        return len(self.symbols) + 1

    @property
    def digest(self) -> str:
        """Short SHA-256 of the symbols in order."""
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
                f"indices {min(indices)} to {max(indices)} do not stand for characters: those are 1 to {self.size - 1}"
            )
        return "".join(self.symbols[i - 1] for i in indices)

    def extended(self, others: Iterable[str]) -> "Vocabulary":
        """Keep all symbols in their places and append those of `others` that are new."""
        return Vocabulary((*self.symbols, *dict.fromkeys(s for s in others if s not in self._index)))

    @classmethod
    def build(cls, texts: Iterable[str], count_threshold: int = 0) -> "Vocabulary":
        """Take characters that occur at least `count_threshold` times, the most frequent first, ties by code point."""
        counts = count_characters(texts)
        return cls(tuple(c for c in by_frequency(counts) if counts[c] >= count_threshold))

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Vocabulary":
        """Read one character a line, as the original writes it: the line with a single space counts.

        Raises VocabularyError.
        """
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
                mend = (
                    "put each symbol on a line of its own"
                    if line
                    else "a line with one space is the space, an empty one is nothing"
                )
                raise VocabularyError(f"{path}:{number}: {line!r} must be one character; {mend}")
            if line in seen:
                raise VocabularyError(f"{path}:{number}: {line!r} stands in line {seen[line]} already; remove one")
            seen[line] = number
        return cls(tuple(lines))

    def save(self, path: str | os.PathLike) -> None:
        """Write one character a line, at once or not at all. Raises VocabularyError."""
        unfinished = Path(path).with_name(f".{Path(path).name}.{os.getpid()}.tmp")
        try:
            unfinished.parent.mkdir(parents=True, exist_ok=True)
            unfinished.write_bytes("".join(symbol + "\n" for symbol in self.symbols).encode())
            os.replace(unfinished, path)
        except OSError as error:
            with contextlib.suppress(OSError):  # what is told is why it could not be written
                unfinished.unlink(missing_ok=True)
            reason = f"vocabulary {path} cannot be written: {error.strerror}"
            raise VocabularyError(f"{reason}; check the path and the space left") from error


def count_characters(texts: Iterable[str]) -> collections.Counter:
    """Count the characters of all texts, spaces included."""
    counts: collections.Counter = collections.Counter()
    for text in texts:
        counts.update(text)
    return counts


def by_frequency(counts: collections.Counter) -> list[str]:
    """Return the characters, the most frequent first, ties by code point."""
    return sorted(counts, key=lambda c: (-counts[c], c))


@dataclass(frozen=True)
class ScoringRules:
    """What counts as the same when reference and hypothesis are compared; printed with every result."""

    ignore_case: bool = True
    remove_punctuation: bool = True  # a space takes its place; apostrophes within words stay
    fold_width: bool = True  # full-width and other compatibility forms (NFKC)
    remove_spaces: bool = False  # before characters are compared

    @classmethod
    def for_language(cls, language: str) -> "ScoringRules":
        """Return the rules of a language: zh without spaces; none compares as it is. Raises ValueError."""
        if language not in LANGUAGES:
            raise ValueError(f"no scoring rules for language {language!r}: choose one of {', '.join(LANGUAGES)}")
        if language == "none":
            return cls(ignore_case=False, remove_punctuation=False, fold_width=False)
        return cls(remove_spaces=language == "zh")

    def apply(self, text: str) -> str:
        """Bring a text into the form that is compared."""
        if self.remove_punctuation:
            text = text.translate(APOSTROPHES)
        if self.fold_width:
            text = unicodedata.normalize("NFKC", text)
        if self.ignore_case:
            text = text.lower()
        if self.remove_punctuation:
            text = _without_punctuation(text)
        return "".join(text.split()) if self.remove_spaces else " ".join(text.split())

    def describe(self) -> str:
        """Say the rules in one line."""
        rules = {
            "case ignored": self.ignore_case,
            "punctuation removed": self.remove_punctuation,
            "full-width forms folded": self.fold_width,
            "spaces removed": self.remove_spaces,
        }
        return ", ".join(name for name, holds in rules.items() if holds) or "as it is"

    def __str__(self) -> str:
        return self.describe()


def _without_punctuation(text: str) -> str:
    def kept(i: int) -> str:
        if text[i] == "'" and 0 < i < len(text) - 1 and text[i - 1].isalnum() and text[i + 1].isalnum():
            return text[i]
        return " " if unicodedata.category(text[i]).startswith("P") else text[i]

    return "".join(kept(i) for i in range(len(text)))


def suspicious(counts: collections.Counter) -> list[str]:
    """Say which characters seldom belong: control characters, letters of a rare second script, those seen once."""
    scripts: collections.Counter = collections.Counter()
    for character, count in counts.items():
        if character.isalpha():
            scripts[_script(character)] += count
    most = max(scripts.values(), default=0)
    found: dict[str, list[str]] = {"control characters": [], "letters of a rare script": [], "seen only once": []}
    for character, count in sorted(counts.items()):
        if unicodedata.category(character).startswith("C"):
            found["control characters"].append(character)
        elif character.isalpha() and scripts[_script(character)] < RARE_SCRIPT * most:
            found["letters of a rare script"].append(character)
        elif count == 1:
            found["seen only once"].append(character)
    return [f"{kind}: {_list(characters)}" for kind, characters in found.items() if characters]


def _script(character: str) -> str:
    """Return the first word of a letter's Unicode name: LATIN, CYRILLIC, CJK."""
    return unicodedata.name(character, "").partition(" ")[0]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    from tqdm import tqdm  # here, as the rest of the module needs numpy only

    from input_pipeline import manifest

    parser = argparse.ArgumentParser(
        prog="python -m input_pipeline.text", description="Make a vocabulary from manifests."
    )
    parser.add_argument("manifests", nargs="+", metavar="MANIFEST")
    parser.add_argument("--output", required=True, help="vocabulary file to write")
    parser.add_argument("--language", default="en", choices=LANGUAGES, help="normalisation of transcripts (default en)")
    parser.add_argument("--count_threshold", type=int, default=0, help="least occurrences of a symbol (default 0)")
    args = parser.parse_args(argv)
    try:
        texts = [text for path in args.manifests for text in manifest.read(path, need_audio=False).text]
        progress = tqdm(texts, desc="count characters", unit=" texts", delay=2.0, leave=False)
        counts = count_characters(normalise(text, args.language) for text in progress)
        symbols = tuple(c for c in by_frequency(counts) if counts[c] >= args.count_threshold)
        if not symbols:
            raise VocabularyError(
                f"no character of {len(texts)} transcripts occurs {args.count_threshold} times; lower --count_threshold"
            )
        Vocabulary(symbols).save(args.output)
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    for character in by_frequency(counts):
        left_out = "" if counts[character] >= args.count_threshold else ", left out"
        print(f"{counts[character]:9d}  {describe_character(character)}{left_out}")
    for warning in suspicious(counts):
        print(f"warning: {warning}", file=sys.stderr)
    print(f"{args.output}: {len(symbols)} symbols from {len(texts)} transcripts")
    return 0


if __name__ == "__main__":
    sys.exit(main())
