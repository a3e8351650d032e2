"""Scripts of letters, and words that mix scripts whose letters look alike, such as a Cyrillic о in an English word."""

import functools
import itertools
import re
import unicodedata
from collections.abc import Iterable

# Letters of each of two scripts that look like letters of the other one in most fonts. Accented letters, and others such as
# Greek γ and ε, are not among them: Chuvash is often written with the Latin ă, ĕ and ç, Kabyle with the Greek γ and ε.
TWINS = (
    ("LATIN", "CYRILLIC", "ABCEHIJKMOPSTXYaceijopsxyëïË", "АВСЕНІЈКМОРЅТХУасеіјорѕхуёїЁ"),
    ("LATIN", "GREEK", "ABEHIKMNOPTXYZainopuv", "ΑΒΕΗΙΚΜΝΟΡΤΧΥΖαιηορυν"),
    ("CYRILLIC", "GREEK", "АВЕНІКМОПРТФХГанікорпхф", "ΑΒΕΗΙΚΜΟΠΡΤΦΧΓαηικορπχφ"),
)
ALIKE = frozenset(itertools.chain.from_iterable(pair[:2] for pair in TWINS))
# What is usual in Cyrillic words: a Roman number with an ending (XXнче), and the palochka of Caucasian languages, which most
# keyboards lack, as a capital I inside a word (кIант).
ROMAN = re.compile("^[IVXLC]{2,}(?=[\u0430-\u045f\u0461-\u04ff]+$)")
PALOCHKA = re.compile("(?<=[\u0400-\u04ff])I(?=[\u0430-\u045f])|(?<=[\u0430-\u045f])I")
WORD = re.compile(r"[^\W\d_]+")  # letters only: a hyphen or an apostrophe often joins a foreign name and its ending
# What names of letters begin with that belong to several scripts: the prolonged sound mark, the iteration mark, ʻ, ː and ⁿ.
SHARED = frozenset(("MODIFIER", "SUPERSCRIPT", "IDEOGRAPHIC", "KATAKANA-HIRAGANA", "FEMININE", "MASCULINE", "MICRO"))
JAPANESE = frozenset(("HIRAGANA", "KATAKANA", "HALFWIDTH"))  # written together, and with Chinese characters


@functools.lru_cache(maxsize=4096)
def script_of(character: str) -> str:
    """Return the first word of a character's Unicode name: LATIN, CYRILLIC, CJK."""
    return unicodedata.name(character, "").partition(" ")[0]


def writing_system(letter: str) -> str:
    """Return the script of a letter, CJK for all that Japanese is written with, and '' for letters of several scripts."""
    script = script_of(letter)
    if script in SHARED:
        return ""
    return "CJK" if script in JAPANESE else script


def mixed_words(text: str) -> list[str]:
    """Return the words of a text in which letters of one script look like those of another, to which the word belongs.

    A foreign ending (VKда, XXнче) and letters that an orthography borrows (Kabyle's γ, the I of Chechen) mix no scripts in
    this sense. The text must be normalised as for `none`: composed, and in the case that it has, which shows the latter.
    """
    if text.isascii():
        return []
    return [word for word in WORD.findall(text) if not word.isascii() and _is_mixed(word)]


def _is_mixed(word: str) -> bool:
    word = PALOCHKA.sub("", ROMAN.sub("", word))
    scripts = {script_of(c) for c in word} & ALIKE
    return any(
        _pass_for(_letters(word, first), like) and _has_plain(word, second)
        for one, other, ones, others in TWINS
        for first, second, like in ((one, other, ones), (other, one, others))
        if {first, second} <= scripts
    )


def _letters(word: str, script: str) -> str:
    return "".join(c for c in word if script_of(c) == script)


def _pass_for(letters: Iterable[str], twins: str) -> bool:
    """Tell whether all letters look like letters of the other script."""
    return all(letter in twins for letter in letters)


def _has_plain(word: str, script: str) -> bool:
    """Tell whether a word has a letter of a script without an accent, which shows that it belongs to this script."""
    return any(script_of(c) == script and not unicodedata.decomposition(c) for c in word)
