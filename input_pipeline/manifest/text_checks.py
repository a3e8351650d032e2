"""What is suspicious about transcripts, judged by all texts of a corpus: digits, case, invisible characters, lengths."""

import statistics
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

SLOW_PER_S = 0.5  # characters a second, below which a text may be incomplete
SLOW_SHARE = 0.2  # of the median, below which it may be
NO_BREAK_SPACES = "\u00a0\u202f\u2007"
JOINERS = "\u200c\u200d"
SPELL = "spell them as words: --spell_numbers of prepare custom, or the setting text.spell_numbers"
QUOTED = 60  # characters of a text in a message


class Finding(NamedTuple):
    """Something suspicious in a row's text, of a kind: implausible, digits, case, invisible."""

    row: int
    kind: str
    message: str
    characters: str = ""  # every occurrence of an invisible character


def findings(texts: Sequence[str], seconds: Sequence[float], raw: Sequence[str]) -> Iterator[Finding]:
    """Yield what is suspicious. seconds: of the audio, 0 if it is unknown. raw: the texts before any normalisation."""
    rates = [len(text.strip()) / s if s > 0 else 0.0 for text, s in zip(texts, seconds, strict=True)]
    typical = statistics.median([rate for rate in rates if rate > 0] or [0.0])
    worded = any(map(_has_letters, texts))
    cases = [case_of(text) for text in texts]
    usual = Counter(case for case in cases if case).most_common(1)
    for row, text in enumerate(texts):
        shown = repr(text if len(text) <= QUOTED else text[:QUOTED] + "...")
        if text.strip() and not any(map(str.isalnum, text)):
            yield Finding(row, "implausible", f"{shown} has neither letters nor digits")
        elif 0 < rates[row] < min(SLOW_PER_S, SLOW_SHARE * typical):
            yield Finding(row, "implausible", f"{shown} for {seconds[row]:.3f} s of audio")
        if worded and any(map(str.isdecimal, text)):
            yield Finding(row, "digits", shown)
        if cases[row] and cases[row] != usual[0][0]:
            yield Finding(row, "case", f"{shown} is {cases[row]}, most texts are {usual[0][0]}")
        if found := invisible(raw[row]):
            yield Finding(row, "invisible", repr(raw[row][:QUOTED]), found)


def _has_letters(text: str) -> bool:
    return any(map(str.isalpha, text))


def case_of(text: str) -> str:
    """Return `lower case`, `upper case` or `mixed case`; '' for texts that do not show it."""
    cased = [character for character in text if character.islower() or character.isupper()]
    if all(map(str.islower, cased)):
        return "lower case" if cased else ""
    if all(map(str.isupper, cased)):
        return "upper case" if len(cased) > 1 else ""
    return "mixed case"


def invisible(text: str) -> str:
    """Return every character of a text that shows nothing, or looks like a space without being one.

    Joiners inside words of scripts that use them are no fault.
    """
    return "".join(c for position, c in enumerate(text) if _is_invisible(c) and not _joins(text, position))


def _is_invisible(character: str) -> bool:
    return character in NO_BREAK_SPACES or (
        unicodedata.category(character) in ("Cf", "Cc") and character not in "\t\r\n"
    )


def _joins(text: str, position: int) -> bool:
    """Tell whether a joiner stands between letters, or marks, of a script that is neither Latin, Greek nor Cyrillic."""
    if text[position] not in JOINERS or not 0 < position < len(text) - 1:
        return False
    return all(unicodedata.category(c)[0] in "LM" and c > "\u0530" for c in (text[position - 1], text[position + 1]))


def describe_symbol(character: str) -> str:
    """Describe a character that cannot be seen: U+200B ZERO WIDTH SPACE."""
    return f"U+{ord(character):04X} {unicodedata.name(character, '')}".rstrip()


def notes(texts: Sequence[str]) -> Iterator[str]:
    """Describe in a sentence each what should be known about the texts of a prepared corpus."""
    counts = Counter(character for text in texts for character in invisible(text))
    if counts:
        listed = ", ".join(f"{describe_symbol(c)} {count} times" for c, count in counts.most_common())
        yield f"invisible characters in {sum(bool(invisible(text)) for text in texts)} texts: {listed}"
    digits = [text for text in texts if any(map(str.isdecimal, text))]
    if digits and any(map(_has_letters, texts)):
        yield f"digits in {len(digits)} of {len(texts)} texts, such as {digits[0][:QUOTED]!r}; {SPELL}"
