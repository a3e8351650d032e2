"""Anchors are words that text and recording share; sections cover both without gaps."""

import itertools

import numpy as np

from decoding.alignment.anchors import Section, sections_between
from decoding.hypothesis import BLANK

SPACE = 1


def spell(text: str) -> list[np.ndarray]:
    return [np.array([ord(c) - 95 for c in word], np.int32) for word in text.split()]


def hear(text: str) -> np.ndarray:
    """Return the best symbol of each frame: two frames for each letter, a blank after it."""
    codes = [SPACE if c == " " else ord(c) - 95 for c in text]
    return np.array([symbol for code in codes for symbol in (code, code, BLANK)], np.int32)


def test_sections_cover_text_and_recording():
    text, heard = "one two three four five six seven eight", "one two three xxxx five six seven eight"
    sections = sections_between(spell(text), hear(heard), SPACE)
    assert len(sections) == 3
    assert (sections[0].first_word, sections[0].first) == (0, 0)
    assert (sections[-1].end_word, sections[-1].end) == (8, len(heard) * 3)
    for before, after in itertools.pairwise(sections):
        assert (before.end_word, before.end) == (after.first_word, after.first)
        words = " ".join(text.split()[: before.end_word])
        assert 0 < before.end - len(words) * 3 < 3  # in the space after them


def test_missing_spaces_do_not_matter():
    assert len(sections_between(spell("seven eight nine"), hear("seveneightnine"), SPACE)) == 2


def test_a_short_run_of_equal_letters_is_no_anchor():
    assert sections_between(spell("one two"), hear("one two"), SPACE) == [Section(0, 2, 0, 21)]


def test_nothing_in_common_is_one_section():
    assert sections_between(spell("aaaa bbbb cccc"), hear("dddd eeee ffff"), SPACE) == [Section(0, 3, 0, 42)]
    assert sections_between([], hear("one"), SPACE) == [Section(0, 0, 0, 9)]
    assert sections_between(spell("one"), np.zeros(0, np.int32), SPACE) == [Section(0, 1, 0, 0)]


def test_an_hour_is_divided_into_short_sections():
    rng = np.random.default_rng(0)
    words = ["".join(chr(97 + c) for c in rng.integers(0, 26, rng.integers(2, 9))) for _ in range(9000)]
    sections = sections_between(spell(" ".join(words)), hear(" ".join(words[:3000] + words[3100:])), SPACE)
    assert max(s.end_word - s.first_word for s in sections) < 150  # the words that are missing, and some around them


def test_a_chapter_is_found_in_the_text_of_a_book_and_the_other_way_round():
    rng = np.random.default_rng(1)
    words = ["".join(chr(97 + c) for c in rng.integers(0, 26, rng.integers(2, 9))) for _ in range(3000)]
    chapter = words[1700:1800]
    misheard = " ".join(word if i % 10 else "xx" for i, word in enumerate(chapter))
    sections = sections_between(spell(" ".join(words)), hear(misheard), SPACE)
    assert len(sections) > 3
    assert 1700 <= sections[0].end_word < sections[-1].first_word <= 1800
    sections = sections_between(spell(" ".join(chapter)), hear(" ".join(words)), SPACE)
    assert len(sections) > 3
    begin, end = (len(" ".join(words[:n])) * 3 for n in (1700, 1800))
    assert begin <= sections[0].end < sections[-1].first <= end


def test_a_text_that_is_repeated_is_divided_in_order():
    text = " ".join(["seven eight nine four one two zero"] * 20)
    sections = sections_between(spell(text), hear(text.replace("four", "for", 3)), SPACE)
    assert len(sections) > 5
    for section in sections[:-1]:
        assert abs(section.end / 3 - len(" ".join(text.split()[: section.end_word]))) < 6
