"""CTC forced alignment in log space: the most probable path through the words of a text, all of them or some.

A word of n symbols is 2n states: the gap before it, its symbols, and blanks between them. In a gap, a frame may be a blank, a
space, or, at a price, any speech. A word may be left out, at a price. The time is O(T S) for T frames and S states; of long
texts, scores are stored every sqrt(T) frames and the rest is computed twice, so that memory is O(sqrt(T) S).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from decoding.hypothesis import BLANK

STAY, NEXT, JUMP, SKIP = range(4)  # how a state was reached: SKIP from the gap before, in the same frame
WHOLE = 1 << 24  # frames times states up to which all decisions are stored
HEARD = -1.0  # ln of silence against the best symbol, below which a frame in a gap is speech


@dataclass(frozen=True)
class Prices:
    """Natural logarithms that a path pays. other: for a symbol of speech that is not in the text.

    skip: for a word left out.
    """

    other: float = 5.0
    skip: float = 5.0


EXACT = Prices(math.inf, math.inf)  # every word was spoken, and nothing else


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
    """Words in order, and the frames [N] in gaps where the network is sure to hear something."""

    words: list[PlacedWord]
    other: np.ndarray


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


def place(log_probs: np.ndarray, words: Sequence[np.ndarray], space: int, prices: Prices) -> Placement:
    """Find the words of a text in the output of a network.

    log_probs: [T, K] natural logarithms. words: the symbols [n] of each, n > 0. space: the symbol between words, BLANK if
    there is none. Raises ValueError if all words must be found, and there are fewer frames than they need.
    """
    frames = len(log_probs)
    spaced = space != BLANK
    if math.isinf(prices.skip):
        _require_frames(words, frames, spaced=spaced)
    if not frames or not words:
        heard = ~np.isin(log_probs.argmax(1), (BLANK, space)) if frames else np.zeros(0, np.bool_)
        return Placement([], np.flatnonzero(heard))
    columns = np.unique(
        np.concatenate([[BLANK, space], *words])
    )  # a text of Mandarin has few of its thousands of symbols
    lattice = _Lattice([np.searchsorted(columns, word) for word in words], len(columns), spaced=spaced)
    best = log_probs.max(1)
    repeats = _repeats(log_probs.argmax(1))
    emissions = np.empty((frames, len(columns) + 1), np.float32)
    np.subtract(log_probs[:, columns], best[:, None], out=emissions[:, :-1])
    quiet = np.maximum(emissions[:, BLANK], emissions[:, np.searchsorted(columns, space)])
    emissions[:, -1] = np.maximum(quiet, np.where(repeats & math.isfinite(prices.other), 0.0, -prices.other))
    states = _best_path(emissions, lattice, prices.skip)
    other = (lattice.labels[states] == len(columns)) & (quiet < HEARD)
    placed = [
        word._replace(symbols=[symbol._replace(symbol=int(columns[symbol.symbol])) for symbol in word.symbols])
        for word in _read_path(states, emissions, best, lattice)
    ]
    return Placement(placed, _without_words(np.flatnonzero(other), placed, np.cumsum(~repeats)))


def _repeats(ids: np.ndarray) -> np.ndarray:
    """Return whether the best symbol of each frame, ids [T], is that of the frame before."""
    return np.concatenate([[False], ids[1:] == ids[:-1]])


def _without_words(other: np.ndarray, words: Sequence["PlacedWord"], runs: np.ndarray) -> np.ndarray:
    """Drop frames of other speech in which the best symbol goes on that a word has; runs [T]: the number of each frame's run."""
    taken = {int(runs[u]) for word in words for symbol in word.symbols for u in (symbol.first, symbol.end - 1)}
    return other[[int(runs[u]) not in taken for u in other]] if len(other) else other


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


