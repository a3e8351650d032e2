"""The libraries pyctcdecode (Python) and ctc-beam-decoder (its fast twin in C++) as engines.

Both take alpha, beta and hot-word weights in natural logs and part words at spaces. A model of characters reaches them
only if each symbol is written as a word of its own, with the mark U+2581 before it.
"""

import importlib
import logging
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from decoding.hypothesis import BLANK, LEAST_PROBABILITY, Hypothesis, Word
from decoding.lm import model_file
from decoding.search.confidence import align
from input_pipeline.text import Vocabulary

if TYPE_CHECKING:
    from decoding.settings import BeamSettings

WORD_START = "\u2581"
LEAST_SYMBOL = -5.0  # ln p below which both skip a symbol of a frame; less makes them slow, and no better
LEAST_OF_SEVERAL = -10.0  # where more hypotheses than one are wanted: a sure network has no other symbols above -5
STRICT = -100.0  # log10, of a word that the model lacks: as good as forbidden, and never without any hypothesis
LOSSES = (
    "no strict lexicon (words that the language model lacks are made improbable, not impossible), </s> always counts, "
    "cutoff_prob and cutoff_top_n have no effect, one weight for all hot words, short N-best lists"
)
# Installed on request and without its dependencies: it asks for numpy below 2, but works with numpy 2.
PYCTCDECODE = ("pyctcdecode==0.5.0", "pygtrie~=2.5")
INSTALL = {
    "pyctcdecode": f"make pyctcdecode, or pip install --no-deps {' '.join(PYCTCDECODE)}",
    "ctc_beam_decoder": "pip install ctc-beam-decoder",
    "kenlm": "pip install ufal.kenlm",
}


def load(module: str) -> Any:
    """Import a library. Raises ValueError that says how to install it."""
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:  # OSError: a shared library of it is missing
        raise ValueError(
            f"the decoder needs {module}, which cannot be imported ({error}). Install it ({INSTALL[module]}), or choose "
            "another --config.decode.engine"
        ) from error


class LibraryEngine:
    """One of the two libraries behind `decoding.search.beam.Engine`; words are those of the language model, None without."""

    def __init__(
        self,
        name: str,
        vocabulary: Vocabulary,
        settings: "BeamSettings",
        frame_s: float,
        words: Sequence[str] | None,
    ):
        self.name = name
        self._vocabulary, self._settings, self._frame_s = vocabulary, settings, frame_s
        self._words = words
        self._spaced = " " in vocabulary.symbols
        self._hot_words, self._hot_weight = self._read_hot_words()
        self._library = load(name)
        if name == "pyctcdecode":
            logging.getLogger("pyctcdecode").setLevel(
                logging.ERROR
            )  # it warns of every vocabulary without blank or space
            if settings.lm:
                load("kenlm")
        self._decoder = self._build(settings.alpha, settings.beta)
        self._threads = ThreadPoolExecutor(settings.cores) if name == "ctc_beam_decoder" else None

    def _read_hot_words(self) -> tuple[list[str], float]:
        weights = self._settings.hot_word_weights()
        if len(set(weights.values())) > 1:
            raise ValueError(
                f"config.decode.hot_words: {self.name} knows one weight for all hot words, here are {sorted(set(weights.values()))}; "
                "give all the same, or choose --config.decode.engine=native"
            )
        long = [word for word in weights if len(word) > 1 or " " in word] if not self._spaced else []
        if long:
            raise ValueError(
                f"config.decode.hot_words: {self.name} takes single characters where the vocabulary has no space, not {long[0]!r}; "
                "choose --config.decode.engine=native"
            )
        return list(weights), next(iter(weights.values()), 0.0)

    def _build(self, alpha: float, beta: float) -> Any:
        symbols = self._vocabulary.symbols
        labels = ["", *symbols] if self._spaced else ["", *(WORD_START + symbol for symbol in symbols)]
        if not self._settings.lm:
            return self._library.build_ctcdecoder(labels)
        strict = self._settings.lexicon == "strict"
        try:
            return self._library.build_ctcdecoder(
                labels,
                kenlm_model_path=self._settings.lm,
                unigrams=list(self._words or ()),
                alpha=float(alpha),
                beta=float(beta),
                unk_score_offset=STRICT if strict else self._settings.unknown_score / math.log(10),
                lm_score_boundary=True,  # without it <s> is lost, too
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise ValueError(
                f"{self.name} cannot load config.decode.lm={self._settings.lm!r}: {model_file.kenlm_words(error)}; make it again "
                "(python -m decoding.lm train --help), or choose another file"
            ) from error

    def rescale(self, alpha: float, beta: float) -> None:
        """Set the weights; ctc_beam_decoder has no way to but to open the model again."""
        if self.name == "pyctcdecode":
            self._decoder.reset_params(alpha=alpha, beta=beta)
        else:
            self._decoder = self._build(alpha, beta)

    def decode_batch(self, log_probs: Sequence[np.ndarray]) -> list[list[Hypothesis]]:
        """Decode [U, K] arrays; ctc_beam_decoder in threads, as it releases the interpreter lock."""
        if self._threads is None:
            return [self._decode(rows) for rows in log_probs]
        return list(self._threads.map(self._decode, log_probs))

    def _decode(self, log_probs: np.ndarray) -> list[Hypothesis]:
        single = self._settings.nbest == 1
        found = self._decoder.decode_beams(
            log_probs,
            beam_width=self._settings.beam_size,
            beam_prune_logp=-self._settings.threshold,
            token_min_logp=LEAST_SYMBOL if single else LEAST_OF_SEVERAL,
            prune_history=single,  # as the libraries' own decode(): it costs variety only
            hotwords=self._hot_words,
            hotword_weight=self._hot_weight,
        )
        return [self._hypothesis(log_probs, frames, score) for _, _, frames, _, score in found[: self._settings.nbest]]

    def _hypothesis(
        self, log_probs: np.ndarray, frames: Sequence[tuple[str, tuple[int, int]]], score: float
    ) -> Hypothesis:
        """Place the words anew: a library's frames are those of the first of all the paths that it merged."""
        words, total, symbols, last = [], 0.0, 0, 0
        starts = [first for _, (first, _) in frames[1:]] + [len(log_probs)]
        for (text, (first, end)), following in zip(frames, starts, strict=False):  # without words there is one start
            found = align(log_probs, self._vocabulary.encode(text).tolist(), max(first, last), max(end, following))
            last = found.end
            confidence = math.exp(found.log_p / len(text))
            words.append(Word(text, found.first * self._frame_s, found.end * self._frame_s, confidence))
            total, symbols = total + found.log_p, symbols + len(text)
        if not words:
            total, symbols = float(np.maximum(log_probs[:, BLANK], math.log(LEAST_PROBABILITY)).sum()), len(log_probs)
        text = (" " if self._spaced else "").join(word.text for word in words)
        return Hypothesis(text, words, math.exp(total / symbols), float(score))
