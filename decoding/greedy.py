"""Greedy CTC decoding: the best symbol of each frame, repeats and blanks removed, with word times and confidences."""

from dataclasses import dataclass

import numpy as np

from input_pipeline.text import Vocabulary

BLANK = 0


@dataclass(frozen=True)
class Word:
    """A recognised word, from the first frame of its first symbol to the end of the last frame of its last one."""

    text: str
    start_s: float
    end_s: float
    confidence: float  # 0..1: geometric mean over its symbols of the symbol's highest frame probability


@dataclass(frozen=True)
class Hypothesis:
    """What was recognised in an utterance."""

    text: str
    words: list[Word]
    confidence: float  # geometric mean over all symbols, spaces included; 1 where nothing was recognised


@dataclass(frozen=True)
class _Run:
    """A symbol over neighbouring frames: first frame, one past the last, and its highest probability."""

    symbol: int
    first: int
    end: int
    probability: float


def decode(ids: np.ndarray, probabilities: np.ndarray, vocabulary: Vocabulary, frame_s: float) -> Hypothesis:
    """Collapse the best symbols ids [U] with their probabilities [U]; frame_s seconds lie between two frames.

    Words are parted at spaces; where the vocabulary has none (Mandarin), each character is a word.
    """
    runs = _collapse(np.asarray(ids), np.asarray(probabilities))
    text = vocabulary.decode(run.symbol for run in runs)
    has_space = " " in vocabulary.symbols
    groups: list[list[_Run]] = [[]]
    for run, character in zip(runs, text, strict=True):
        if has_space and character == " ":
            groups.append([])
        elif has_space:
            groups[-1].append(run)
        else:
            groups.append([run])
    words = [_word(group, vocabulary, frame_s) for group in groups if group]
    return Hypothesis(" ".join(text.split(" ")).strip() if has_space else text, words, _confidence(runs))


def decode_log_probs(log_probs: np.ndarray, vocabulary: Vocabulary, frame_s: float) -> Hypothesis:
    """Decode natural-log probabilities [U, K]; the first of equal symbols wins."""
    return decode(log_probs.argmax(-1), np.exp(log_probs.max(-1)), vocabulary, frame_s)


def _collapse(ids: np.ndarray, probabilities: np.ndarray) -> list[_Run]:
    if len(ids) == 0:
        return []
    starts = np.append(0, np.flatnonzero(ids[1:] != ids[:-1]) + 1)
    ends = np.append(starts[1:], len(ids))
    best = np.maximum.reduceat(probabilities, starts)
    return [
        _Run(int(ids[s]), int(s), int(e), float(p))
        for s, e, p in zip(starts, ends, best, strict=True)
        if ids[s] != BLANK
    ]


def _word(runs: list[_Run], vocabulary: Vocabulary, frame_s: float) -> Word:
    text = vocabulary.decode(run.symbol for run in runs)
    return Word(text, runs[0].first * frame_s, runs[-1].end * frame_s, _confidence(runs))


def _confidence(runs: list[_Run]) -> float:
    if not runs:
        return 1.0
    return float(np.exp(np.mean(np.log(np.maximum([run.probability for run in runs], 1e-30)))))