def _best_path(emissions: np.ndarray, lattice: _Lattice, skip: float) -> np.ndarray:
    """Return the state [T] of each frame on the best path."""
    frames = len(emissions)
    block = frames if frames * lattice.states <= WHOLE else math.isqrt(frames) + 1
    forward = _Forward(emissions, lattice, skip)
    starts = list(range(0, frames, block))
    kept: list[np.ndarray] = []
    scores = forward.begin()
    for start in starts:
        kept.append((scores - scores.max()).astype(np.float32))
        if start + block < frames:
            scores = forward.run(scores, start, start + block)
    states = np.zeros(frames, np.int32)
    state = -1
    for start in reversed(starts):
        end = min(start + block, frames)
        decisions = np.empty((end - start, lattice.states), np.uint8)
        scores = forward.run(kept.pop().astype(np.float64), start, end, decisions)
        if state < 0:
            last = lattice.states - 1
            state = last if scores[last] >= scores[last - 1] else last - 1
        state = _trace(decisions, lattice, state, states[start:end])
    return states


def _trace(decisions: np.ndarray, lattice: _Lattice, state: int, states: np.ndarray) -> int:
    """Follow decisions [n, S] back from the state of the last frame; fill states [n], return the one before the first."""
    for t in range(len(decisions) - 1, -1, -1):
        while decisions[t, state] == SKIP:
            state = int(lattice.gaps[np.searchsorted(lattice.gaps, state) - 1])
        states[t] = state
        state -= int(decisions[t, state])
    return state


class _Forward:
    """Scores [S] of the best paths to each state, frame by frame."""

    def __init__(self, emissions: np.ndarray, lattice: _Lattice, skip: float):
        self._emissions, self._lattice = emissions, lattice
        # Leaving out words in a row is a running maximum of scores to which the prices so far are added.
        self._prices = None if math.isinf(skip) else skip * np.arange(len(lattice.gaps))

    def begin(self) -> np.ndarray:
        """Return the scores before the first frame: in the first gap."""
        scores = np.full(self._lattice.states, -np.inf)
        scores[0] = 0.0
        return scores

    def run(self, scores: np.ndarray, start: int, end: int, decisions: np.ndarray | None = None) -> np.ndarray:
        """Return the scores after frames start <= t < end; store how each state was reached in decisions [n, S]."""
        lattice = self._lattice
        padded = np.full(lattice.states + 2, -np.inf)
        stay, step, jump = padded[2:], padded[1:-1], padded[:-2]
        stay[:] = scores
        reached, jumped = np.empty_like(scores), np.empty_like(scores)
        for t in range(start, end):
            np.add(jump, lattice.jump, out=jumped)
            np.maximum(stay, step, out=reached)
            if decisions is not None:
                row = decisions[t - start]
                np.greater(step, stay, out=row.view(np.bool_))
                row[jumped > reached] = JUMP
            np.maximum(reached, jumped, out=reached)
            np.add(reached, self._emissions[t][lattice.labels], out=stay)
            if self._prices is not None:
                own = stay[lattice.gaps] + self._prices
                best = np.maximum.accumulate(own)
                stay[lattice.gaps] = best - self._prices
                if decisions is not None:
                    row[lattice.gaps[best > own]] = SKIP
        return stay.copy()


def _read_path(states: np.ndarray, emissions: np.ndarray, best: np.ndarray, lattice: _Lattice) -> list[PlacedWord]:
    """Return the words that a path visits."""
    labels = lattice.labels[states]
    path = emissions[np.arange(len(states)), labels].astype(np.float64)
    starts = np.append(0, np.flatnonzero(states[1:] != states[:-1]) + 1)
    ends = np.append(starts[1:], len(states))
    spoken = states[starts] % 2 == 1
    starts, ends = starts[spoken], ends[spoken]
    placed: dict[int, list[PlacedSymbol]] = {}
    for word, first, end in zip(lattice.word_of(states[starts]).tolist(), starts.tolist(), ends.tolist(), strict=True):
        log_p = float((path[first:end] + best[first:end]).max())
        placed.setdefault(word, []).append(PlacedSymbol(int(labels[first]), first, end, log_p))
    return [
        PlacedWord(word, symbols, max(0.0, -float(path[symbols[0].first : symbols[-1].end].sum())))
        for word, symbols in placed.items()
    ]
