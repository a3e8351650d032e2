"""Transcripts in the form that is learnt, by language."""

import unicodedata

LANGUAGES = ("en", "zh", "none")
APOSTROPHES = str.maketrans(dict.fromkeys("\u2018\u2019\u201b\u02bc\u2032\uff07`\u00b4", "'"))


def normalise(text: str, language: str) -> str:
    """Bring a transcript into the form that is learnt.

    en: compatibility forms folded (NFKC), one kind of apostrophe, lower case, white space as single spaces. zh:
    NFKC, Latin letters lower-case, no white space. none: canonical composition (NFC) and single spaces. Nothing else
    is removed, so that a vocabulary shows what is foreign.
    """
    if language == "en":
        return " ".join(_compatible(text).lower().split())
    if language == "zh":
        joined = "".join(unicodedata.normalize("NFKC", text).lower().split())
        return unicodedata.normalize("NFC", joined)  # a mark may have lost the space that NFKC gave it
    if language == "none":
        return " ".join(unicodedata.normalize("NFC", text).split())
    raise ValueError(f"config.text.language is {language!r}: choose one of {', '.join(LANGUAGES)}")


def _compatible(text: str) -> str:
    """Fold compatibility forms and apostrophes; NFKC makes a space and a mark of some, and apostrophes of others."""
    return unicodedata.normalize("NFKC", text.translate(APOSTROPHES)).translate(APOSTROPHES)
