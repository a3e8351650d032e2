"""Greedy decoding: text, word times and confidences, against the original's outputs and by hand."""

import numpy as np
import pytest

from decoding.search.greedy import GreedyStream, collapse, decode, decode_log_probs
from input_pipeline.text import Vocabulary

LETTERS = Vocabulary(("'", " ", "a", "b", "c", "d"))
FRAME_S = 0.03
EXACT = 1e-9  # the same float64 arithmetic in another order

# Probabilities of PaddlePaddle DeepSpeech's decoder tests, to three decimals, the blank in the last column as there.
ORIGINAL = {
    "ac'bdc": [
        [0.064, 0.211, 0.273, 0.069, 0.036, 0.182, 0.165],
        [0.033, 0.229, 0.244, 0.097, 0.319, 0.009, 0.069],
        [0.218, 0.200, 0.182, 0.085, 0.149, 0.084, 0.081],
        [0.121, 0.192, 0.015, 0.280, 0.242, 0.052, 0.098],
        [0.133, 0.006, 0.003, 0.217, 0.208, 0.413, 0.019],
        [0.165, 0.198, 0.191, 0.190, 0.199, 0.044, 0.015],
    ],
    "b'da": [
        [0.080, 0.227, 0.058, 0.368, 0.113, 0.045, 0.109],
        [0.097, 0.130, 0.094, 0.219, 0.151, 0.102, 0.206],
        [0.450, 0.091, 0.153, 0.079, 0.086, 0.123, 0.017],
        [0.025, 0.221, 0.197, 0.119, 0.078, 0.225, 0.135],
        [0.179, 0.061, 0.412, 0.117, 0.119, 0.071, 0.041],
        [0.159, 0.124, 0.234, 0.205, 0.003, 0.053, 0.223],
    ],
}


def ids_of(path: str, vocabulary: Vocabulary = LETTERS) -> np.ndarray:
    """Turn a path such as '_aa_b' into indices; '_' is the blank."""
    return np.array([0 if c == "_" else vocabulary.symbols.index(c) + 1 for c in path], np.int32)


def said(path: str, vocabulary: Vocabulary = LETTERS, probability: float = 0.5):
    return decode(ids_of(path, vocabulary), np.full(len(path), probability), vocabulary, FRAME_S)


@pytest.mark.parametrize("text", list(ORIGINAL))
def test_the_original_decodes_the_same(text):
    probabilities = np.roll(ORIGINAL[text], 1, axis=1)  # our blank is the first column
    assert decode_log_probs(np.log(probabilities), LETTERS, FRAME_S).text == text


@pytest.mark.parametrize(
    ("path", "runs"),
    [
        ("", []),
        ("___", []),
        ("a", [(3, 0, 1)]),
        ("aaa", [(3, 0, 3)]),
        ("_aa_ab_", [(3, 1, 3), (3, 4, 5), (4, 5, 6)]),
        ("ab__", [(3, 0, 1), (4, 1, 2)]),
    ],
)
def test_repeats_collapse_and_blanks_are_dropped(path, runs):
    assert collapse(ids_of(path)) == runs


def test_another_index_may_be_the_blank():
    assert collapse(np.array([6, 0, 0, 6, 0, 2]), blank=6) == [(0, 1, 3), (0, 4, 5), (2, 5, 6)]


def test_random_paths_agree_with_a_slow_collapse():
    rng = np.random.default_rng(3)
    for _ in range(50):
        ids = rng.integers(0, 4, size=rng.integers(0, 12))
        slow = [i for i, before in zip(ids.tolist(), [-1, *ids.tolist()], strict=False) if i not in (0, before)]
        assert [symbol for symbol, _, _ in collapse(ids)] == slow


def test_the_first_of_equal_symbols_wins():
    log_probs = np.log(np.full((2, LETTERS.size), 1 / LETTERS.size))
    log_probs[1, [3, 4]] = np.log(0.4)
    assert decode_log_probs(log_probs, LETTERS, FRAME_S).text == "a"


