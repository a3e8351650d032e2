"""Rank checkpoints by what was measured on dev: error rates, then the loss."""

import math
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from input_pipeline.text import ScoringRules, Vocabulary

UNINFORMATIVE = 0.95  # error rate from which a network has recognised next to nothing, and the rate is chance
UNSPACED = ("CJK UNIFIED", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")  # scripts, as Unicode names begin


@dataclass(frozen=True)
class Score:
    """Result of an evaluation on dev; None: unknown, in checkpoints that only store the leading rate.

    error_rate: the leading rate, CER where texts are written without spaces, else WER. loss: mean -ln p(text).
    """

    error_rate: float
    cer: float | None = None
    loss: float | None = None

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Score":
        """Build a score from a checkpoint's metrics. Raises KeyError, TypeError or ValueError for anything else."""
        return cls(float(values["error_rate"]), values.get("cer"), values.get("loss"))

    def to_json(self) -> dict[str, float | None]:
        """Return plain JSON values, with None instead of a number that is not finite."""
        return {
            name: None if value is None or not math.isfinite(value) else value for name, value in asdict(self).items()
        }

    @property
    def key(self) -> tuple[float, float, float]:
        """A key that sorts scores, best first: by the leading rate, then CER, then loss.

        Rates of UNINFORMATIVE and above are equal: a network that writes nothing has 100 %, and one that has learnt more may
        have 160 %. What is unknown comes last.
        """
        cer, loss = (math.inf if value is None or math.isnan(value) else value for value in (self.cer, self.loss))
        return min(self.error_rate, UNINFORMATIVE), cer if self.cer is None else min(cer, UNINFORMATIVE), loss


def best_step(metrics: Mapping[int, Mapping[str, Any] | None]) -> int:
    """Return the step with the best score on the latest dev set, the first of equal ones; the latest step without scores.

    metrics: those stored with each checkpoint, by step; None if it was not measured.
    """
    measured = {step: values for step, values in metrics.items() if values}
    if not measured:
        return max(metrics)
    dev = measured[max(measured)].get("dev", "")
    candidates = [step for step, values in measured.items() if values.get("dev", dev) == dev]
    return min(candidates, key=lambda step: (*Score.from_json(measured[step]).key, step))


def leads_with_cer(language: str, vocabulary: Vocabulary) -> bool:
    """Return whether texts are written without spaces between words, so that CER, not WER, ranks a model."""
    if ScoringRules.for_language(language).remove_spaces:
        return True
    names = [unicodedata.name(symbol[0], "") for symbol in vocabulary.symbols]
    return " " not in vocabulary.symbols and any(name.startswith(UNSPACED) for name in names)
