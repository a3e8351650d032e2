"""Count, order and describe characters."""

import collections
import unicodedata
from collections.abc import Iterable, Sequence

SHOWN = 20  # characters listed in a message


def standing(character: str) -> str:
    """Return a character, a combining mark on a dotted circle, as it would stand on what comes before otherwise."""
    return f"\u25cc{character}" if unicodedata.category(character)[0] == "M" else character


def quoted(character: str) -> str:
    """Quote a character; a combining mark on a dotted circle."""
    shown = standing(character)
    return repr(character) if shown == character else f"'{shown}'"


def describe_character(character: str) -> str:
    """Describe a character: 'é' (U+00E9 LATIN SMALL LETTER E WITH ACUTE)."""
    return f"{quoted(character)} (U+{ord(character):04X} {unicodedata.name(character, 'without a name')})"


def describe_characters(characters: Sequence[str]) -> str:
    """Describe the first characters of a list and count the others."""
    shown = ", ".join(describe_character(c) for c in characters[:SHOWN])
    return shown if len(characters) <= SHOWN else f"{shown} and {len(characters) - SHOWN} more"


def count_characters(texts: Iterable[str]) -> collections.Counter:
    """Count the characters of texts, including spaces."""
    counts: collections.Counter = collections.Counter()
    for text in texts:
        counts.update(text)
    return counts


def by_frequency(counts: collections.Counter) -> list[str]:
    """Return the characters by decreasing frequency, ties by code point."""
    return sorted(counts, key=lambda c: (-counts[c], c))
