"""What was recognised: words with times and confidences."""

from dataclasses import dataclass

BLANK = 0
LEAST_PROBABILITY = 1e-30  # keeps the logarithm finite


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
    confidence: float  # as of a word, over all symbols, spaces included; of the blank frames where nothing was said
    score: float = 0.0  # what hypotheses of an utterance are ranked by, natural log; greedy: of its one path of symbols
