"""Normalise transcripts for training, by language."""

import unicodedata

LANGUAGES = ("en", "zh", "none")
APOSTROPHES = str.maketrans(dict.fromkeys("\u2018\u2019\u201b\u02bc\u2032\uff07`\u00b4", "'"))


def normalise(text: str, language: str) -> str:
    """Normalise a transcript for training.

    en: Unicode NFKC, one kind of apostrophe, lower case, single spaces. zh: NFKC, lower case, no white space. none: NFC,
    single spaces. Nothing else is removed, so that unexpected characters show in the vocabulary.
    Raises ValueError for an unknown language.
    """
    if language == "en":
        return " ".join(_compatible(text).lower().split())
    if language == "zh":
        joined = "".join(unicodedata.normalize("NFKC", text).lower().split())
        return unicodedata.normalize("NFC", joined)  # marks that NFKC put behind a space now follow a letter
    if language == "none":
        return " ".join(unicodedata.normalize("NFC", text).split())
    raise ValueError(f"config.text.language is {language!r}: choose one of {', '.join(LANGUAGES)}")


def _compatible(text: str) -> str:
    """Apply NFKC and unify apostrophes: before, as NFKC splits some into a space and a mark, and after, as it makes some."""
    return unicodedata.normalize("NFKC", text.translate(APOSTROPHES)).translate(APOSTROPHES)
