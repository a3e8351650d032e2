"""Write numbers as words, by language, with the package num2words."""

import functools
import re
import unicodedata
from decimal import Decimal
from typing import Any

from input_pipeline.text.language import NONE, is_spaced, writing_of

MAX_DIGITS = 15  # longer numbers are spelled digit by digit
# Languages that write 1,234.5; the others write 1.234,5 or 1 234,5.
POINT = "en zh yue ja ko th he yi hi bn kn te ta ml mr gu pa ur ms fil tl cy ga gd mt sw am my km lo si ne"
CODES = {"kk": "kz", "nb": "no", "nn": "no"}  # of num2words, where it differs
# Of languages whose fractions num2words loses or cuts: what is said before the digits of a fraction.
MARKS = {
    "ar": "فاصلة",
    "bn": "দশমিক",
    "ce": "а",
    "cy": "pwynt",
    "fa": "ممیز",
    "it": "virgola",
    "tr": "virgül",
    "vi": "phẩy",
}
LONGEST = {"am": 6, "kn": 10, "te": 10}  # digits that num2words can spell, where these are fewer
DIGITS = re.compile(r"\d")
ORDINAL = re.compile(rf"(?<![\w.,])(\d{{1,{MAX_DIGITS}}})(?:st|nd|rd|th)\b", re.IGNORECASE)  # in English


def spell_numbers(text: str, language: str) -> str:
    """Replace numbers by words: 1,234.5 in English is one thousand, two hundred and thirty four point five.

    Numbers with leading zeros, and long ones, are spelled digit by digit. The words are divided by spaces from letters and
    symbols beside them, but not from punctuation: 5, and Turkish 5'te keep theirs. Raises ValueError for a language
    without numbers in num2words, and if num2words is not installed.
    """
    if not has_digits(text):
        return text
    code = _code(language)
    space = " " if is_spaced(language) else ""
    if code == "en":
        text = ORDINAL.sub(lambda match: _ordinal(int(match[1])), text)
    pattern = _pattern(code in POINT.split())

    def in_words(match: re.Match) -> str:
        whole, fraction = re.sub(r"\D", "", match["whole"]), match["fraction"] or ""
        words = _number(whole, fraction, code, language)
        left = "" if _attached(text, match.start() - 1, -1) else space
        return left + words + ("" if _attached(text, match.end(), 1) else space)

    spelled = pattern.sub(in_words, text)
    return " ".join(spelled.split()) if space else spelled


def has_digits(text: str) -> bool:
    """Tell whether a text contains digits, of any script."""
    return DIGITS.search(text) is not None


@functools.cache
def _pattern(point: bool) -> re.Pattern:
    """Return the pattern of a number: groups of three digits, divided by one kind of mark, and a fraction.

    Arabic has marks of its own, which are understood in all languages.
    """
    group, fraction = (r"[,\u066c]", r"[.\u066b]") if point else (r"[. \u066c]", r"[,\u066b]")
    grouped = rf"(?<!\d)\d{{1,3}}(?P<mark>{group})\d{{3}}(?:(?P=mark)\d{{3}})*(?!\d)"
    return re.compile(rf"(?P<whole>{grouped}|\d+)(?:{fraction}(?P<fraction>\d+))?")


def _attached(text: str, i: int, step: int) -> bool:
    """Tell whether a character beside a number is punctuation that stays there, as it does not join it to another number."""
    if not 0 <= i < len(text) or unicodedata.category(text[i])[0] != "P":
        return False
    return not (0 <= i + step < len(text) and text[i + step].isdigit())


def _code(language: str) -> str:
    if language == NONE:
        raise ValueError("config.text.spell_numbers needs config.text.language: name the language, such as en")
    return language.replace("_", "-").partition("-")[0].lower()


def _number(whole: str, fraction: str, code: str, language: str) -> str:
    """Return a number in words; digit by digit if it is long, begins with zero, or if num2words fails."""
    if len(whole) <= LONGEST.get(code, MAX_DIGITS) and (len(whole) == 1 or int(whole[0])):
        divided = [whole, *fraction] if code in MARKS else [f"{whole}.{fraction}" if fraction else whole]
        try:
            first, *digits = (_word(part, code, language) for part in divided)
            return " ".join([first, MARKS[code], *digits] if digits else [first])
        except (ArithmeticError, LookupError, TypeError):  # of its Amharic beyond 1,100, for example
            pass
    return " ".join(_word(digit, code, language) for digit in whole + fraction)


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
