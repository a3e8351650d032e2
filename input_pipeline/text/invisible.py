"""Invisible characters: those that Unicode ignores by default, control characters, and spaces that look like the usual one.

Zero-width (non-)joiners are letters' shapes in scripts that use them, such as Persian's or Sinhala's, and stay there.
"""

import collections
import functools
import re
import unicodedata
from collections.abc import Iterable

from input_pipeline.text.scripts import script_of

JOINERS = "\u200c\u200d"
# Default_Ignorable_Code_Point of Unicode without what Mongolian needs, and control characters that are not white space.
IGNORABLE = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0"
    "\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff\u0000-\u0008\u000e-\u001b\u007f-\u0084\u0086-\u009f"
)
SPACES = "\u00a0\u1680\u2000-\u200a\u202f\u205f"  # the full-width space belongs to Chinese and Japanese
INVISIBLE = re.compile(f"[{IGNORABLE}]+")
UNUSUAL = re.compile(f"[{IGNORABLE}{SPACES}]")
JOINING_SCRIPTS = """
ARABIC SYRIAC NKO MONGOLIAN DEVANAGARI BENGALI GURMUKHI GUJARATI ORIYA TAMIL TELUGU KANNADA MALAYALAM SINHALA
TIBETAN MYANMAR KHMER BALINESE JAVANESE SUNDANESE LIMBU NEWA MEETEI CHAKMA
ADLAM HANIFI MANDAIC PHAGS-PA KAITHI GRANTHA TIRHUTA SHARADA MODI SAURASHTRA CHAM SYLOTI GUNJALA
"""
# Zero-width spaces between letters of Thai, Lao, Burmese and Khmer, which divide words: nothing to report.
_SPACELESS = "[\u0e01-\u0eff\u1000-\u109f\u1780-\u17ff\ua9e0-\ua9fe\uaa60-\uaa7f]"
DIVIDING = re.compile(f"(?<={_SPACELESS})\u200b(?={_SPACELESS})")
VIRAMA = 9  # combining class of the sign that joins consonants
SHOWN = 8  # kinds of characters in a message


def without_invisible(text: str) -> str:
    """Remove invisible characters, but one zero-width (non-)joiner between letters of a script that uses it, or after a virama."""
    return INVISIBLE.sub(_joiner, text)


def _joiner(match: re.Match) -> str:
    joiners = [character for character in match[0] if character in JOINERS]
    if not joiners:
        return ""
    before, after = match.string[: match.start()][-1:], match.string[match.end() :][:1]
    joined = _joins(before) and (_joins(after) or unicodedata.combining(before) == VIRAMA)
    return joiners[0] if joined else ""


@functools.lru_cache(maxsize=1024)
def _joins(character: str) -> bool:
    """Tell whether a character is a letter or mark of a script with joiners."""
    if not character or unicodedata.category(character)[0] not in "LM":
        return False
    return script_of(character) in JOINING_SCRIPTS.split()


def count_invisible(texts: Iterable[str]) -> collections.Counter:
    """Count the characters that normalisation removes, or replaces by a space, because they cannot be seen.

    Those that a language uses to divide words, such as Khmer, are not counted.
    """
    counts: collections.Counter = collections.Counter()
    for text in map(_without_dividing, texts):
        if UNUSUAL.search(text):
            found = collections.Counter(UNUSUAL.findall(text))
            kept = collections.Counter(c for c in without_invisible(text) if c in JOINERS)
            counts.update(found - kept)
    return counts


def _without_dividing(text: str) -> str:
    return DIVIDING.sub("", text) if "\u200b" in text else text


def describe_invisible(counts: collections.Counter) -> str:
    """Describe invisible characters with their counts: U+200B ZERO WIDTH SPACE (3 times)."""
    listed = [
        f"{code_point(c)} {unicodedata.name(c, 'CONTROL CHARACTER')} ({n} times)" for c, n in counts.most_common(SHOWN)
    ]
    more = [f"{len(counts) - SHOWN} other kinds"] if len(counts) > SHOWN else []
    return ", ".join(listed + more)


def visible(text: str) -> str:
    """Return a text with invisible characters and unusual spaces as <U+200B>."""
    return UNUSUAL.sub(lambda match: f"<{code_point(match[0])}>", text)


def code_point(character: str) -> str:
    """Return a character's code point: U+200B."""
    return f"U+{ord(character):04X}"
