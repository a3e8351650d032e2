"""Normalise texts by language: the same for transcripts, texts of language models, hot words and scoring."""

import re
import unicodedata
from dataclasses import dataclass

from input_pipeline.text.invisible import without_invisible
from input_pipeline.text.language import NONE, Writing, language_code, writing_of
from input_pipeline.text.numbers import spell_numbers

# Patterns, as str.translate needs several times as long for a text beyond ASCII.
# The last four are Greek (koronis, psili, tonos, oxia), of which NFKC makes a space and a mark.
APOSTROPHES = re.compile("[\u2018\u2019\u201b\u02bb\u02bc\u055a\u2032\uff07`\u00b4\u1fbd\u1fbf\u0384\u1ffd]")
HYPHENS = re.compile("[\u2010\u2011]")
# Letters of Thai, Lao and Armenian of which the compatible form is two, Korean ones that would join their neighbours, raised
# ones (tiⁿ, xʷ, ⴰⴳⵯ), which are not the letters that they look like, and №, which is not Latin in a Cyrillic text.
WHOLE_LETTERS = re.compile(
    "([\u2116\u0e33\u0eb3\u0edc\u0edd\u0587\u3131-\u318e"
    "\u02b0-\u02e4\u10fc\u1d2c-\u1d6a\u1d78\u1d9b-\u1dbf\u2071\u207f\u2090-\u209c\u2c7c\u2c7d\u2d6f])"
)
ARMENIAN_MARKS = re.compile("[\u055b\u055c\u055e]")  # emphasis, exclamation, question: on a vowel in a word
PREFIXES = re.compile(r"\b([nt])(?=[AEIOUÁÉÍÓÚ])")
MIDDLE_DOTS = re.compile(r"(?<=[^\W\d_])[\u2022\u2027\u2219\u22c5](?=[^\W\d_])")
# The vowel am of Thai and Lao, typed as two characters, before or after a tone mark.
SARA_AM = re.compile("\u0e4d([\u0e48-\u0e4b]?)\u0e32|([\u0e48-\u0e4b])\u0e4d\u0e32")
LAO_AM = re.compile("\u0ecd([\u0ec8-\u0ecb]?)\u0eb2|([\u0ec8-\u0ecb])\u0ecd\u0eb2")
TATWEEL = "\u0640"  # stretches an Arabic word, and is no letter
# The full-width tilde is how Windows writes the wave dash of Japanese.
TILDE, WAVE_DASH = "\uff5e", "\u301c"
GERESH = "\u05f3"
GERSHAYIM = re.compile(
    "\u05f4|(?<=[\u05d0-\u05ea\u05b0-\u05bd\u05bf\u05c1\u05c2\u05c7])(?:[\u201c-\u201f]|'')(?=[\u05d0-\u05ea])"
)
DOT_ABOVE = re.compile(
    "(?<=[ij\u012f])\u0307"
)  # on a letter that has a dot already: what is left of \u0130 in lower case


@dataclass(frozen=True)
class TextRules:
    """How texts are normalised: the section `text` of a config.

    language: `none` or an ISO 639 code, as `normalise` describes. spell_numbers: write numbers as words of the language.
    Raises ValueError for an unknown language, one whose numbers cannot be spelled, or without num2words.
    """

    language: str = "en"
    spell_numbers: bool = False

    def __post_init__(self):
        """Refuse what cannot be applied."""
        language_code(self.language)
        if self.spell_numbers:
            spell_numbers("1", self.language)

    def normalise(self, text: str) -> str:
        """Return a normalised text."""
        if not self.spell_numbers:
            return normalise(text, self.language)
        # Spaces divide numbers also where they do not divide words.
        parts = [text] if writing_of(self.language).spaced else text.split()
        normalised = [normalise(part, self.language) for part in parts]
        spelled = [spell_numbers(part, self.language) for part in normalised]
        joined = "".join(spelled)
        return joined if spelled == normalised and len(parts) == 1 else normalise(joined, self.language)


def normalise(text: str, language: str) -> str:
    """Normalise a text.

    Every language: Unicode form NFC, single spaces, no invisible characters; `none`: nothing else. Other languages:
    compatible forms (NFKC), one kind of apostrophe and hyphen, lower case by the rules of the language (Turkish I becomes
    ı). Languages written without spaces, such as zh: no white space, and apostrophes stay. Nothing else is removed, so
    that unexpected characters show in the vocabulary. Raises ValueError for an unknown language.
    """
    text = without_invisible(text)
    if language == NONE:
        return " ".join(unicodedata.normalize("NFC", text).split())
    writing = writing_of(language)
    if writing.spaced:  # before, as NFKC splits some into a space and a mark, and after, as it makes some
        text = APOSTROPHES.sub("'", compatible(APOSTROPHES.sub("'", text)))
    else:
        text = compatible(text)
    joined = (" " if writing.spaced else "").join(lower(text, writing).split())
    if not writing.spaced:
        joined = _whole_vowels(joined)  # whose parts a space divided
    return unicodedata.normalize("NFC", joined)  # marks may follow a letter only now


def compatible(text: str) -> str:
    """Return the compatible form (NFKC) with one kind of hyphen; letters that NFKC would divide stay whole.

    What looks the same in Thai, Lao and Japanese is written in one way, and Arabic words are not stretched.
    """
    if not text.isascii():
        text = text.replace(TILDE, WAVE_DASH)
        text = _whole_vowels(text)
    if WHOLE_LETTERS.search(text):
        parts = (
            part if WHOLE_LETTERS.match(part) else unicodedata.normalize("NFKC", part)
            for part in WHOLE_LETTERS.split(text)
        )
        text = unicodedata.normalize("NFC", "".join(parts))
    else:
        text = unicodedata.normalize("NFKC", text)
    if TATWEEL in text:  # some compatible forms have one; a joiner beside it joins nothing any more
        text = without_invisible(text.replace(TATWEEL, ""))
    return HYPHENS.sub("-", text)


def _whole_vowels(text: str) -> str:
    """Return a text in which the vowel am of Thai and Lao is one letter."""
    return LAO_AM.sub("\\1\\2\u0eb3", SARA_AM.sub("\\1\\2\u0e33", text))


def lower(text: str, writing: Writing) -> str:
    """Return a text in lower case by the rules of its language; in Catalan, with one kind of middle dot, in Hebrew, of geresh."""
    if writing.dotless:
        text = text.replace("I", "\u0131")
    if writing.prefixed:
        text = PREFIXES.sub(r"\1-", text)
    if "\u00b7" in writing.inside:
        text = MIDDLE_DOTS.sub("\u00b7", text)
    if '"' in writing.inside:
        text = GERSHAYIM.sub('"', text.replace(GERESH, "'"))
    return DOT_ABOVE.sub("", text.lower())


def upper(text: str, language: str) -> str:
    """Return a text in upper case by the rules of its language; `none` has the general ones."""
    dotless = language != NONE and writing_of(language).dotless
    return (text.replace("i", "\u0130") if dotless else text).upper()
