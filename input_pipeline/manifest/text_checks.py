"""What is suspicious about transcripts, judged by all texts of a corpus: digits, case, scripts, invisible characters, lengths."""

import statistics
from collections import Counter
from collections.abc import Iterator, Sequence

from input_pipeline.manifest.problems import Problem
from input_pipeline.text import count_invisible, describe_character, has_digits, normalise, visible
from input_pipeline.text.scripts import mixed_words, script_of

SLOW_PER_S = 0.5  # characters a second, below which a text may be incomplete
SLOW_SHARE = 0.2  # of the median, below which it may be
QUOTED = 60  # characters of a text in a message


def suspicious_texts(texts: Sequence[str], seconds: Sequence[float], raw: Sequence[str]) -> Iterator[Problem]:
    """Yield what is suspicious. seconds: of the audio, 0 if it is unknown. raw: the texts before any normalisation."""
    rates = [len(text.strip()) / s if s > 0 else 0.0 for text, s in zip(texts, seconds, strict=True)]
    typical = statistics.median([rate for rate in rates if rate > 0] or [0.0])
    worded = any(map(_has_letters, texts))
    cases = [case_of(text) for text in texts]
    usual = Counter(case for case in cases if case).most_common(1)
    for row, text in enumerate(texts):
        shown = repr(text if len(text) <= QUOTED else text[:QUOTED] + "...")
        if text.strip() and not any(map(str.isalnum, text)):
            yield Problem(row, "implausible", f"{shown} has neither letters nor digits")
        elif 0 < rates[row] < min(SLOW_PER_S, SLOW_SHARE * typical):
            yield Problem(row, "implausible", f"{shown} for {seconds[row]:.3f} s of audio")
        if worded and has_digits(text):
            yield Problem(row, "digits", shown)
        if cases[row] and cases[row] != usual[0][0]:
            yield Problem(row, "case", f"{shown} is {cases[row]}, most texts are {usual[0][0]}")
        if found := invisible_characters(raw[row]):
            yield Problem(row, "invisible", repr(visible(raw[row][:QUOTED])), found)
        if words := mixed_words(normalise(raw[row], "none")):
            yield Problem(row, "scripts", ", ".join(map(_describe_mixed, words)))


def _describe_mixed(word: str) -> str:
    """Name the first letter of the rarer script of a word."""
    scripts = Counter(map(script_of, word))
    return f"{word!r} has {describe_character(min(word, key=lambda letter: scripts[script_of(letter)]))}"


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
