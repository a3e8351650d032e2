"""Prepare the text of a language model: normalised as transcripts are, without what a network cannot write.

With the symbols of a network, these decide which punctuation stays and whether numbers are spelled. Without them, words keep
letters, digits, apostrophes, and hyphens and other marks between letters. What is dropped is counted.
"""

import collections
import functools
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field

from input_pipeline.text import TextRules, count_invisible, describe_character, describe_invisible, is_spaced
from input_pipeline.text.language import NONE, writing_of
from input_pipeline.text.normalisation import ARMENIAN_MARKS

SHOWN = 8  # characters or words in a report
MAX_EXAMPLES = 10_000  # distinct words kept as examples


@dataclass
class Dropped:
    """What was dropped from a text: characters with their counts and an example each, and words with their counts."""

    characters: collections.Counter = field(default_factory=collections.Counter)
    examples: dict[str, str] = field(default_factory=dict)
    words: collections.Counter = field(default_factory=collections.Counter)
    unwritable: int = 0  # words, all of them
    invisible: collections.Counter = field(default_factory=collections.Counter)  # and unusual spaces

    def report(self) -> list[str]:
        """Describe what was dropped, a line for each kind; an empty list for nothing."""
        lines = []
        if self.invisible:
            lines.append(
                f"invisible characters and unusual spaces are normalised: {describe_invisible(self.invisible)}"
            )
        if self.characters:
            listed = [
                f"{describe_character(c)} {n} times, as in {self.examples[c]!r}"
                for c, n in self.characters.most_common(SHOWN)
            ]
            more = f"; {len(self.characters) - SHOWN} other characters" if len(self.characters) > SHOWN else ""
            lines.append(f"{self.characters.total()} characters are dropped: {'; '.join(listed)}{more}")
        if self.unwritable:
            listed = [f"{word} ({n})" for word, n in self.words.most_common(SHOWN)]
            more = ", ..." if len(self.words) > SHOWN else ""
            lines.append(
                f"{self.unwritable} words cannot be written with the symbols of --vocabulary, and count as unknown: "
                f"{', '.join(listed)}{more}"
            )
        return lines


class Preparation:
    """Prepares lines of text to look like a network's output, words separated by spaces, and counts what it drops.

    rules: of the transcripts. symbols: of the network, None if they are not known.
    """

    def __init__(self, rules: TextRules, symbols: Iterable[str] | None = None):
        self.rules = rules
        self.dropped = Dropped()
        self._symbols = None if symbols is None else frozenset(symbols)
        self._spaced = is_spaced(rules.language)
        self._plain: set[str] = set()  # characters met so far that stay wherever they stand, to be fast
        self._inside = frozenset("'-" if rules.language == NONE else writing_of(rules.language).inside + "-")

    def __call__(self, line: str) -> str:
        """Return a prepared line; '' if nothing is left. Words that cannot be written stay, so that they count as unknown."""
        self.dropped.invisible.update(count_invisible([line]))
        text = self.rules.normalise(line)
        if self.rules.language == NONE and self._symbols is None:
            return text
        plain = self._plain
        kept = "".join(one if one in plain or self._stays(text, i) else _instead(one) for i, one in enumerate(text))
        if not self._spaced:
            return " ".join("".join(kept.split()))
        return " ".join(word for word in kept.split() if self._symbols or any(map(_is_written, word)))

    def writable(self, word: str) -> bool:
        """Tell whether the network can write a word; count it if it cannot."""
        if self._symbols is None or self._symbols.issuperset(word):
            return True
        self.dropped.unwritable += 1
        if word in self.dropped.words or len(self.dropped.words) < MAX_EXAMPLES:
            self.dropped.words[word] += 1
        return False

    def _stays(self, text: str, i: int) -> bool:
        """Tell whether a character is kept; count it if it is not."""
        character = text[i]
        if character == " " or _is_written(character) or unicodedata.category(character) == "Cf":
            self._plain.add(character)
            return True
        if self._symbols is not None:
            stays = character in self._symbols
        else:
            between = 0 < i < len(text) - 1 and _is_written(text[i - 1]) and _is_written(text[i + 1])
            stays = self._spaced and (character == "'" or (character in self._inside and between))
        if not stays:
            self.dropped.characters[character] += 1
            if character not in self.dropped.examples:
                start, end = text.rfind(" ", 0, i) + 1, text.find(" ", i)
                self.dropped.examples[character] = text[start : end if end >= 0 else len(text)][:40]
        return stays


def _instead(character: str) -> str:
    """Return what takes the place of a character that is dropped: nothing inside a word, else a space."""
    return "" if ARMENIAN_MARKS.match(character) else " "


@functools.lru_cache(maxsize=4096)
def _is_written(character: str) -> bool:
    """Tell whether a character is a letter, a combining mark or a number."""
    return unicodedata.category(character)[0] in "LMN"
