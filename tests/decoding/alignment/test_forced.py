"""The best path is that of a slow reference, each word has its frames, memory is bounded."""

import itertools
import tracemalloc

import numpy as np
import pytest

from decoding.alignment import forced
from decoding.alignment.forced import Placement, needed_frames, place
from decoding.hypothesis import BLANK

SPACE, SYMBOLS = 1, 6  # symbols 2 to 5 are letters


def random_output(frames: int, seed: int) -> np.ndarray:
    logits = 2 * np.random.default_rng(seed).standard_normal((frames, SYMBOLS))
    return (logits - np.log(np.exp(logits).sum(1, keepdims=True))).astype(np.float32)


def speak(words: list[list[int]], sure: float = 8.0) -> np.ndarray:
    """Return the output of a network that hears these words."""
    best = [BLANK]
    for word in words:
        for symbol in word:
            best += [symbol, BLANK]
        best += [SPACE, BLANK]
    logits = np.zeros((len(best), SYMBOLS))
    logits[np.arange(len(best)), best] = sure
    return (logits - np.log(np.exp(logits).sum(1, keepdims=True))).astype(np.float32)


def arrays(words: list[list[int]]) -> list[np.ndarray]:
    return [np.array(word, np.int32) for word in words]


def found(placement: Placement) -> list[int]:
    return [word.word for word in placement.words]


def best_score(log_probs: np.ndarray, symbols: list[int]) -> float:
    """Return ln p of the best path that reads as these symbols, of all paths."""
    scores = []
    for path in itertools.product(range(SYMBOLS), repeat=len(log_probs)):
        runs = [symbol for symbol, _ in itertools.groupby(path)]
        if [symbol for symbol in runs if symbol != BLANK] == symbols:
            scores.append(sum(log_probs[t, symbol] for t, symbol in enumerate(path)))
    return max(scores)


@pytest.mark.parametrize("symbols", [[2], [2, 3], [2, 2], [3, 2, 3], [4, 4, 4]])
@pytest.mark.parametrize("seed", range(3))
def test_the_path_of_a_word_is_the_best_of_all_paths(symbols, seed):
    log_probs = random_output(6, seed)
    placement = place(log_probs, arrays([symbols]), BLANK)
    [word] = placement.words
    margin = log_probs.max(1).sum() - best_score(log_probs, symbols)
    assert placement.margin == pytest.approx(margin, abs=1e-4)
    outside = np.ones(6, bool)
    outside[word.first : word.end] = False
    silent = (log_probs.max(1) - log_probs[:, BLANK])[outside].sum()
    assert word.margin + silent == pytest.approx(margin, abs=1e-4)
    assert [symbol.symbol for symbol in word.symbols] == symbols


def test_each_word_has_the_frames_in_which_it_is_heard():
    words = [[2, 3], [4], [5, 5, 2]]
    [first, second, third] = place(speak(words), arrays(words), SPACE).words
    assert [(s.symbol, s.first, s.end) for s in first.symbols] == [(2, 1, 2), (3, 3, 4)]
    assert (second.first, second.end) == (7, 8)
    assert (third.first, third.end) == (11, 16)
    assert max(first.margin, second.margin, third.margin) < 1e-3


def test_words_of_a_language_without_spaces_follow_one_another_without_a_gap():
    best = [2, 3, 4]
    log_probs = np.log(np.full((3, SYMBOLS), 0.01, np.float32) + 0.94 * np.eye(SYMBOLS, dtype=np.float32)[best])
    placement = place(log_probs, arrays([[2], [3], [4]]), BLANK)
    assert [(word.first, word.end) for word in placement.words] == [(0, 1), (1, 2), (2, 3)]


def test_a_word_that_is_hardly_heard_is_placed():
    placement = place(speak([[2, 3], [4, 5, 4, 5], [3, 3]]), arrays([[2, 3], [2, 2], [3, 3]]), SPACE)
    assert found(placement) == [0, 1, 2]
    assert placement.words[1].margin > 10


def test_frames_that_are_stored_in_part_give_the_same_path(monkeypatch):
    words = [[2, 3, 4], [5], [3, 3], [2, 4]] * 5
    log_probs = speak(words) + random_output(len(speak(words)), 0) / 4
    kept = [*words[:6], *words[8:]]  # two words have no place: others are stretched over them
    whole = place(log_probs, arrays(kept), SPACE)
    monkeypatch.setattr(forced, "WHOLE", 1)
    parts = place(log_probs, arrays(kept), SPACE)
    assert parts == whole


def test_memory_grows_with_the_root_of_the_frames():
    words = [[2, 3, 4, 5, 3, 2]] * 500
    log_probs = speak(words)
    tracemalloc.start()
    try:
        assert len(place(log_probs, arrays(words), SPACE).words) == 500
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < len(log_probs) * 6000 / 5  # a byte for each frame and state would be 6000 a frame


def test_a_text_that_is_longer_than_the_audio_is_refused():
    with pytest.raises(ValueError, match="needs 6 frames of the network, the audio has 5"):
        place(random_output(5, 0), arrays([[2, 2], [3, 4]]), SPACE)
    assert needed_frames(np.array([2, 2, 3, 3])) == 6


def test_no_text_has_the_margin_of_silence():
    assert place(speak([]), [], SPACE) == Placement([], 0.0)
    words, margin = place(speak([[2], [3]]), [], SPACE)
    assert words == []
    assert margin == pytest.approx(16.0, abs=1e-3)  # of each letter 8


def test_no_audio_has_no_words():
    assert place(np.zeros((0, SYMBOLS), np.float32), [], SPACE) == Placement([], 0.0)
    with pytest.raises(ValueError, match="needs 1 frames"):
        place(np.zeros((0, SYMBOLS), np.float32), arrays([[2]]), SPACE)
