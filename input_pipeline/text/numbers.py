"""Write numbers as words, by language, with the package num2words."""

import functools
import re
from decimal import Decimal
from typing import Any

from input_pipeline.text.language import NONE, is_spaced, writing_of

MAX_DIGITS = 15  # longer numbers are spelled digit by digit
# Languages that write 1,234.5; the others write 1.234,5 or 1 234,5.
POINT = "en zh yue ja ko th he yi hi bn kn te ta ml mr gu pa ur ms fil tl cy ga gd mt sw am my km lo si ne"
CODES = {"kk": "kz", "nb": "no", "nn": "no"}  # of num2words, where it differs
DIGITS = re.compile(r"\d")
ORDINAL = re.compile(rf"(?<![\w.,])(\d{{1,{MAX_DIGITS}}})(?:st|nd|rd|th)\b", re.IGNORECASE)  # in English


def spell_numbers(text: str, language: str) -> str:
    """Replace numbers by words: 1,234.5 in English is one thousand, two hundred and thirty four point five.

    Numbers with leading zeros, and long ones, are spelled digit by digit. Raises ValueError for a language without
    numbers in num2words, and if num2words is not installed.
    """
    if not has_digits(text):
        return text
    code = _code(language)
    space = " " if is_spaced(language) else ""
    if code == "en":
        text = ORDINAL.sub(lambda match: _ordinal(int(match[1])), text)
    pattern, group, point = _pattern(code in POINT.split())

    def in_words(match: re.Match) -> str:
        whole, _, fraction = match[0].replace(group, "").partition(point)
        if len(whole) > MAX_DIGITS or (len(whole) > 1 and int(whole[0]) == 0):
            parts = [*whole, *fraction]
        else:
            parts = [f"{whole}.{fraction}" if fraction else whole]
        return space + " ".join(_word(part, code, language) for part in parts) + space

    spelled = pattern.sub(in_words, text)
    return " ".join(spelled.split()) if space else spelled


def has_digits(text: str) -> bool:
    """Tell whether a text contains digits, of any script."""
    return DIGITS.search(text) is not None


@functools.cache
def _pattern(point: bool) -> tuple[re.Pattern, str, str]:
    """Return the pattern of a number, the mark between groups of three digits, and that before the fraction."""
    group, fraction = (",", r"\.") if point else (r"\.", ",")
    number = rf"(?<!\d)\d{{1,3}}(?:{group}\d{{3}})+(?!\d)(?:{fraction}\d+)?|\d+(?:{fraction}\d+)?"
    return re.compile(number), group[-1], fraction[-1]


def _code(language: str) -> str:
    if language == NONE:
        raise ValueError("config.text.spell_numbers needs config.text.language: name the language, such as en")
    return language.replace("_", "-").partition("-")[0].lower()


@functools.lru_cache(maxsize=4096)
def _word(number: str, code: str, language: str) -> str:
    words = _num2words()(Decimal(number) if "." in number else int(number), lang=_known(code, language)).replace(
        ",", ""
    )
    return words if "-" in writing_of(language).inside else words.replace("-", " ")


@functools.lru_cache(maxsize=4096)
def _ordinal(number: int) -> str:
    return _num2words()(number, to="ordinal").replace("-", " ").replace(",", "")


def _known(code: str, language: str) -> str:
    from num2words import CONVERTER_CLASSES

    known = CODES.get(code, code)
    if known not in CONVERTER_CLASSES:
        listed = ", ".join(sorted(CONVERTER_CLASSES))
        raise ValueError(f"the numbers of language {language!r} cannot be spelled: num2words has {listed}")
    return known


def _num2words() -> Any:
    try:
        from num2words import num2words
    except ImportError as error:
        raise ValueError("spelling numbers needs num2words: pip install num2words (the extra lm)") from error
    return num2words