def test_words_have_times_from_first_symbol_to_end_of_last():
    found = said("_ab_b _c_'cc_")
    assert found.text == "abb c'c"
    assert [word.text for word in found.words] == ["abb", "c'c"]
    assert [word.start_s for word in found.words] == pytest.approx([1 * FRAME_S, 7 * FRAME_S])
    assert [word.end_s for word in found.words] == pytest.approx([5 * FRAME_S, 12 * FRAME_S])


@pytest.mark.parametrize("path", ["  ab_ _ c  ", "_ab c", " ab  __ c_"])
def test_text_is_the_words_whatever_spaces_are_around(path):
    found = said(path)
    assert found.text == "ab c"
    assert [word.text for word in found.words] == ["ab", "c"]


def test_each_character_is_a_word_where_there_is_no_space():
    mandarin = Vocabulary(tuple("你好世界"))
    found = said("_你你好_好", mandarin)
    assert found.text == "你好好"
    assert [word.text for word in found.words] == ["你", "好", "好"]
    assert [word.start_s for word in found.words] == pytest.approx([1 * FRAME_S, 3 * FRAME_S, 5 * FRAME_S])


def test_confidence_is_the_geometric_mean_of_the_best_frames():
    probabilities = np.array([0.99, 0.2, 0.8, 0.5, 0.4, 0.99, 0.9])
    found = decode(ids_of("_aab _c"), probabilities, LETTERS, FRAME_S)
    assert found.words[0].confidence == pytest.approx((0.8 * 0.5) ** 0.5, abs=EXACT)
    assert found.words[1].confidence == pytest.approx(0.9, abs=EXACT)
    assert found.confidence == pytest.approx((0.8 * 0.5 * 0.4 * 0.9) ** 0.25, abs=EXACT)


def test_silence_has_the_confidence_of_its_blanks():
    found = decode(ids_of("__"), np.array([0.9, 0.4]), LETTERS, FRAME_S)
    assert (found.text, found.words) == ("", [])
    assert found.confidence == pytest.approx(0.6, abs=EXACT)


@pytest.mark.parametrize("vocabulary", [LETTERS, Vocabulary(("你",))])
def test_no_frames_give_no_words_and_no_confidence(vocabulary):
    found = decode_log_probs(np.zeros((0, vocabulary.size)), vocabulary, FRAME_S)
    assert (found.text, found.words, found.confidence) == ("", [], 0.0)


def test_a_vanishing_probability_stays_finite():
    found = said("ab", probability=0.0)
    assert np.isfinite(found.confidence)
    assert found.confidence < 1e-20


def test_arrays_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"\[3\].*\[2\]"):
        decode(ids_of("abc"), np.ones(2), LETTERS, FRAME_S)
    with pytest.raises(ValueError, match=r"\[4, 6\].*\[U, 7\]"):
        decode_log_probs(np.zeros((4, 6)), LETTERS, FRAME_S)
    with pytest.raises(ValueError, match="1 to 6"):
        decode(np.array([7]), np.ones(1), LETTERS, FRAME_S)


@pytest.mark.parametrize("piece", [1, 3, 100])
def test_a_stream_equals_the_whole_and_its_settled_words_stay(piece):
    vocabulary = Vocabulary((" ", "a", "b"))
    for seed in range(10):
        logits = 3 * np.random.default_rng(seed).standard_normal((50, vocabulary.size))
        rows = (logits - np.log(np.exp(logits).sum(1, keepdims=True))).astype(np.float32)
        stream = GreedyStream(vocabulary, 0.03)
        settled: list[str] = []
        for start in range(0, len(rows), piece):
            stream.feed(rows[start : start + piece])
            words = [word.text for word in stream.partial().words]
            assert words[: len(settled)] == settled
            settled = words[: stream.settled()]
        assert stream.finish() == [decode_log_probs(rows, vocabulary, 0.03)]
        assert len(settled) >= len(stream.partial().words) - 1


def test_without_spaces_all_characters_of_a_stream_are_settled():
    vocabulary = Vocabulary(("你", "好"))
    stream = GreedyStream(vocabulary, 0.03)
    stream.feed(np.log(np.array([[0.1, 0.8, 0.1], [0.8, 0.1, 0.1], [0.1, 0.1, 0.8]], np.float32)))
    assert (stream.partial().text, stream.settled()) == ("你好", 2)
