"""Align the symbols of a recognised word to frames, for its times and confidence."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Alignment:
    """The frames first <= u < end of a word, and the sum of ln p of its symbols, each in a frame of its own."""

    first: int
    end: int
    log_p: float


def align(log_probs: np.ndarray, symbols: Sequence[int], first: int, end: int) -> Alignment:
    """Assign a frame to each symbol of a word, in order, such that the sum of ln p is greatest.

    log_probs: [U, K] natural logs. The word is searched in first <= u < end, extended if it has more symbols. Its ends
    are extended over neighbouring frames whose best symbol is its first or last one.
    """
    needed = len(symbols)
    end = min(max(end, first + needed), len(log_probs))
    first = max(0, min(first, end - needed))
    span = log_probs[first:end].astype(np.float64)
    if len(span) < needed:  # fewer frames than symbols
        return Alignment(first, end, float(span[:, list(symbols)].max(0).sum()))
    before = np.zeros(len(span))  # [u]: greatest sum of the symbols so far in frames before u
    sums = []
    for symbol in symbols:
        sums.append(before + span[:, symbol])
        before = np.concatenate([[-np.inf], np.maximum.accumulate(sums[-1])[:-1]])
    frames, limit = [], len(span)
    for totals in reversed(sums):
        frames.append(int(totals[:limit].argmax()))
        limit = frames[-1]
    best = span.argmax(1)
    start, stop = frames[-1], frames[0] + 1
    while start > 0 and best[start - 1] == symbols[0]:
        start -= 1
    while stop < len(span) and best[stop] == symbols[-1]:
        stop += 1
    return Alignment(first + start, first + stop, float(sums[-1].max()))
