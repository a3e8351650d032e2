"""Beam search behind one small interface: settings in, ranked hypotheses out, whatever the engine.

An engine is `greedy`, `native` (ours, C++), `pyctcdecode` or `ctc_beam_decoder`. All of them rank by

    ln p(text | audio) + alpha * ln p_LM(text) + beta * (number of units of the language model)

with natural logarithms: a published alpha of the original, whose language model counts in log10, becomes alpha / ln 10.
A unit is a word, or a character where the language model is one of characters.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from decoding.greedy import Hypothesis

ENGINES = ("auto", "greedy", "native", "pyctcdecode", "ctc_beam_decoder")
LEXICONS = ("strict", "open")


@dataclass(frozen=True)
class BeamSettings:
    """What a recipe's `config.decode` says.

    lm: a KenLM model, binary or ARPA ('' for none). unigrams: its words, one a line ('' where they are read from the
    model). beam_size: prefixes that survive a frame. cutoff_prob and cutoff_top_n: a frame's most probable symbols up to
    this sum and number. threshold: prefixes whose score lies further below the best one's are dropped. lexicon: `strict`
    writes words of the language model only, `open` any word, at unknown_score (natural log) for one it lacks.
    end_of_sentence: the model's </s> counts at the end. hot_words: 'word:weight, word:weight', a weight in natural logs
    added for each occurrence. nbest: hypotheses returned. threads: of the engine; 0 for one a core.
    """

    engine: str = "auto"
    lm: str = ""
    unigrams: str = ""
    alpha: float = 0.5
    beta: float = 1.0
    beam_size: int = 100
    cutoff_prob: float = 1.0
    cutoff_top_n: int = 40
    threshold: float = 15.0
    lexicon: str = "strict"
    unknown_score: float = -10.0
    end_of_sentence: bool = False
    hot_words: str = ""
    nbest: int = 1
    threads: int = 0


class Engine(Protocol):
    """Decodes batches of utterances; made once for a vocabulary and its settings."""

    name: str

    def decode_batch(self, log_probs: Sequence[np.ndarray]) -> list[list[Hypothesis]]:
        """Decode natural-log probabilities [U, K] f32 (blank 0), one array an utterance -> its hypotheses, best first."""
        ...

    def rescale(self, alpha: float, beta: float) -> None:
        """Change the weights of the language model, for tuning, without loading it again."""
        ...
