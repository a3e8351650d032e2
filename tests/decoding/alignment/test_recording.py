"""A recording that is aligned in sections has the words and frames of one that is aligned at once."""

import numpy as np

from decoding.alignment import recording
from decoding.alignment.anchors import sections_between
from decoding.alignment.forced import Prices, place
from decoding.alignment.recording import place_recording
from tests.decoding.alignment.test_forced import SPACE, arrays, speak


def random_words(count: int, seed: int) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(2, 6, 7).tolist() for _ in range(count)]


def test_sections_give_the_words_and_the_other_speech_of_the_whole():
    text, extra = random_words(12, 0), random_words(2, 1)
    spoken = [*text[:4], extra[0], *text[4:9], extra[1], *text[10:]]  # the text has a word that is not spoken
    log_probs, words = speak(spoken), arrays(text)
    best = log_probs.argmax(1)
    assert len(sections_between(words, best, SPACE)) > 3
    whole = place(log_probs, words, SPACE, Prices())
    found = place_recording(log_probs, best, words, SPACE, Prices())
    assert [word.word for word in found.words] == [*range(9), 10, 11]
    assert [(w.word, w.first, w.end, w.symbols) for w in found.words] == [
        (w.word, w.first, w.end, w.symbols) for w in whole.words
    ]
    np.testing.assert_array_equal(found.other, whole.other)
    assert len(found.other) == 14  # the letters of what the text lacks


def test_a_section_that_is_too_large_has_only_other_speech(monkeypatch):
    text = random_words(2, 2)
    log_probs = speak(random_words(2, 3))
    size = len(log_probs) * 14
    for limit, skipped in ((size, False), (size - 1, True)):
        monkeypatch.setattr(recording, "LARGEST", limit)
        found = place_recording(log_probs, log_probs.argmax(1), arrays(text), SPACE, Prices(other=100.0, skip=100.0))
        assert (found.words == []) == skipped
