"""Error rates: the original's cases, alignments against a slow reference, intervals, and sums over a corpus."""

import json
import math
import statistics
import tracemalloc

import numpy as np
import pytest

from decoding.scoring.error_rate import Counts, align, bootstrap_interval, cer, char_errors, summarise, wer, word_errors
from input_pipeline.text import ScoringRules

ENGLISH = ScoringRules.for_language("en")
MANDARIN = ScoringRules.for_language("zh")
EXACT = 1e-12  # one division of integers
MONTE_CARLO = 0.1  # relative: quantiles of 1,000 resamples


def letters(count: int) -> str:
    return " ".join(chr(ord("a") + i // 26) + chr(ord("a") + i % 26) for i in range(count))


# Rates of the original's test cases, on sentences of the same lengths and kinds of error.
@pytest.mark.parametrize(
    ("reference", "hypothesis", "counts"),
    [
        ("a b c d e f g h i j k l m", "a 1 2 3 4 5 6 h j 7 8 9 k l m", Counts(6, 1, 3, 13)),
        (
            "she walked to the farmhouse and sat down by the wide window of the kitchen",
            "she walked to the farm house and sat down by the wide window of the kitchen",
            Counts(1, 0, 1, 15),
        ),
        (letters(26), "0 1 2 3 4 5 x " + " ".join(letters(26).split()[6:]), Counts(6, 0, 1, 26)),
        (
            "the kettle boiled over slowly upon the old iron stove and it hissed so softly",
            "the kettle boil over slowly upon an old iron stove and his hiss so softly",
            Counts(4, 0, 0, 15),
        ),
        (letters(37), letters(37).replace("bb", "in"), Counts(1, 0, 0, 37)),
        (letters(13), letters(13), Counts(0, 0, 0, 13)),
    ],
)
def test_word_errors_are_counted_by_kind(reference, hypothesis, counts):
    found = word_errors(reference, hypothesis)
    assert (found.errors, found.reference) == (counts.errors, counts.reference)
    assert found.insertions - found.deletions == counts.insertions - counts.deletions
    assert wer(reference, hypothesis) == pytest.approx(counts.errors / counts.reference, abs=EXACT)


@pytest.mark.parametrize(
    ("reference", "hypothesis", "remove_space", "rate"),
    [
        ("werewolf", "weae  wolf", False, 0.25),
        ("werewolf", "weae  wolf", True, 0.125),
        ("were wolf", " were  wolf ", False, 0.0),
        ("werewolf", "werewolf", False, 0.0),
        ("我是中国人", "我是 美洲人", False, 0.6),
        ("我 是 中 国 人", "我 是 美 洲 人", True, 0.4),
        ("我是中国人", "我是中国人", False, 0.0),
        ("abcd", "", False, 1.0),
        ("ab", "xxxxxx", False, 3.0),
    ],
)
def test_character_error_rates_of_the_original(reference, hypothesis, remove_space, rate):
    assert cer(reference, hypothesis, remove_space=remove_space) == pytest.approx(rate, abs=EXACT)


def test_options_of_the_original():
    assert word_errors("Hello World", "hello  world") == Counts(2, 0, 0, 2)
    assert word_errors("Hello World", "hello  world", ignore_case=True) == Counts(0, 0, 0, 2)
    assert word_errors("a|b||c d", "a|c d", delimiter="|") == Counts(0, 1, 0, 3)
    assert char_errors("Ab c", "aB c") == Counts(2, 0, 0, 4)
    assert char_errors("Ab c", "aB c", ignore_case=True, remove_space=True) == Counts(0, 0, 0, 3)


@pytest.mark.parametrize("blank", ["", " ", "   "])
def test_an_empty_reference_has_counts_but_no_rate(blank):
    assert word_errors(blank, "two words") == Counts(0, 0, 2, 0)
    assert char_errors(blank, "word") == Counts(0, 0, 4, 0)
    for rate in (wer, cer):
        with pytest.raises(ValueError, match="reference is empty"):
            rate(blank, "two words")


def slow_distance(a: list[str], b: list[str]) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


def test_alignments_are_shortest_and_hold_both_sequences():
    rng = np.random.default_rng(5)
    for _ in range(200):
        a, b = (rng.choice(list("xyz"), size=rng.integers(0, 9)).tolist() for _ in range(2))
        steps = align(a, b)
        assert [old for _, old, _ in steps if old is not None] == a
        assert [new for _, _, new in steps if new is not None] == b
        assert (
            sum(op != "equal" for op, _, _ in steps)
            == slow_distance(a, b)
            == word_errors(" ".join(a), " ".join(b)).errors
        )
        assert all((old == new) == (op == "equal") for op, old, new in steps)


def test_an_alignment_names_each_kind():
    reference, hypothesis = "the old cat sat on it", "the cat sat in it now"
    assert align(reference.split(), hypothesis.split()) == [
        ("equal", "the", "the"),
        ("delete", "old", None),
        ("equal", "cat", "cat"),
        ("equal", "sat", "sat"),
        ("substitute", "on", "in"),
        ("equal", "it", "it"),
        ("insert", None, "now"),
    ]
    assert align([], []) == []


def test_the_interval_of_equal_utterances_is_a_point():
    assert bootstrap_interval([Counts(1, 1, 0, 8)] * 20) == (0.25, 0.25)


@pytest.mark.parametrize("level", [0.5, 0.8, 0.95])
def test_the_interval_is_that_of_the_normal_distribution_for_many_utterances(level):
    errors = np.random.default_rng(7).random(2000) < 0.2
    low, high = bootstrap_interval([Counts(int(e), 0, 0, 1) for e in errors], level=level)
    rate = errors.mean()
    half = statistics.NormalDist().inv_cdf((1 + level) / 2) * math.sqrt(rate * (1 - rate) / len(errors))
    assert low == pytest.approx(rate - half, abs=MONTE_CARLO * half)
    assert high == pytest.approx(rate + half, abs=MONTE_CARLO * half)


def test_the_interval_weighs_utterances_by_length():
    counts = [Counts(0, 0, 0, 1000), *[Counts(1, 0, 0, 1)] * 9]
    low, high = bootstrap_interval(counts, resamples=500)
    assert low < 0.005  # a mean of rates would be near 0.9
    assert high == 1.0  # one resample in three misses the long utterance


def test_the_interval_repeats_by_seed_and_widens_by_level():
    counts = [Counts(i % 3, 0, 0, 3 + i) for i in range(30)]
    assert bootstrap_interval(counts, seed=1) == bootstrap_interval(counts, seed=1)
    assert bootstrap_interval(counts, seed=1) != bootstrap_interval(counts, seed=2)
    narrow, wide = (bootstrap_interval(counts, level=level) for level in (0.5, 0.99))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_resampling_a_large_corpus_takes_little_memory():
    counts = [Counts(i % 2, 0, 0, 5) for i in range(50_000)]
    tracemalloc.start()
    bootstrap_interval(counts, resamples=100)  # 5 million draws
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30 << 20


def test_resamples_without_reference_have_no_rate():
    assert bootstrap_interval([Counts(1, 0, 0, 2), Counts(0, 0, 0, 0)]) == (0.5, 0.5)
    for nothing in ([], [Counts(0, 0, 3, 0)]):
        with pytest.raises(ValueError, match="all references are empty"):
            bootstrap_interval(nothing)


def test_a_corpus_rate_is_the_sum_of_errors_over_the_sum_of_lengths():
    result = summarise(["a b c d e f g h i", "x"], ["a b c d e f g h i", "y"], rules=ENGLISH)
    assert result.words == Counts(1, 0, 0, 10)
    assert result.words.rate == pytest.approx(0.1, abs=EXACT)
    assert result.characters == Counts(1, 0, 0, 18)
    assert result.word_interval[0] <= 0.1 <= result.word_interval[1]


def test_scoring_rules_apply_to_both_sides():
    assert summarise(["Don’t, STOP!"], ["don't stop"], rules=ENGLISH).words == Counts(0, 0, 0, 2)
    assert summarise(["Don’t, STOP!"], ["don't stop"], rules=ScoringRules.for_language("none")).words.errors == 2


def test_mandarin_characters_are_compared_without_spaces_and_words_as_they_stand():
    result = summarise(["我 是 中国人，", "好"], ["我是 美国人", "好"], rules=MANDARIN)
    assert result.characters == Counts(1, 0, 0, 6)
    assert (result.words.reference, result.words.errors) == (4, 3)


def test_speakers_and_utterances_have_their_own_counts():
    result = summarise(
        ["a b", "c d", "e"], ["a b", "c x", "e e"], rules=ENGLISH, speakers=["me", "he", "me"], names=["1", "2", "3"]
    )
    assert list(result.speakers) == ["he", "me"]
    assert result.speakers["me"][0] == Counts(0, 0, 1, 3)
    assert result.speakers["me"][1] == Counts(0, 0, 2, 4)  # a space, and a letter
    assert result.speakers["he"] == (Counts(1, 0, 0, 2), Counts(1, 0, 0, 3))
    assert [words.errors for words, _ in result.utterances] == [0, 1, 1]
    assert sum((words for words, _ in result.speakers.values()), Counts()) == result.words


def test_empty_references_count_their_insertions_only():
    result = summarise(["", "a b", "?!"], ["oh no", "a b", ""], rules=ENGLISH, speakers=["x", "y", "x"])
    assert result.words == Counts(0, 0, 2, 2)
    assert result.empty_references == 2
    assert all(math.isfinite(bound) for bound in result.word_interval)


@pytest.mark.parametrize("references", [["", " ", "."], []])
def test_a_corpus_without_reference_is_refused(references):
    with pytest.raises(ValueError, match="all references are empty"):
        summarise(references, ["x"] * len(references), rules=ENGLISH)


def test_lists_of_different_length_are_refused():
    for hypotheses, given in ((["a"], {}), (["a", "b"], {"speakers": ["x"]}), (["a", "b"], {"names": ["x"] * 3})):
        with pytest.raises(ValueError, match=r"2 references but [13]"):
            summarise(["a", "b"], hypotheses, rules=ENGLISH, **given)


def test_the_result_is_ready_for_json():
    figures = summarise(["a b c", "d"], ["a x", "d e"], rules=ENGLISH).as_dict()
    assert json.loads(json.dumps(figures)) == figures
    counted = ["utterances", "words", "substitutions", "deletions", "insertions"]
    assert [figures[name] for name in counted] == [2, 4, 1, 1, 1]
    assert figures["wer"] == 0.75
    assert figures["wer_interval"][0] <= figures["wer"] <= figures["wer_interval"][1]
    assert figures["cer_interval"][0] <= figures["cer"] <= figures["cer_interval"][1]
    assert figures["characters"] == 6
    assert figures["scoring"] == ENGLISH.describe()
