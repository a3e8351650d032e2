"""Transcripts: normalisation by language, the vocabulary of a network, and the rules by which errors are counted.

`python -m input_pipeline.text --language=en --output=vocabulary.txt train.jsonl` makes a vocabulary from manifests.
"""

import argparse
import collections
import hashlib
import os
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

LANGUAGES = ("en", "zh", "none")
APOSTROPHES = str.maketrans(dict.fromkeys("\u2018\u2019\u02bc\u2032\uff07`\u00b4", "'"))
SHOWN = 20  # characters of a long list that a message shows


class VocabularyError(ValueError):
    """A vocabulary file that cannot be used; the message names file, line and mend."""


class UnknownCharacters(ValueError):
    """A transcript with characters outside of the vocabulary."""

    def __init__(self, characters: Sequence[str], text: str):
        self.characters = tuple(characters)
        named = ", ".join(describe_character(c) for c in self.characters[:SHOWN])
        super().__init__(f"not in the vocabulary: {named}, in {text[:60]!r}; mend the text or extend the vocabulary")


def describe_character(character: str) -> str:
    """Name a character with its code point: 'é' (U+00E9 LATIN SMALL LETTER E WITH ACUTE)."""
    return f"{character!r} (U+{ord(character):04X} {unicodedata.name(character, 'without a name')})"


def normalise(text: str, language: str) -> str:
    """Bring a transcript into the form that is learnt.

    en: compatibility forms folded (NFKC), one kind of apostrophe, lower case, white space as single spaces. zh:
    NFKC, Latin letters lower-case, no white space. none: canonical composition (NFC) and single spaces. Nothing else
    is removed, so that a vocabulary shows what is foreign.
    """
    if language == "en":
        return " ".join(unicodedata.normalize("NFKC", text.translate(APOSTROPHES)).lower().split())
    if language == "zh":
        return "".join(unicodedata.normalize("NFKC", text).lower().split())
    if language == "none":
        return " ".join(unicodedata.normalize("NFC", text).split())
    raise ValueError(f"config.text.language is {language!r}: choose one of {', '.join(LANGUAGES)}")


@dataclass(frozen=True)
class Vocabulary:
    """The symbols a network writes, without the blank: symbol i has index i + 1, the blank is index 0."""

    symbols: tuple[str, ...]
    _index: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        """Refuse what is not a list of different characters."""
        object.__setattr__(self, "_index", {symbol: i + 1 for i, symbol in enumerate(self.symbols)})
        if not self.symbols:
            raise VocabularyError(
                "a vocabulary needs at least one symbol; make it from transcripts: python -m input_pipeline.text"
            )
        if len(self._index) != len(self.symbols):
            twice = [s for s, n in collections.Counter(self.symbols).items() if n > 1]
            raise VocabularyError(f"symbols stand twice in the vocabulary: {twice[:SHOWN]}; remove one of each")

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
        index = self._index
        try:
            return np.array([index[character] for character in text], np.int32)
        except KeyError:
            raise UnknownCharacters(sorted(set(text) - set(index)), text) from None

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of indices from 1 on."""
        return "".join(self.symbols[i - 1] for i in ids)

    def extended(self, others: Iterable[str]) -> "Vocabulary":
        """Keep all symbols in their places and append those of `others` that are new."""
        return Vocabulary((*self.symbols, *dict.fromkeys(s for s in others if s not in self._index)))

    @classmethod
    def build(cls, texts: Iterable[str], count_threshold: int = 0) -> "Vocabulary":
        """Take characters that occur at least `count_threshold` times, the most frequent first, ties by code point."""
        counts = count_characters(texts)
        ordered = sorted(counts, key=lambda c: (-counts[c], c))
        return cls(tuple(c for c in ordered if counts[c] >= count_threshold))

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
                raise VocabularyError(
                    f"{path}:{number}: {line!r} must be one character; put each symbol on a line of its own"
                )
            if line in seen:
                raise VocabularyError(f"{path}:{number}: {line!r} stands in line {seen[line]} already; remove one")
            seen[line] = number
        return cls(tuple(lines))

    def save(self, path: str | os.PathLike) -> None:
        """Write one character a line, at once or not at all."""
        unfinished = Path(path).with_name(f".{Path(path).name}.{os.getpid()}.tmp")
        unfinished.write_bytes("".join(symbol + "\n" for symbol in self.symbols).encode())
        os.replace(unfinished, path)


def count_characters(texts: Iterable[str]) -> collections.Counter:
    """Count the characters of all texts, spaces included."""
    counts: collections.Counter = collections.Counter()
    for text in texts:
        counts.update(text)
    return counts


@dataclass(frozen=True)
class ScoringRules:
    """What counts as the same when reference and hypothesis are compared; printed with every result."""

    ignore_case: bool = True
    remove_punctuation: bool = True  # except apostrophes within words
    fold_width: bool = True  # full-width and other compatibility forms (NFKC)
    remove_spaces: bool = False

    @classmethod
    def for_language(cls, language: str) -> "ScoringRules":
        """Return the rules of a language: zh without spaces; none compares as it is."""
        if language == "none":
            return cls(ignore_case=False, remove_punctuation=False, fold_width=False)
        return cls(remove_spaces=language == "zh")

    def apply(self, text: str) -> str:
        """Bring a text into the form that is compared."""
        if self.fold_width:
            text = unicodedata.normalize("NFKC", text)
        if self.ignore_case:
            text = text.lower()
        if self.remove_punctuation:
            text = _without_punctuation(text.translate(APOSTROPHES))
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


def _without_punctuation(text: str) -> str:
    def kept(i: int) -> str:
        if text[i] == "'" and 0 < i < len(text) - 1 and text[i - 1].isalnum() and text[i + 1].isalnum():
            return text[i]
        return " " if unicodedata.category(text[i]).startswith("P") else text[i]

    return "".join(kept(i) for i in range(len(text)))


def suspicious(counts: collections.Counter) -> list[str]:
    """Name characters that seldom belong: control characters, letters of a rare second script, those seen once."""
    scripts: collections.Counter = collections.Counter()
    for character, count in counts.items():
        scripts[_script(character)] += count
    main = scripts.most_common(1)[0][0] if scripts else ""
    found = []
    for character, count in sorted(counts.items()):
        if unicodedata.category(character).startswith("C"):
            found.append(f"{describe_character(character)}: a control character, {count} times")
        elif character.isalpha() and _script(character) != main and scripts[_script(character)] < 0.01 * scripts[main]:
            found.append(f"{describe_character(character)}: another script than most letters, {count} times")
        elif count == 1:
            found.append(f"{describe_character(character)}: seen once")
    return found


def _script(character: str) -> str:
    """Return the first word of a letter's Unicode name: LATIN, CYRILLIC, CJK; '' for what is no letter."""
    return unicodedata.name(character, "").split(" ")[0].split("-")[0] if character.isalpha() else ""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
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
        normalised = [normalise(text, args.language) for text in texts]
        vocabulary = Vocabulary.build(normalised, args.count_threshold)
        vocabulary.save(args.output)
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    counts = count_characters(normalised)
    for character, count in counts.most_common():
        print(f"{count:9d}  {character!r}{'' if character in vocabulary.symbols else '  left out'}")
    for warning in suspicious(counts):
        print(f"warning: {warning}", file=sys.stderr)
    print(f"{args.output}: {len(vocabulary.symbols)} symbols of {len(texts)} transcripts")
    return 0


if __name__ == "__main__":
    sys.exit(main())
