"""The result of decoding: words with times and confidences."""

from dataclasses import dataclass

BLANK = 0
LEAST_PROBABILITY = 1e-30  # smaller ones count as this, so that logarithms are finite


@dataclass(frozen=True)
class Word:
    """A recognised word, from the start of its first symbol's first frame to the end of its last symbol's last frame."""

    text: str
    start_s: float
    end_s: float
    confidence: float  # 0..1: geometric mean over the symbols of each one's highest frame probability


@dataclass(frozen=True)
class Hypothesis:
    """A possible transcript of an utterance."""

    text: str
    words: list[Word]
    confidence: float  # as of a word, over all symbols including spaces; over the blank frames if there is no text
    score: float = 0.0  # by which the hypotheses of an utterance are ranked, natural log; greedy: of the best path
