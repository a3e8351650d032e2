"""Where a word lies that a beam search found, and how sure the network was of it: its symbols aligned to frames."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Alignment:
    """A word in its frames first <= u < end, and the sum of ln p of its symbols, each at a frame of its own."""

    first: int
    end: int
    log_p: float


def align(log_probs: np.ndarray, symbols: Sequence[int], first: int, end: int) -> Alignment:
    """Give each symbol of a word a frame, in order, so that the sum of ln p is largest.

    log_probs: [U, K] natural logs; the word is looked for in first <= u < end, in more where it has more symbols than that.
    The word reaches as far as its outer symbols are the frames' best ones.
    """
    needed = len(symbols)
    end = min(max(end, first + needed), len(log_probs))
    first = max(0, min(first, end - needed))
    span = log_probs[first:end].astype(np.float64)
    if len(span) < needed:  # repeats aside, such a word cannot be recognised
        return Alignment(first, end, float(span[:, list(symbols)].max(0).sum()))
    before = np.zeros(len(span))  # [u]: best sum of the symbols so far before frame u
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
