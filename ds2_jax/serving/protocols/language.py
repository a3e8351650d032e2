"""The language that a client asks for."""

ANY = ("", "auto")  # a client that does not know it
UNKNOWN = ("", "none")  # a model that does not state it


def check_language(language: str, own: str) -> None:
    """Raise ValueError if a client asks for another language than the model's. Both are tags such as 'en' or 'en-GB'."""
    if language.lower() not in ANY and own not in UNKNOWN and _primary(language) != _primary(own):
        raise ValueError(f"language is {language[:40]!r}, but this model transcribes {own!r}: leave the language out")


def _primary(language: str) -> str:
    return language.replace("_", "-").partition("-")[0].lower()
