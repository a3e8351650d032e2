"""What decodes, and how: the values of a recipe's `config.decode`, checked."""

import math
from dataclasses import dataclass

from input_pipeline.cores import usable_cores

ENGINES = ("auto", "greedy", "native", "pyctcdecode", "ctc_beam_decoder")
LEXICONS = ("strict", "open")
MOST = 1_000_000  # prefixes or symbols: more is a slip, which the engines' integers may not hold


@dataclass(frozen=True)
class BeamSettings:
    """What a recipe's `config.decode` says.

    lm: a KenLM model, binary or ARPA ('' for none). unigrams: its words, one a line ('' where they are read from the
    model). beam_size: prefixes that survive a frame. cutoff_prob and cutoff_top_n: a frame's most probable symbols up to
    this sum and number. threshold: prefixes whose score lies further below the best one's are dropped. lexicon: `strict`
    writes words (or characters, of a model of characters) of the language model only, `open` any, at unknown_score
    (natural log) for one it lacks.
    end_of_sentence: the model's </s> counts at the end. hot_words: 'word:weight, word:weight', a weight in natural logs
    added for each occurrence. nbest: hypotheses returned. threads: of the engine; 0 for one a core.
    Raises ValueError naming field, value and mend.
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

    def __post_init__(self):
        """Refuse values that no engine could work with."""
        self._require("engine", self.engine in ENGINES, f"choose one of {', '.join(ENGINES)}")
        self._require("lexicon", self.lexicon in LEXICONS, f"choose one of {', '.join(LEXICONS)}")
        for name in ("alpha", "beta", "unknown_score"):
            self._require(name, math.isfinite(getattr(self, name)), "give a finite number")
        self._require("alpha", self.alpha >= 0, "use 0 for a language model without weight, or more")
        self._require("unknown_score", self.unknown_score <= 0, "it is a natural logarithm: use 0 or less")
        self._require("beam_size", 1 <= self.beam_size <= MOST, f"use 1 to {MOST:,}; 100 is usual")
        self._require("cutoff_prob", 0 < self.cutoff_prob <= 1, "use a sum of probabilities above 0, at most 1")
        self._require("cutoff_top_n", 1 <= self.cutoff_top_n <= MOST, f"use 1 to {MOST:,} symbols; 40 is usual")
        self._require("threshold", self.threshold > 0, "use a distance above 0; 15 is usual")
        self._require("nbest", 1 <= self.nbest <= self.beam_size, f"use 1 to config.decode.beam_size={self.beam_size}")
        self._require("threads", self.threads >= 0, "use 0 for one a core, or their number")
        self.hot_word_weights()

    def _require(self, name: str, holds: bool, mend: str) -> None:
        if not holds:
            raise ValueError(f"config.decode.{name} is {getattr(self, name)!r}: {mend}")

    def hot_word_weights(self) -> dict[str, float]:
        """Return the hot words with their weights, natural logs. Raises ValueError for what is not 'word:weight'."""
        weights: dict[str, float] = {}
        for entry in filter(None, (part.strip() for part in self.hot_words.split(","))):
            word, colon, number = (part.strip() for part in entry.rpartition(":"))
            try:
                weight = float(number)
            except ValueError:
                weight = math.nan
            self._require(
                "hot_words", bool(colon and word) and math.isfinite(weight), f"write {entry!r} as word:weight"
            )
            self._require("hot_words", word not in weights, f"name {word!r} once")
            weights[word] = weight
        return weights

    @property
    def cores(self) -> int:
        """Threads to use."""
        return self.threads or usable_cores()
