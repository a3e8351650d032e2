"""Scoring rules: what is ignored when reference and hypothesis are compared."""

import unicodedata
from dataclasses import dataclass

from input_pipeline.text.normalisation import APOSTROPHES, LANGUAGES


@dataclass(frozen=True)
class ScoringRules:
    """What is ignored when reference and hypothesis are compared; printed with every result."""

    ignore_case: bool = True
    remove_punctuation: bool = True  # replaced by a space; apostrophes inside words are kept
    fold_width: bool = True  # full-width and other compatibility forms (NFKC)
    remove_spaces: bool = False  # before characters are compared

    @classmethod
    def for_language(cls, language: str) -> "ScoringRules":
        """Return a language's rules: zh removes spaces, none changes nothing. Raises ValueError."""
        if language not in LANGUAGES:
            raise ValueError(f"no scoring rules for language {language!r}: choose one of {', '.join(LANGUAGES)}")
        if language == "none":
            return cls(ignore_case=False, remove_punctuation=False, fold_width=False)
        return cls(remove_spaces=language == "zh")

    def apply(self, text: str) -> str:
        """Return a text in the form that is compared."""
        if self.remove_punctuation:
            text = text.translate(APOSTROPHES)
        if self.fold_width:
            text = unicodedata.normalize("NFKC", text)
        if self.ignore_case:
            text = text.lower()
        if self.remove_punctuation:
            text = _without_punctuation(text)
        return "".join(text.split()) if self.remove_spaces else " ".join(text.split())

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


def _without_punctuation(text: str) -> str:
    def kept(i: int) -> str:
        if text[i] == "'" and 0 < i < len(text) - 1 and text[i - 1].isalnum() and text[i + 1].isalnum():
            return text[i]
        return " " if unicodedata.category(text[i]).startswith("P") else text[i]

    return "".join(kept(i) for i in range(len(text)))
