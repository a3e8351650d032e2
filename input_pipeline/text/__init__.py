"""Transcripts: normalisation by language, the vocabulary of a network, and scoring rules."""

from input_pipeline.text.characters import describe_character
from input_pipeline.text.normalisation import LANGUAGES, normalise
from input_pipeline.text.scoring import ScoringRules
from input_pipeline.text.vocabulary import UnknownCharacters, Vocabulary, VocabularyError

__all__ = [
    "LANGUAGES",
    "ScoringRules",
    "UnknownCharacters",
    "Vocabulary",
    "VocabularyError",
    "describe_character",
    "normalise",
]
