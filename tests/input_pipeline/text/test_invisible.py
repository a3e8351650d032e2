"""Characters that cannot be seen: removed, kept as joiners, counted and shown."""

import logging

import pytest

from input_pipeline import manifest
from input_pipeline.text import ScoringRules, count_invisible, describe_invisible, normalise, visible

MARKS = (
    *"\ufeff\u200b\u00ad\u200e\u200f\u202a\u202e\u2066\u2069\u2060",
    *"\u061c\u0000\u007f\u034f\ufe0f\u200c\u200d",
)


@pytest.mark.parametrize("language", ["en", "zh", "none", "fa"])
@pytest.mark.parametrize("mark", MARKS)
def test_marks_are_removed_in_every_language(language, mark):
    assert normalise(f"{mark}ab{mark}c{mark}", language) == "abc"
    assert ScoringRules.for_language(language).apply(f"ab{mark}c") == "abc"


@pytest.mark.parametrize("space", "\u00a0\u202f\u2007\u2009\u3000\t")
def test_unusual_spaces_are_spaces(space):
    assert normalise(f"a{space}b", "none") == "a b"
    assert normalise(f"a{space} b", "en") == "a b"
    assert normalise(f"a{space}b", "zh") == "ab"


@pytest.mark.parametrize(
    ("language", "text", "kept"),
    [
        ("fa", "می\u200cروم", "می\u200cروم"),
        ("fa", "می\u200c\u200c\u200bروم", "می\u200cروم"),
        ("fa", "کتاب\u200c ها", "کتاب ها"),
        ("fa", "\u200cکتاب, a\u200cb", "کتاب, ab"),
        ("si", "ක්\u200dය", "ක්\u200dය"),
        ("ml", "അവന\u0d4d\u200d പോയി", "അവന\u0d4d\u200d പോയി"),  # a chillu in its older spelling, at the end of a word
        ("mn", "ᠮᠣ\u200dᠩ", "ᠮᠣ\u200dᠩ"),
        ("ff", "𞤢\u200c𞤣", "𞤢\u200c𞤣"),
        ("en", "👩\u200d🚀", "👩🚀"),
    ],
)
def test_joiners_stay_between_letters_of_scripts_that_use_them(language, text, kept):
    assert normalise(text, language) == kept
    assert normalise(text, "none") == kept


def test_what_is_normalised_is_counted_and_described():
    counts = count_invisible(["turn on\u200b the\u00a0light", "\ufeffoff\u200b", "می\u200cروم\u200c", "plain"])
    assert counts == {"\u200b": 2, "\u00a0": 1, "\ufeff": 1, "\u200c": 1}
    described = describe_invisible(counts)
    assert described.startswith("U+200B ZERO WIDTH SPACE (2 times), ")
    assert "U+00A0 NO-BREAK SPACE (1 times)" in described
    assert not count_invisible(["plain", "كتاب", "全角　空白"])


def test_what_divides_the_words_of_languages_without_spaces_is_no_problem():
    text = "ខ្ញុំ\u200bស្រឡាញ់ မြန်မာ\u200bဘာသာ ไม่\u200bมี"
    assert not count_invisible([text])
    assert count_invisible([f"\u200b{text}\u200b"]) == {"\u200b": 2}
    assert "\u200b" not in normalise(text, "none")


def test_a_manifest_with_invisible_characters_gives_one_warning(tmp_path, caplog):
    rows = [{"audio_filepath": "a.wav", "duration": 1.0, "text": text} for text in ("a\u200bb", "c\u200b\ufeff", "d")]
    manifest.write(tmp_path / "m.jsonl", rows)
    with caplog.at_level(logging.WARNING, "input_pipeline"):
        read = manifest.read(tmp_path / "m.jsonl")
    assert list(read.text) == ["a\u200bb", "c\u200b\ufeff", "d"]
    (record,) = caplog.records
    assert "m.jsonl" in record.message
    assert "U+200B ZERO WIDTH SPACE (2 times), U+FEFF ZERO WIDTH NO-BREAK SPACE (1 times)" in record.message


def test_invisible_characters_are_shown_by_their_code_points():
    assert visible("می\u200cروم\u00a0a") == "می<U+200C>روم<U+00A0>a"
    assert visible("plain text") == "plain text"
