"""Transcripts: normalisation by language, the vocabulary of a network, and scoring rules."""

from input_pipeline.text.characters import describe_character
from input_pipeline.text.invisible import count_invisible, describe_invisible, visible
from input_pipeline.text.language import LanguageError, is_spaced, language_code
from input_pipeline.text.normalisation import TextRules, normalise, upper
from input_pipeline.text.numbers import has_digits, spell_numbers
from input_pipeline.text.scoring import ScoringRules
from input_pipeline.text.vocabulary import UnknownCharacters, Vocabulary, VocabularyError
from input_pipeline.text.width import may_divide, width

__all__ = [
    "LanguageError",
    "ScoringRules",
    "TextRules",
    "UnknownCharacters",
    "Vocabulary",
    "VocabularyError",
    "count_invisible",
    "describe_character",
    "describe_invisible",
    "has_digits",
    "is_spaced",
    "language_code",
    "may_divide",
    "normalise",
    "spell_numbers",
    "upper",
    "visible",
    "width",
]
