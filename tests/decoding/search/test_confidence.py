"""The frames of a word's symbols: the best of all assignments, and how far its first and last symbol reach."""

import itertools

import numpy as np
import pytest

from decoding.search.confidence import align

U, K = 6, 4


def rows_of(best: str) -> np.ndarray:
    """Make log-probabilities [U, K] whose best symbol in each frame is the digit written, and distinctly so."""
    rows = np.full((len(best), K), 0.1)
    rows[np.arange(len(best)), [int(symbol) for symbol in best]] = 0.7
    return np.log(rows)


@pytest.mark.parametrize("symbols", [[1], [2, 1], [1, 1], [1, 2, 3], [3, 1, 3, 2]])
@pytest.mark.parametrize("seed", range(4))
def test_the_sum_is_the_greatest_of_all_assignments_in_order(symbols, seed):
    log_probs = np.log(np.random.default_rng(seed).dirichlet(np.ones(K), U)).astype(np.float32)
    for first, end in ((0, U), (1, U - 1)):
        choices = itertools.combinations(range(first, end), len(symbols))
        sums = {frames: float(log_probs[list(frames), symbols].astype(float).sum()) for frames in choices}
        found = align(log_probs, symbols, first, end)
        assert found.log_p == pytest.approx(max(sums.values()))
        best = max(sums, key=sums.__getitem__)
        assert first <= found.first <= best[0]
        assert best[-1] < found.end <= end


@pytest.mark.parametrize(
    ("best", "symbols", "peak", "first", "end"),
    [
        ("001200", [1, 2], 2, 2, 4),
        ("011220", [1, 2], 2, 1, 5),
        ("111222", [1, 2], 2, 0, 6),
        ("101202", [1, 2], 2, 2, 4),  # not over a frame of another symbol
        ("011110", [1], 3, 1, 5),
        ("001000", [1], 2, 2, 3),
        ("211113", [1], 4, 1, 5),
    ],
)
def test_a_word_reaches_over_the_frames_of_its_first_and_last_symbol(best, symbols, peak, first, end):
    log_probs = rows_of(best)
    log_probs[peak, symbols[0]] += 0.01  # the frame that is chosen for the first symbol
    found = align(log_probs, symbols, 0, len(best))
    assert (found.first, found.end) == (first, end)


def test_the_search_stays_between_its_limits():
    log_probs = rows_of("1" * U)
    for first, end in ((0, 1), (2, 4), (3, U), (0, U)):
        found = align(log_probs, [1], first, end)
        assert (found.first, found.end) == (first, end)


@pytest.mark.parametrize(
    ("limits", "widened"), [((0, 0), (0, 2)), ((3, 4), (3, 5)), ((U - 1, U), (U - 2, U)), ((U, U), (U - 2, U))]
)
def test_limits_too_near_for_the_symbols_are_extended(limits, widened):
    log_probs = rows_of("12" * (U // 2))
    found = align(log_probs, [3, 3], *limits)
    assert (found.first, found.end) == widened
    assert found.log_p == pytest.approx(2 * np.log(0.1))


def test_more_symbols_than_frames_have_the_best_frame_each():
    log_probs = rows_of("12")
    found = align(log_probs, [1, 2, 3], 0, 2)
    assert (found.first, found.end) == (0, 2)
    assert found.log_p == pytest.approx(2 * np.log(0.7) + np.log(0.1))
