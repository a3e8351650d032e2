"""The result of decoding: words with times and confidences."""

import dataclasses
from dataclasses import dataclass
from typing import Any

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


def as_json(result: Any) -> dict[str, Any]:
    """Return a hypothesis, or another dataclass with words, as JSON values, numbers rounded to four decimals."""
    return _round(dataclasses.asdict(result))


def _round(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _round(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_round(item) for item in value]
    return round(value, 4) if isinstance(value, float) else value
