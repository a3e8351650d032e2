"""The ranking of checkpoints: the leading rate, unless it is chance; then CER, then loss."""

import math

import pytest

from ds2_jax.artifacts.ranking import Score, best_step, leads_with_cer
from input_pipeline.text import Vocabulary


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (Score(0.30, 0.20, 9.0), Score(0.31, 0.10, 5.0)),  # the leading rate decides
        (Score(0.30, 0.10, 9.0), Score(0.30, 0.11, 5.0)),  # of equal ones, CER
        (Score(0.30, 0.10, 5.0), Score(0.30, 0.10, 6.0)),  # then the loss
        (Score(1.60, 0.80, 60.0), Score(1.00, 1.00, 90.0)),  # of rates that are chance, too
        (Score(0.99, 0.70, 60.0), Score(0.96, 0.75, 50.0)),
        (Score(1.60, 1.10, 60.0), Score(1.00, 0.97, 90.0)),
        (Score(0.94, 0.80, 60.0), Score(1.00, 0.70, 50.0)),
        (Score(1.00, 0.99, 60.0), Score(1.00)),  # of an earlier version, which stored the leading rate alone
        (Score(0.30), Score(0.31, 0.01, 0.1)),
        (Score(1.00, 0.80, 60.0), Score(1.00, 0.80, math.nan)),
    ],
)
def test_a_score_precedes_a_worse_one(better, worse):
    assert better.key < worse.key
    stored = [Score.from_json(score.to_json()) for score in (better, worse)]
    assert stored[0].key < stored[1].key


def test_the_first_of_equal_scores_on_the_latest_dev_set_is_the_best():
    measured = {
        2: {"error_rate": 0.1, "dev": "old"},
        4: {"error_rate": 1.0, "dev": "new"},
        6: {"error_rate": 1.2, "cer": 0.8, "loss": 50.0, "dev": "new"},
        8: {"error_rate": 1.1, "cer": 0.8, "loss": 50.0, "dev": "new"},
        10: None,
    }
    assert best_step(measured) == 6
    assert best_step({2: None, 4: None}) == 4


@pytest.mark.parametrize(
    ("language", "symbols", "expected"),
    [("zh", "你好", True), ("none", "あいア", True), ("none", "กข", True), ("en", " ab", False), ("none", "ab", False)],
)
def test_cer_leads_in_texts_without_spaces(language, symbols, expected):
    assert leads_with_cer(language, Vocabulary(tuple(symbols))) == expected
