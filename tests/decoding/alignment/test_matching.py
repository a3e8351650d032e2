"""Words that text and recording share are matched in order."""

import numpy as np

from decoding.alignment.matching import Match, match


def random_words(count: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return ["".join(chr(97 + c) for c in rng.integers(0, 26, rng.integers(2, 9))) for _ in range(count)]


def test_words_around_a_difference_are_matched():
    text, heard = ["one", "two", "three", "four", "five", "six"], ["one", "two", "three", "xxxx", "yyyy", "five", "six"]
    assert match(text, heard) == [Match(0, 0, 3), Match(4, 5, 2)]


def test_nothing_in_common_is_no_match():
    assert match(["a", "b"], ["c", "d"]) == []
    assert match([], ["a"]) == []
    assert match(["a"], []) == []


def test_a_part_that_was_not_spoken_is_left_out():
    words = random_words(9000, 0)
    matched = [word for one in match(words, [*words[:3000], *words[3100:]]) for word in words[one.text :][: one.size]]
    assert matched == [*words[:3000], *words[3100:]]


def test_a_chapter_is_found_in_the_text_of_a_book_and_the_other_way_round():
    words = random_words(3000, 1)
    chapter = words[1700:1800]
    misheard = [word if i % 10 else "xx" for i, word in enumerate(chapter)]
    found = [one.text + i for one in match(words, misheard) for i in range(one.size)]
    assert found == [i for i in range(1700, 1800) if i % 10]
    found = [one.heard + i for one in match(chapter, words) for i in range(one.size)]
    assert found == list(range(1700, 1800))


def test_a_text_that_is_repeated_is_matched_in_order():
    text = ["seven", "eight", "nine", "four", "one", "two", "zero"] * 20
    heard = list(text)
    heard[3] = heard[10] = "for"
    assert match(text, heard) == [Match(0, 0, 3), Match(4, 4, 6), Match(11, 11, 129)]


def test_of_a_text_far_longer_than_the_recording_single_words_are_chance():
    assert match(random_words(500, 2), ["xx", *random_words(500, 2)[250:252], "yy"]) == []
