"""Columns that texts take in terminals and subtitles, and where a text may be divided."""

import re
import unicodedata

CONJOINING = re.compile(
    "[\u1160-\u11ff\ud7b0-\ud7ff]"
)  # vowels and final consonants of Korean, part of the first one's square
VIRAMA = 9  # combining class of the sign that joins consonants
ZERO_WIDTH_JOINER = "\u200d"


def width(text: str) -> int:
    """Return the columns of a text: two for a wide character, none for a mark above or below a letter or for a joiner."""
    return len(text) if text.isascii() else sum(map(_columns, text))


def _columns(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf") or CONJOINING.match(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def may_divide(before: str, after: str) -> bool:
    """Tell whether a text may be divided here: not between a letter and its marks, nor between joined consonants."""
    if not before or not after or after.isascii():
        return True
    first, last = after[0], before[-1]
    clings = unicodedata.category(first)[0] == "M" or unicodedata.category(first) == "Cf" or CONJOINING.match(first)
    joined = unicodedata.combining(last) == VIRAMA or last == ZERO_WIDTH_JOINER
    return not (clings or (joined and first.isalpha()))
