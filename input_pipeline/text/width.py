"""Columns that texts take in terminals and subtitles, and where a text may be divided."""

import re
import unicodedata

CONJOINING = re.compile(
    "[\u1160-\u11ff\ud7b0-\ud7ff]"
)  # vowels and final consonants of Korean, part of the first one's square
VIRAMA = 9  # combining class of the sign that joins consonants
ZERO_WIDTH_JOINER = "\u200d"
# No line begins with these: marks of Chinese and Japanese, small kana, vowels and marks of Thai and Lao behind their consonant.
BEHIND = frozenset(
    "、。，．！？：；・‥…〜々〻ーゝゞヽヾぁぃぅぇぉっゃゅょゎァィゥェォッャュョヮ"
    "\u0e2f\u0e30\u0e32\u0e33\u0e45\u0e46\u0eaf\u0eb0\u0eb2\u0eb3\u0ebd\u0ec6"
)
CLOSING = ")]}!?,.:;%"
# No line ends with these: vowels of Thai and Lao before their consonant.
BEFORE = frozenset("\u0e40\u0e41\u0e42\u0e43\u0e44\u0ec0\u0ec1\u0ec2\u0ec3\u0ec4")


def width(text: str) -> int:
    """Return the columns of a text: two for a wide character, none for a mark above or below a letter or for a joiner."""
    return len(text) if text.isascii() else sum(map(_columns, text))


def _columns(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf") or CONJOINING.match(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def may_divide(before: str, after: str) -> bool:
    """Tell whether a text may be divided here.

    Not between a letter and its marks or vowels, between joined consonants, before closing punctuation or behind opening one.
    """
    if not before or not after:
        return True
    first, last = after[0], before[-1]
    if first.isascii():
        return first not in CLOSING and last not in BEFORE
    kind = unicodedata.category(first)
    if kind[0] == "M" or kind in ("Cf", "Pe", "Pf") or first in BEHIND or CONJOINING.match(first):
        return False
    if last in BEFORE or unicodedata.category(last) in ("Ps", "Pi"):
        return False
    joined = unicodedata.combining(last) == VIRAMA or last == ZERO_WIDTH_JOINER
    return not (joined and first.isalpha())
