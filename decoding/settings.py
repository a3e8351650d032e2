"""Settings of decoding: the values of `config.decode`, validated."""

import math
import numbers
from dataclasses import dataclass, fields

from input_pipeline.cores import usable_cores

ENGINES = ("auto", "greedy", "native", "pyctcdecode", "ctc_beam_decoder")
LEXICONS = ("strict", "open")
MAX_COUNT = 1_000_000  # of prefixes or symbols: more is a mistake, and may overflow the engines' integers

TYPES: dict[object, tuple[type, str]] = {
    int: (numbers.Integral, "give a whole number"),
    float: (numbers.Real, "give a number"),
    bool: (bool, "use true or false"),
    str: (str, "give text"),
}


@dataclass(frozen=True)
class BeamSettings:
    """The values of `config.decode`.

    lm: a KenLM model, binary or ARPA ('' for none). unigrams: its words, one per line ('' to read them from the model).
    beam_size: prefixes kept after each frame. cutoff_prob, cutoff_top_n: only a frame's most probable symbols, up to this
    sum of probabilities and this number, are considered. threshold: prefixes whose score is further below the best one
    are dropped. lexicon: `strict` allows only words (or characters, in a character model) of the language model, `open`
    any, with unknown_score (natural log) for those it lacks. end_of_sentence: add the score of </s> at the end.
    hot_words: 'word:weight, word:weight', natural logs added for each occurrence. nbest: hypotheses returned. threads: of
    the engine, 0 for one per core. Raises ValueError naming field and value, with advice.
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
        """Raise ValueError for invalid values."""
        for field in fields(self):
            if field.type in TYPES:
                kind, advice = TYPES[field.type]
                value = getattr(self, field.name)
                self._require(field.name, isinstance(value, kind) and isinstance(value, bool) == (kind is bool), advice)
        self._require("engine", self.engine in ENGINES, f"choose one of {', '.join(ENGINES)}")
        self._require("lexicon", self.lexicon in LEXICONS, f"choose one of {', '.join(LEXICONS)}")
        for name in ("alpha", "beta", "unknown_score"):
            self._require(name, math.isfinite(getattr(self, name)), "give a finite number")
        self._require("alpha", self.alpha >= 0, "use 0 to ignore the language model, or more")
        self._require(
            "unknown_score", self.unknown_score <= 0, "use 0 or less: it is the natural logarithm of a probability"
        )
        self._require("beam_size", 1 <= self.beam_size <= MAX_COUNT, f"use 1 to {MAX_COUNT:,}; 100 is usual")
        self._require("cutoff_prob", 0 < self.cutoff_prob <= 1, "use a sum of probabilities above 0, and at most 1")
        self._require(
            "cutoff_top_n", 1 <= self.cutoff_top_n <= MAX_COUNT, f"use 1 to {MAX_COUNT:,} symbols; 40 is usual"
        )
        self._require("threshold", self.threshold > 0, "use a distance above 0; 15 is usual")
        self._require("nbest", 1 <= self.nbest <= self.beam_size, f"use 1 to config.decode.beam_size={self.beam_size}")
        self._require("threads", self.threads >= 0, "use 0 for one per core, or a number")
        self.hot_word_weights()

    def _require(self, name: str, valid: bool, advice: str) -> None:
        if not valid:
            raise ValueError(f"config.decode.{name} is {getattr(self, name)!r}: {advice}")

    def hot_word_weights(self) -> dict[str, float]:
        """Return hot words and their weights, natural logs. Raises ValueError for entries other than 'word:weight'."""
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
    def thread_count(self) -> int:
        """Return the number of threads to use."""
        return self.threads or usable_cores()
