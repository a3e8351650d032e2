"""Columns of texts, and where they may be divided."""

import pytest

from input_pipeline.text import may_divide, width


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("plain", 5),
        ("天a\u0301", 3),
        ("ＡB", 3),
        ("한국", 4),
        ("\u1112\u1161\u11ab", 2),  # the jamo of 한
        ("ที่นี่", 2),
        ("हिन्दी", 5),  # two vowel signs take a column of their own
        ("مُحَمَّد", 4),
        ("שָׁלוֹם", 4),
        ("ދިވެހި", 3),
        ("می\u200cروم", 5),
        ("ߒߞߏ߫", 3),
        ("አማርኛ", 4),
        ("ქართული", 7),
    ],
)
def test_marks_and_joiners_take_no_column(text, columns):
    assert width(text) == columns


@pytest.mark.parametrize(
    ("before", "after", "allowed"),
    [
        ("a", "b", True),
        ("", "b", True),
        ("天", "天", True),
        ("ท", "ี", False),
        ("क", "ि", False),
        ("क्", "ष", False),
        ("क्", " ", True),
        ("क्\u200d", "ष", False),
        ("می", "\u200cروم", False),
        ("\u1112", "\u1161", False),
        ("e", "\u0301", False),
        ("人", "々", False),
        ("です", ")", False),
        ("ก", "?", False),
        ("เ", "A", False),
        ("ヒ", "ー", False),
        ("す", "。", False),
        ("す", "」", False),
        ("「", "す", False),
        ("し", "ょ", False),
        ("เ", "ข", False),
        ("ว่", "า", False),
        ("า", "เ", True),
        ("。", "そ", True),
    ],
)
def test_a_text_is_not_divided_inside_a_letter(before, after, allowed):
    assert may_divide(before, after) is allowed
