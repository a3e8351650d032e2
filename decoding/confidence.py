"""How sure the network was of a word that a beam search found: its symbols aligned to the frames it lies in."""

from collections.abc import Sequence

import numpy as np


def log_confidence(log_probs: np.ndarray, symbols: Sequence[int], first: int, end: int) -> float:
    """Sum ln p of a word's symbols, each at a frame of its own, in order, so that the sum is largest.

    log_probs: [U, K] natural logs; the word's frames are first <= u < end, more where it has more symbols than frames.
    """
    needed = len(symbols)
    end = min(max(end, first + needed), len(log_probs))
    first = max(0, min(first, end - needed))
    span = log_probs[first:end].astype(np.float64)
    if len(span) < needed:
        return float(span[:, list(symbols)].max(0).sum())
    best = np.zeros(len(span) + 1)  # best[u]: of the symbols so far within the first u frames
    for symbol in symbols:
        reached = np.maximum.accumulate(best[:-1] + span[:, symbol])
        best = np.concatenate([[-np.inf], reached])
    return float(best[-1])
