"""Characters counted, ordered and named for messages."""

import collections
import unicodedata
from collections.abc import Iterable, Sequence

SHOWN = 20  # characters of a long list that a message shows


def describe_character(character: str) -> str:
    """Name a character with its code point: 'é' (U+00E9 LATIN SMALL LETTER E WITH ACUTE)."""
    return f"{character!r} (U+{ord(character):04X} {unicodedata.name(character, 'without a name')})"


def describe_characters(characters: Sequence[str]) -> str:
    shown = ", ".join(describe_character(c) for c in characters[:SHOWN])
    return shown if len(characters) <= SHOWN else f"{shown} and {len(characters) - SHOWN} more"


def count_characters(texts: Iterable[str]) -> collections.Counter:
    """Count the characters of all texts, spaces included."""
    counts: collections.Counter = collections.Counter()
    for text in texts:
        counts.update(text)
    return counts


def by_frequency(counts: collections.Counter) -> list[str]:
    """Return the characters, the most frequent first, ties by code point."""
    return sorted(counts, key=lambda c: (-counts[c], c))
