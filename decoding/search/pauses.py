"""Pauses in the output of a network."""

from collections.abc import Sequence

import numpy as np


def widest_pause(log_probs: np.ndarray, quiet: Sequence[int]) -> int:
    """Return the middle of the longest run of quiet symbols, blank and space, in the second half of the output [n, K], n > 0."""
    half = len(log_probs) // 2
    spoken = np.flatnonzero(~np.isin(log_probs[half:].argmax(-1), quiet))
    edges = np.concatenate([[-1], spoken, [len(log_probs) - half]])
    widest = int(np.argmax(np.diff(edges)))
    return half + max(1, int(edges[widest] + edges[widest + 1]) // 2)
