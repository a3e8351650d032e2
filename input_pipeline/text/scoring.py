"""Scoring rules: what is ignored when reference and hypothesis are compared."""

import re
import unicodedata
from dataclasses import dataclass

from input_pipeline.text.invisible import without_invisible
from input_pipeline.text.language import NONE, Writing, is_spaced, language_code, writing_of
from input_pipeline.text.normalisation import APOSTROPHES, compatible, lower

ARMENIAN_MARKS = re.compile("[\u055b\u055c\u055e]")  # emphasis, exclamation, question: on a vowel in a word


@dataclass(frozen=True)
class ScoringRules:
    """What is ignored when reference and hypothesis are compared; printed with every result."""

    ignore_case: bool = True
    remove_punctuation: bool = True  # replaced by a space; what belongs to a word is kept, such as apostrophes inside
    fold_width: bool = True  # full-width and other compatibility forms (NFKC)
    remove_spaces: bool = False  # before characters are compared
    language: str = "en"  # whose case and marks inside words; `none` has the general ones

    @classmethod
    def for_language(cls, language: str) -> "ScoringRules":
        """Return a language's rules: those without spaces remove them, none changes nothing visible. Raises ValueError."""
        if language_code(language) == NONE:
            return cls(ignore_case=False, remove_punctuation=False, fold_width=False, language=NONE)
        return cls(remove_spaces=not is_spaced(language), language=language)

    def apply(self, text: str) -> str:
        """Return a text in the form that is compared: Unicode form NFC, without invisible characters."""
        writing = Writing() if self.language == NONE else writing_of(self.language)
        text = without_invisible(text)
        if self.remove_punctuation:
            text = ARMENIAN_MARKS.sub("", APOSTROPHES.sub("'", text))
        if self.fold_width:
            text = compatible(text)
        if self.ignore_case:
            text = lower(text, writing)
        if self.remove_punctuation:
            text = without_punctuation(text, writing.inside)
        joined = "".join(text.split()) if self.remove_spaces else " ".join(text.split())
        return unicodedata.normalize("NFC", joined)

    def describe(self) -> str:
        """Describe the rules in one line."""
        rules = {
            "case ignored": self.ignore_case,
            "punctuation removed": self.remove_punctuation,
            "full-width forms folded": self.fold_width,
            "spaces removed": self.remove_spaces,
        }
        return ", ".join(name for name, applied in rules.items() if applied) or "as it is"

    def __str__(self) -> str:
        return self.describe()


def without_punctuation(text: str, inside: str) -> str:
    """Replace punctuation by spaces, except the marks `inside` where a letter, digit or combining mark is on both sides."""

    def in_word(i: int) -> bool:
        return 0 <= i < len(text) and (text[i].isalnum() or unicodedata.category(text[i])[0] == "M")

    def kept(i: int) -> str:
        if text[i] in inside and in_word(i - 1) and in_word(i + 1):
            return text[i]
        return " " if unicodedata.category(text[i])[0] == "P" else text[i]

    return "".join(c if c.isalnum() else kept(i) for i, c in enumerate(text))  # most are letters: the short way
