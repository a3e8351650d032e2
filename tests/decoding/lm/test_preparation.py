"""The text of a language model: normalised like transcripts, without what a network cannot write."""

import pytest

from decoding.lm.preparation import Preparation
from input_pipeline.text import TextRules, normalise

LETTERS = " 'abcdefghijklmnopqrstuvwxyz"


@pytest.mark.parametrize(
    ("language", "line", "prepared"),
    [
        ("en", "  Hello,  World!\n", "hello world"),
        ("en", "It\u2019s 1000 o'clock", "it's 1000 o'clock"),
        ("en", "'Tis the boys' café – twenty-two, well-known.", "'tis the boys' café twenty-two well-known"),
        ("en", "and/or 42% b-2 - x_y", "and or 42 b-2 x y"),
        ("en", "--- ' !!!", ""),
        ("en", "a \uff26\uff55\uff4c\uff4c\u3000width\u200b", "a full width"),
        ("fr", "L\u2019été, est-ce\u00a0?", "l'été est-ce"),
        ("ca", "El col·legi.", "el col·legi"),
        ("de", "Die Tür heißt schön.", "die tür heißt schön"),
        ("tr", "Ilık İki.", "ılık iki"),
        ("hi", "कि।", "कि"),
        ("hy", "Ինչո՞ւ։", "ինչու"),
        ("sv", "TV:n: ja", "tv:n ja"),
        ("fa", "می\u200cروم.", "می\u200cروم"),
        ("zh", "你好，世界。 (abc)", "你 好 世 界 a b c"),
        ("zh", "３Ｄ 电影", "3 d 电 影"),
        ("ja", "東京 です。", "東 京 で す"),
        ("none", " As  It is, (so)\n", "As It is, (so)"),
    ],
)
def test_text_is_normalised_as_transcripts_are_without_punctuation(language, line, prepared):
    assert Preparation(TextRules(language))(line) == prepared


@pytest.mark.parametrize("language", ["en", "fr", "tr", "de"])
@pytest.mark.parametrize("line", ["L'été à la plage", "twenty-two x-rays on 7 b-2", "Ilık IŞIK İki", "Straße o'clock"])
def test_without_punctuation_between_words_it_is_the_transcript(language, line):
    assert Preparation(TextRules(language))(line) == normalise(line, language)


def test_the_symbols_of_a_network_decide_which_marks_stay():
    line = "The x-ray's at B-2, isn't it - 'quite'?"
    assert Preparation(TextRules(), LETTERS)(line) == "the x ray's at b 2 isn't it 'quite'"
    assert Preparation(TextRules(), LETTERS + "-,?2")(line) == normalise(line, "en")


def test_numbers_are_words_only_where_the_rules_say_so():
    assert Preparation(TextRules("en", spell_numbers=True))("in 1999: room7b") == (
        "in one thousand nine hundred and ninety nine room seven b"
    )
    assert Preparation(TextRules("en"), LETTERS + "7")("room 7") == "room 7"


def test_what_is_dropped_is_counted_with_examples():
    prepare = Preparation(TextRules(), LETTERS)
    words = [word for line in ("Café, naïve,\u200b café.", "a b-2") for word in prepare(line).split()]
    assert [word for word in words if prepare.writable(word)] == ["a", "b"]
    invisible, characters, unwritable = prepare.dropped.report()
    assert characters.startswith("4 characters are dropped: ',' (U+002C COMMA) 2 times, as in 'café,'; ")
    assert "'-' (U+002D HYPHEN-MINUS) 1 times, as in 'b-2'" in characters
    assert invisible.endswith("are normalised: U+200B ZERO WIDTH SPACE (1 times)")
    assert unwritable.startswith("4 words cannot be written")
    assert unwritable.endswith("café (2), naïve (1), 2 (1)")
    assert Preparation(TextRules()).dropped.report() == []
