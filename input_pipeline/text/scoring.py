"""Scoring rules: what is ignored when reference and hypothesis are compared."""

import unicodedata
from dataclasses import dataclass

from input_pipeline.text.invisible import without_invisible
from input_pipeline.text.language import NONE, Writing, is_spaced, language_code, writing_of
from input_pipeline.text.normalisation import APOSTROPHES, ARMENIAN_MARKS, compatible, lower


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
        if self.remove_punctuation:  # compatible forms may have other apostrophes
            text = APOSTROPHES.sub("'", text)
        if self.ignore_case:
            text = lower(text, writing)
        if self.remove_punctuation:
            text = without_punctuation(text, writing)
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


def without_punctuation(text: str, writing: Writing) -> str:
    """Replace punctuation by spaces, except marks that belong to a word.

    These stand between letters, digits or combining marks, or are apostrophes at the edge of a word, as the writing has it.
    """
    at_edges = _apostrophes_at_edges(text) if writing.edges and "'" in text else frozenset()

    def kept(i: int) -> str:
        inside = text[i] in writing.inside and _in_word(text, i - 1) and _in_word(text, i + 1)
        if inside or i in at_edges:
            return text[i]
        return " " if unicodedata.category(text[i])[0] == "P" else text[i]

    return "".join(c if c.isalnum() else kept(i) for i, c in enumerate(text))  # most are letters: the short way


def _apostrophes_at_edges(text: str) -> frozenset[int]:
    """Return the places of apostrophes at the edges of words, but not of one before a word and the next one after a word: quotes."""
    found: list[int] = []
    for i, character in enumerate(text):
        before, after = _in_word(text, i - 1), _in_word(text, i + 1)
        if character != "'" or before == after:
            continue
        if before and found and _in_word(text, found[-1] + 1):
            found.pop()
        else:
            found.append(i)
    return frozenset(found)


def _in_word(text: str, i: int) -> bool:
    return 0 <= i < len(text) and (text[i].isalnum() or unicodedata.category(text[i])[0] == "M")
