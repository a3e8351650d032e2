"""Words that mix scripts whose letters look alike, such as a Cyrillic о in an English word."""

import functools
import re
import unicodedata

ALIKE = frozenset(("LATIN", "CYRILLIC", "GREEK"))
WORD = re.compile(r"[^\W\d_]+")  # letters only: a hyphen or an apostrophe often joins a foreign name and its ending


@functools.lru_cache(maxsize=4096)
def script_of(character: str) -> str:
    """Return the first word of a character's Unicode name: LATIN, CYRILLIC, CJK."""
    return unicodedata.name(character, "").partition(" ")[0]


def mixed_words(text: str) -> list[str]:
    """Return the words of a text with letters of two scripts that look alike."""
    if text.isascii():
        return []
    return [word for word in WORD.findall(text) if len({script_of(c) for c in word} & ALIKE) > 1]
