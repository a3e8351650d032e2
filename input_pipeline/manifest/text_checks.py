"""What is suspicious about transcripts, judged by all texts of a corpus: digits, case, invisible characters, lengths."""

import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from input_pipeline.text import count_invisible, visible

SLOW_PER_S = 0.5  # characters a second, below which a text may be incomplete
SLOW_SHARE = 0.2  # of the median, below which it may be
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
        if found := invisible_characters(raw[row]):
            yield Finding(row, "invisible", repr(visible(raw[row][:QUOTED])), found)


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


def invisible_characters(text: str) -> str:
    """Return every character of a text that shows nothing, or looks like a space without being one."""
    return "".join(count_invisible([text]).elements())
