"""A slow, readable prefix beam search with the native engine's scoring: what its tests compare with.

Nothing is anticipated and little is pruned, so with a wide beam both find the same texts with the same scores.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from decoding.settings import BeamSettings
from input_pipeline.text import Vocabulary

LN10 = math.log(10)  # KenLM counts in log10
IMPOSSIBLE = -math.inf
Prefix = tuple[int, ...]


@dataclass
class LanguageScorer:
    """Scores texts as `decoding.search.beam` says; `units` of the language model are words, or symbols without a space."""

    vocabulary: Vocabulary
    settings: BeamSettings
    words: Sequence[str] = ()
    model: Any = field(init=False, default=None)

    def __post_init__(self):
        """Open the model."""
        if self.settings.lm:
            import kenlm

            self.model = kenlm.Model(self.settings.lm)
        self.known = set(self.words)
        self.spaced = " " in self.vocabulary.symbols
        self.hot_words = self.settings.hot_word_weights()

    def units(self, prefix: Prefix, ended: bool) -> list[str]:
        """Return the finished units of a prefix: the last word counts where a space follows or the text has ended."""
        text = self.vocabulary.decode(prefix)
        if not self.spaced:
            return list(text)
        words = text.split(" ")
        return [word for word in (words if ended else words[:-1]) if word]

    def score(self, prefix: Prefix, ended: bool) -> float:
        """Return what language model and hot words add to the acoustic score."""
        units = self.units(prefix, ended)
        total = self._hot(units) if self.spaced else self._hot_symbols("".join(units))
        if self.model is None:
            return total
        import kenlm

        state, after = kenlm.State(), kenlm.State()
        self.model.BeginSentenceWrite(state)
        for unit in units:
            score = LN10 * self.model.BaseScore(state, unit, after)
            if unit not in self.model or (self.spaced and unit not in self.known):
                score += self.settings.unknown_score
            total += self.settings.alpha * score + self.settings.beta
            state, after = after, state
        if ended and self.settings.end_of_sentence:
            total += self.settings.alpha * LN10 * self.model.BaseScore(state, "</s>", after)
        return total

    def _hot(self, units: Sequence[str]) -> float:
        return sum(self.hot_words.get(unit, 0.0) for unit in units)

    def _hot_symbols(self, text: str) -> float:
        return sum(
            w * sum(text.endswith(word, 0, i + 1) for i in range(len(text))) for word, w in self.hot_words.items()
        )

    def is_allowed(self, prefix: Prefix, ended: bool) -> bool:
        """Tell whether words may stand there: no empty ones, in a strict lexicon those (or characters) of the model only."""
        if self.model is None:
            return True
        if not self.spaced:
            hot = "".join(self.hot_words)
            unknown = (c for c in self.vocabulary.decode(prefix) if c not in self.model and c not in hot)
            return self.settings.lexicon == "open" or not any(unknown)
        words = self.vocabulary.decode(prefix).split(" ")
        whole = words if ended and words[-1] else words[:-1]
        if "" in whole:
            return False
        if self.settings.lexicon == "open":
            return True
        lexicon = self.known | self.hot_words.keys()
        return lexicon.issuperset(whole) and any(word.startswith(words[-1]) for word in lexicon | {""})


def search(log_probs: np.ndarray, scorer: LanguageScorer, beam_size: int) -> list[tuple[str, float]]:
    """Return the texts of an utterance [U, K] with their scores, best first."""
    beam: dict[Prefix, tuple[float, float]] = {(): (0.0, IMPOSSIBLE)}  # ln p ending in blank, in the last symbol
    for frame in np.asarray(log_probs, np.float64):
        found: dict[Prefix, list[float]] = {}

        def add(prefix: Prefix, which: int, value: float, found=found) -> None:
            entry = found.setdefault(prefix, [IMPOSSIBLE, IMPOSSIBLE])
            entry[which] = np.logaddexp(entry[which], value)

        for prefix, (blank, label) in beam.items():
            both = np.logaddexp(blank, label)
            add(prefix, 0, both + frame[0])
            for symbol in range(1, len(frame)):
                repeated = bool(prefix) and prefix[-1] == symbol
                if repeated:
                    add(prefix, 1, label + frame[symbol])
                longer = (*prefix, symbol)
                if scorer.is_allowed(longer, ended=False):
                    add(longer, 1, (blank if repeated else both) + frame[symbol])
        ranked = sorted(found, key=lambda p: -(np.logaddexp(found[p][0], found[p][1]) + scorer.score(p, ended=False)))
        beam = {prefix: (found[prefix][0], found[prefix][1]) for prefix in ranked[:beam_size]}
    best: dict[str, float] = {}
    for prefix, scores in beam.items():
        if scorer.is_allowed(prefix, ended=True):
            text = scorer.vocabulary.decode(prefix)
            text = text.removesuffix(" ") if scorer.model is not None else text
            total = float(np.logaddexp(*scores)) + scorer.score(prefix, ended=True)
            best[text] = max(best.get(text, IMPOSSIBLE), total)
    return sorted(best.items(), key=lambda item: -item[1])
