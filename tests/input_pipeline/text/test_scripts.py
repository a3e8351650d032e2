"""Words with letters of two scripts that look alike."""

import pytest

from input_pipeline.text.scripts import mixed_words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("the c\u043ede is g\u03bfod", ["c\u043ede", "g\u03bfod"]),
        ("привет wоrld", ["wоrld"]),
        ("Он купил iPhone и USB-кабель", []),
        ("東京タワーで Tシャツ 10km", []),
        ("plain English", []),
        ("Ελλάδα και Europe", []),
        ("한국어 K팝", []),
    ],
)
def test_only_words_with_scripts_that_look_alike_are_named(text, words):
    assert mixed_words(text) == words
