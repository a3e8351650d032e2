"""The model of a text prefers its order, sums to one in each context, and is read by KenLM."""

import math

import kenlm
import pytest

from decoding.alignment import text_model

TEXT = ["the", "cat", "saw", "the", "dog", "and", "the", "cat", "ran"]


@pytest.fixture
def model(tmp_path) -> kenlm.Model:
    text_model.write(tmp_path / "text.arpa", TEXT)
    return kenlm.Model(str(tmp_path / "text.arpa"))


def probability(model: kenlm.Model, words: str) -> float:
    """Return P(last word | the words before)."""
    scores = model.full_scores(words, bos=False, eos=False)
    return 10 ** list(scores)[-1][0]


def test_probabilities_follow_the_formula(model):
    assert probability(model, "cat") == pytest.approx(2 / 9, rel=1e-3)
    after_the = 0.5 * 2 / 3 + 0.5 * 2 / 9
    assert probability(model, "the cat") == pytest.approx(after_the, rel=1e-3)
    after_and_the = 0.5 + 0.5 * after_the
    assert probability(model, "and the cat") == pytest.approx(after_and_the, rel=1e-3)
    assert probability(model, "dog and the cat") == pytest.approx(0.5 + 0.5 * after_and_the, rel=1e-3)


@pytest.mark.parametrize("context", ["the", "saw the", "cat saw the", "dog cat", "ran", "ran the"])
def test_the_probabilities_of_a_context_sum_to_one(model, context):
    total = sum(probability(model, f"{context} {word}") for word in set(TEXT))
    assert math.isclose(total, 1.0, rel_tol=2e-3)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_text_of_few_words_has_a_model(tmp_path, count):
    text_model.write(tmp_path / "text.arpa", TEXT[:count])
    assert kenlm.Model(str(tmp_path / "text.arpa")).order == max(count, 2)
