"""Greedy CTC decoding: the best symbol of each frame, with repeats and blanks removed; word times and confidences."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from decoding.hypothesis import BLANK, LEAST_PROBABILITY, Hypothesis, Word
from input_pipeline.text import Vocabulary


@dataclass(frozen=True)
class _Symbol:
    """A recognised character, its frames first <= u < end, and its highest probability in them."""

    text: str
    first: int
    end: int
    probability: float


def collapse(ids: np.ndarray, blank: int = BLANK) -> list[tuple[int, int, int]]:
    """Merge repeats in ids [U] and drop blanks; return symbol, first frame and one past the last frame of each run."""
    ids = np.asarray(ids)
    if len(ids) == 0:
        return []
    starts = np.append(0, np.flatnonzero(ids[1:] != ids[:-1]) + 1)
    ends = np.append(starts[1:], len(ids))
    spoken = ids[starts] != blank
    return list(zip(ids[starts][spoken].tolist(), starts[spoken].tolist(), ends[spoken].tolist(), strict=True))


def decode(ids: np.ndarray, probabilities: np.ndarray, vocabulary: Vocabulary, frame_s: float) -> Hypothesis:
    """Decode the best symbols ids [U] with their probabilities [U]; frame_s: seconds from one frame to the next.

    Words are separated by spaces; if the vocabulary has none (Mandarin), each character is a word. Raises ValueError.
    """
    ids, probabilities = np.asarray(ids), np.asarray(probabilities, np.float64)
    if ids.ndim != 1 or ids.shape != probabilities.shape:
        raise ValueError(f"symbols {list(ids.shape)} and probabilities {list(probabilities.shape)} must both be [U]")
    symbols = [
        _Symbol(vocabulary.decode([symbol]), first, end, probabilities[first:end].max())
        for symbol, first, end in collapse(ids)
    ]
    spaced = " " in vocabulary.symbols
    words = [
        Word(
            "".join(symbol.text for symbol in group),
            group[0].first * frame_s,
            group[-1].end * frame_s,
            _geometric_mean([symbol.probability for symbol in group]),
        )
        for group in (_split_at_spaces(symbols) if spaced else [[symbol] for symbol in symbols])
    ]
    sure = [symbol.probability for symbol in symbols] or probabilities
    text = (" " if spaced else "").join(word.text for word in words)
    score = float(np.log(np.maximum(probabilities, LEAST_PROBABILITY)).sum())
    return Hypothesis(text, words, _geometric_mean(sure), score)


def decode_log_probs(log_probs: np.ndarray, vocabulary: Vocabulary, frame_s: float) -> Hypothesis:
    """Decode natural-log probabilities [U, K]; of equally probable symbols, the first wins. Raises ValueError."""
    log_probs = np.asarray(log_probs)
    if log_probs.ndim != 2 or log_probs.shape[1] != vocabulary.size:
        raise ValueError(
            f"log probabilities have shape {list(log_probs.shape)}; the vocabulary requires [U, {vocabulary.size}]"
        )
    return decode(log_probs.argmax(-1), np.exp(log_probs.max(-1)), vocabulary, frame_s)


class GreedyStream:
    """An utterance that arrives in pieces."""

    def __init__(self, vocabulary: Vocabulary, frame_s: float):
        self._vocabulary, self._frame_s = vocabulary, frame_s
        self._ids = np.zeros(0, np.int64)
        self._probabilities = np.zeros(0, np.float64)

    def feed(self, log_probs: np.ndarray) -> None:
        """Process the next frames, natural-log probabilities [n, K]."""
        self._ids = np.append(self._ids, log_probs.argmax(-1))
        self._probabilities = np.append(self._probabilities, np.exp(log_probs.max(-1)))

    def partial(self) -> Hypothesis:
        """Return the text so far; its last word may be incomplete."""
        return decode(self._ids, self._probabilities, self._vocabulary, self._frame_s)

    def settle(self, margin: float, age: int) -> None:
        """Do nothing: there is one prefix."""

    def settled(self) -> int:
        """Return the number of words of `partial` that no further frame will change."""
        runs = collapse(self._ids)
        words = len(self.partial().words)
        if " " not in self._vocabulary.symbols or (runs and self._vocabulary.decode([runs[-1][0]]) == " "):
            return words
        return max(words - 1, 0)

    def finish(self) -> list[Hypothesis]:
        """Return the one hypothesis of the whole utterance."""
        return [self.partial()]


def _split_at_spaces(symbols: Sequence[_Symbol]) -> list[list[_Symbol]]:
    groups: list[list[_Symbol]] = [[]]
    for symbol in symbols:
        if symbol.text == " ":
            groups.append([])
        else:
            groups[-1].append(symbol)
    return [group for group in groups if group]


def _geometric_mean(probabilities: Sequence[float] | np.ndarray) -> float:
    """Return the geometric mean, 0 for no probabilities."""
    if len(probabilities) == 0:
        return 0.0
    return float(np.exp(np.mean(np.log(np.maximum(probabilities, LEAST_PROBABILITY)))))
