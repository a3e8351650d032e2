"""How languages are written, where they differ from the general rule: case, spaces, and marks that belong to a word.

A language is `none` or an ISO 639 code with or without a region: en, tr, zh-CN.
"""

import argparse
import functools
from dataclasses import dataclass

NONE = "none"  # changes nothing but white space, the Unicode form and invisible characters
TWO_LETTERS = """
aa ab ae af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee el
en eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is it iu
ja jv ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na
nb nd ne ng nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg sh si sk sl sm sn
so sq sr ss st su sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu
"""  # of ISO 639
# Three-letter codes of languages that have rules of their own under a code of two letters.
SHORTER = {
    "eng": "en",
    "zho": "zh",
    "chi": "zh",
    "cmn": "zh",
    "jpn": "ja",
    "tha": "th",
    "lao": "lo",
    "khm": "km",
    "mya": "my",
    "bur": "my",
    "tur": "tr",
    "aze": "az",
    "cat": "ca",
    "oci": "oc",
    "heb": "he",
    "yid": "yi",
    "fra": "fr",
    "fre": "fr",
    "por": "pt",
    "ron": "ro",
    "rum": "ro",
    "rus": "ru",
    "ukr": "uk",
    "bel": "be",
    "bul": "bg",
    "bre": "br",
    "cym": "cy",
    "wel": "cy",
    "gle": "ga",
    "gla": "gd",
    "hun": "hu",
    "ind": "id",
    "msa": "ms",
    "may": "ms",
    "jav": "jv",
    "sun": "su",
    "tgl": "tl",
    "mlt": "mt",
}
# Codes of countries, and codes that ISO 639 has given up, which are often written for a language.
MISTAKEN = {
    "cn": "zh",
    "cz": "cs",
    "dk": "da",
    "gr": "el",
    "in": "id",
    "iw": "he",
    "ji": "yi",
    "jp": "ja",
    "ua": "uk",
    "vn": "vi",
}
# Three-letter codes that have the rules of a code of two letters.
SAME = {
    "abk": "ab",
    "bak": "ba",
    "chv": "cv",
    "kat": "ka",
    "geo": "ka",
    "kaz": "kk",
    "kir": "ky",
    "tat": "tt",
    "fin": "fi",
    "sme": "se",
    "swe": "sv",
    "afr": "af",
    "ell": "el",
    "gre": "el",
    "fry": "fy",
    "hau": "ha",
    "ita": "it",
    "nld": "nl",
    "dut": "nl",
    "nav": "nv",
    "orm": "om",
    "kin": "rw",
    "smo": "sm",
    "som": "so",
    "ton": "to",
    "tah": "ty",
    "uzb": "uz",
}


@dataclass(frozen=True)
class Writing:
    """How a language is written.

    spaced: words are separated by spaces. dotless: the capital letter of ı is I, and that of i is İ. prefixed: t and n before
    a capital vowel are prefixes, which get a hyphen in lower case. inside: punctuation that belongs to a word where letters
    stand on both sides of it; an apostrophe in all languages. edges: an apostrophe also belongs to a word that begins or ends
    with it, unless two of them are quotes.
    """

    spaced: bool = True
    dotless: bool = False
    prefixed: bool = False
    inside: str = "'"
    edges: bool = False


SPACELESS = ("zh", "yue", "nan", "wuu", "hak", "gan", "lzh", "ja", "th", "lo", "km", "my")
DOTLESS = ("tr", "az", "crh", "gag")
# Hyphens join what is no word alone: a pronoun, an article or a particle, or the halves of a repeated word.
HYPHENATED = """
ab ba be bg br cv cy fil fr ga gd hu id jv ka kab kk ky ms mt pt ro ru sah su tl tt tyv uk
"""
COLONS = ("fi", "se", "sv")  # between an abbreviation and its ending: tv:n
# An apostrophe stands for a glottal stop or a lost sound, also at the start or the end of a word: ta', σ', po', 's, a', ʻāina.
APOSTROPHED = "af br cy el fy gd ha haw it mt nap nl nv om rw scn sm so to ty uz"
INSIDE = {
    **dict.fromkeys(HYPHENATED.split(), "'-"),
    **dict.fromkeys(COLONS, "':"),
    **dict.fromkeys(("ca", "oc"), "'-\u00b7"),  # col·legi
    **dict.fromkeys(("he", "yi"), "'\"\u05f3\u05f4"),  # geresh and gershayim, often typed as quotes
}
WRITINGS = {
    code: Writing(
        spaced=code not in SPACELESS,
        dotless=code in DOTLESS,
        prefixed=code == "ga",
        inside=INSIDE.get(code, Writing.inside),
        edges=code in APOSTROPHED.split(),
    )
    for code in {*SPACELESS, *DOTLESS, *INSIDE, *APOSTROPHED.split()}
}


class LanguageError(ValueError, argparse.ArgumentTypeError):
    """A language that is not known; argparse shows the message."""


@functools.lru_cache(maxsize=64)
def writing_of(language: str) -> Writing:
    """Return how a language other than `none` is written: by its exceptions, else by the general rule. Raises LanguageError."""
    code = language.replace("_", "-").partition("-")[0].lower()
    known = code in TWO_LETTERS.split() or (len(code) == 3 and code.isascii() and code.isalpha())
    if not known or code in SHORTER:
        meant = SHORTER.get(code) or MISTAKEN.get(code)
        hint = f"write {meant}" if meant else "choose none, or an ISO 639 code such as en, zh, tr or fr"
        raise LanguageError(f"config.text.language is {language!r}: {hint}")
    return WRITINGS.get(SAME.get(code, code), Writing())


def language_code(text: str) -> str:
    """Return a language if there are rules for it; usable as the type of an argparse option. Raises LanguageError."""
    if text != NONE:
        writing_of(text)
    return text


def is_spaced(language: str) -> bool:
    """Tell whether words are separated by spaces; if not, characters are counted, and are the units of language models."""
    return language == NONE or writing_of(language).spaced
