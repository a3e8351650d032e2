"""CTC forced alignment in log space: the most probable path through the words of a text, each of which was spoken.

A word of n symbols is 2n states: the gap before it, its symbols, and blanks between them. In a gap, a frame is a blank or a
space. The time is O(T S) for T frames and S states; of long texts, scores are stored every sqrt(T) frames and the rest is
computed twice, so that memory is O(sqrt(T) S).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from decoding.hypothesis import BLANK

JUMP = 2  # states from a symbol to the next one, without the blank between
WHOLE = 1 << 24  # frames times states up to which all decisions are stored


class PlacedSymbol(NamedTuple):
    """A symbol of a word, its frames first <= u < end, and the greatest ln p in them."""

    symbol: int
    first: int
    end: int
    log_p: float


class PlacedWord(NamedTuple):
    """A word that was found.

    word: its index in the text. margin: ln, by which its path is less probable than the best one in its frames, 0 or more.
    """

    word: int
    symbols: list[PlacedSymbol]
    margin: float

    @property
    def first(self) -> int:
        """Its first frame."""
        return self.symbols[0].first

    @property
    def end(self) -> int:
        """One past its last frame."""
        return self.symbols[-1].end


class Placement(NamedTuple):
    """Words in order. margin: ln, by which the whole path is less probable than the best symbols of all frames, 0 or more."""

    words: list[PlacedWord]
    margin: float


class _Lattice:
    """The states of a text. Their labels are columns of the output; that of gaps follows the last one."""

    def __init__(self, words: Sequence[np.ndarray], gap: int, *, spaced: bool):
        lengths = np.array([len(word) for word in words], np.int64)
        self.states = 2 * int(lengths.sum()) + 1
        self.gaps = np.concatenate([[0], np.cumsum(2 * lengths)])
        self.labels = np.full(self.states, BLANK, np.int32)
        symbols = np.concatenate([np.zeros(0, np.int32), *words]).astype(np.int32)
        self.labels[1::2] = symbols
        self.labels[self.gaps] = gap
        before = np.concatenate([[-1], symbols[:-1]])
        allowed = symbols != before  # a blank separates equal symbols
        firsts = self.gaps[:-1] // 2
        allowed[firsts] &= not spaced  # words of a text with spaces have a gap between them
        if len(firsts):
            allowed[0] = False
        self.jump = np.full(self.states, -np.inf)
        self.jump[1::2] = np.where(allowed, 0.0, -np.inf)

    def word_of(self, states: np.ndarray) -> np.ndarray:
        """Return the word of each state [n]."""
        return np.searchsorted(self.gaps, states, side="right") - 1


def place(log_probs: np.ndarray, words: Sequence[np.ndarray], space: int) -> Placement:
    """Place all words of a text in the output of a network.

    log_probs: [T, K] natural logarithms. words: the symbols [n] of each, n > 0. space: the symbol between words, BLANK if
    there is none. Raises ValueError if there are fewer frames than the words need.
    """
    spaced = space != BLANK
    _require_frames(words, len(log_probs), spaced=spaced)
    if not len(log_probs):
        return Placement([], 0.0)
    columns = np.unique(
        np.concatenate([[BLANK, space], *words])
    )  # a text of Mandarin has few of its thousands of symbols
    lattice = _Lattice([np.searchsorted(columns, word) for word in words], len(columns), spaced=spaced)
    best = log_probs.max(1)
    emissions = np.empty((len(log_probs), len(columns) + 1), np.float32)
    np.subtract(log_probs[:, columns], best[:, None], out=emissions[:, :-1])
    emissions[:, -1] = np.maximum(emissions[:, BLANK], emissions[:, np.searchsorted(columns, space)])
    states = _best_path(emissions, lattice)
    path = emissions[np.arange(len(states)), lattice.labels[states]].astype(np.float64)
    placed = [
        word._replace(symbols=[symbol._replace(symbol=int(columns[symbol.symbol])) for symbol in word.symbols])
        for word in _read_path(states, path, best, lattice)
    ]
    return Placement(placed, max(0.0, -float(path.sum())))


def needed_frames(symbols: np.ndarray) -> int:
    """Return the frames that a word needs: one for each symbol, and a blank between equal ones."""
    return len(symbols) + int((symbols[1:] == symbols[:-1]).sum())


def _require_frames(words: Sequence[np.ndarray], frames: int, *, spaced: bool) -> None:
    if spaced:
        needed = sum(map(needed_frames, words)) + max(len(words) - 1, 0)
    else:
        needed = needed_frames(np.concatenate([np.zeros(0, np.int32), *words]))
    if needed > frames:
        raise ValueError(
            f"the text needs {needed} frames of the network, the audio has {frames}: check that they belong together"
        )


def _best_path(emissions: np.ndarray, lattice: _Lattice) -> np.ndarray:
    """Return the state [T] of each frame on the best path."""
    frames = len(emissions)
    block = frames if frames * lattice.states <= WHOLE else math.isqrt(frames) + 1
    starts = list(range(0, frames, block))
    kept: list[np.ndarray] = []
    scores = np.full(lattice.states, -np.inf)
    scores[0] = 0.0
    for start in starts:
        kept.append((scores - scores.max()).astype(np.float32))
        if start + block < frames:
            scores = _forward(emissions[start : start + block], lattice, scores)
    states = np.zeros(frames, np.int32)
    state = -1
    for start in reversed(starts):
        end = min(start + block, frames)
        decisions = np.empty((end - start, lattice.states), np.uint8)
        scores = _forward(emissions[start:end], lattice, kept.pop().astype(np.float64), decisions)
        if state < 0:
            last = lattice.states - 1
            state = last if scores[last] >= scores[last - 1] else last - 1
        for t in range(end - start - 1, -1, -1):
            states[start + t] = state
            state -= int(decisions[t, state])
    return states


def _forward(
    emissions: np.ndarray, lattice: _Lattice, scores: np.ndarray, decisions: np.ndarray | None = None
) -> np.ndarray:
    """Return the scores [S] of the best paths after frames [n]; store how many states each step went in decisions [n, S]."""
    padded = np.full(lattice.states + JUMP, -np.inf)
    stay, step, jump = padded[2:], padded[1:-1], padded[:-2]
    stay[:] = scores
    reached, jumped = np.empty_like(scores), np.empty_like(scores)
    for t, row in enumerate(emissions):
        np.add(jump, lattice.jump, out=jumped)
        np.maximum(stay, step, out=reached)
        if decisions is not None:
            np.greater(step, stay, out=decisions[t].view(np.bool_))
            decisions[t, jumped > reached] = JUMP
        np.maximum(reached, jumped, out=reached)
        np.add(reached, row[lattice.labels], out=stay)
    return stay.copy()


def _read_path(states: np.ndarray, path: np.ndarray, best: np.ndarray, lattice: _Lattice) -> list[PlacedWord]:
    """Return the words that a path visits; path: ln p of its symbols beside the best ones, [T], best: ln p of these."""
    starts = np.append(0, np.flatnonzero(states[1:] != states[:-1]) + 1)
    ends = np.append(starts[1:], len(states))
    spoken = states[starts] % 2 == 1
    starts, ends = starts[spoken], ends[spoken]
    placed: dict[int, list[PlacedSymbol]] = {}
    for word, first, end in zip(lattice.word_of(states[starts]).tolist(), starts.tolist(), ends.tolist(), strict=True):
        log_p = float((path[first:end] + best[first:end]).max())
        symbol = int(lattice.labels[states[first]])
        placed.setdefault(word, []).append(PlacedSymbol(symbol, first, end, log_p))
    return [
        PlacedWord(word, symbols, max(0.0, -float(path[symbols[0].first : symbols[-1].end].sum())))
        for word, symbols in placed.items()
    ]
