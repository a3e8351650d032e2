"""The libraries pyctcdecode (Python) and ctc-beam-decoder (a faster version in C++) as engines.

Both take alpha, beta and hot-word weights in natural logs and separate words at spaces. To use a character model, each
symbol is passed as a word of its own, with the mark U+2581 before it.
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
MIN_SYMBOL_LOG_P = -5.0  # below which both skip a symbol; a lower limit makes them slower, but not more accurate
MIN_SYMBOL_LOG_P_NBEST = -10.0  # for several hypotheses: a confident network has only one symbol above -5
STRICT = -100.0  # log10, of words that the model lacks: practically excluded, but there is always a hypothesis
LOSSES = (
    "no strict lexicon (words that the language model lacks are improbable, not excluded), </s> is always scored, "
    "cutoff_prob and cutoff_top_n have no effect, one weight for all hot words, short n-best lists"
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
    """One of the two libraries as a `decoding.search.beam.Engine`; words: of the language model, None without one."""

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
        self._threads = ThreadPoolExecutor(settings.thread_count) if name == "ctc_beam_decoder" else None

    def _read_hot_words(self) -> tuple[list[str], float]:
        weights = self._settings.hot_word_weights()
        if len(set(weights.values())) > 1:
            raise ValueError(
                f"config.decode.hot_words: {self.name} has one weight for all hot words, not {sorted(set(weights.values()))}; give "
                "all the same weight, or choose --config.decode.engine=native"
            )
        long = [word for word in weights if len(word) > 1 or " " in word] if not self._spaced else []
        if long:
            raise ValueError(
                f"config.decode.hot_words: {self.name} takes single characters if the vocabulary has no space, not {long[0]!r}; "
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
                lm_score_boundary=True,  # without it, <s> is not scored either
            )
        except (OSError, RuntimeError, ValueError, MemoryError) as error:
            raise ValueError(
                f"{self.name} cannot load config.decode.lm={self._settings.lm!r}: {model_file.kenlm_message(error)}; train it "
                "again (python -m decoding.lm train --help), or choose another file"
            ) from error

    def rescale(self, alpha: float, beta: float) -> None:
        """Set the weights; for ctc_beam_decoder, the model has to be loaded again."""
        if self.name == "pyctcdecode":
            self._decoder.reset_params(alpha=alpha, beta=beta)
        else:
            self._decoder = self._build(alpha, beta)

    def decode_batch(self, log_probs: Sequence[np.ndarray]) -> list[list[Hypothesis]]:
        """Decode arrays [U, K]; ctc_beam_decoder in threads, as it releases the interpreter lock."""
        if self._threads is None:
            return [self._decode(rows) for rows in log_probs]
        return list(self._threads.map(self._decode, log_probs))

    def _decode(self, log_probs: np.ndarray) -> list[Hypothesis]:
        single = self._settings.nbest == 1
        beams = self._decoder.decode_beams(
            log_probs,
            beam_width=self._settings.beam_size,
            beam_prune_logp=-self._settings.threshold,
            token_min_logp=MIN_SYMBOL_LOG_P if single else MIN_SYMBOL_LOG_P_NBEST,
            prune_history=single,  # as in the libraries' decode(); it makes n-best lists less varied
            hotwords=self._hot_words,
            hotword_weight=self._hot_weight,
        )
        return [self._hypothesis(log_probs, frames, score) for _, _, frames, _, score in beams[: self._settings.nbest]]

    def _hypothesis(
        self, log_probs: np.ndarray, frames: Sequence[tuple[str, tuple[int, int]]], score: float
    ) -> Hypothesis:
        """Align the words again: a library returns the frames of only the first of the paths that it merged."""
        words, total, symbols, last = [], 0.0, 0, 0
        starts = [first for _, (first, _) in frames[1:]] + [len(log_probs)]
        for (text, (first, end)), following in zip(frames, starts, strict=False):  # without words there is one start
            aligned = align(log_probs, self._vocabulary.encode(text).tolist(), max(first, last), max(end, following))
            last = aligned.end
            confidence = math.exp(aligned.log_p / len(text))
            words.append(Word(text, aligned.first * self._frame_s, aligned.end * self._frame_s, confidence))
            total, symbols = total + aligned.log_p, symbols + len(text)
        if not words:
            total, symbols = float(np.maximum(log_probs[:, BLANK], math.log(LEAST_PROBABILITY)).sum()), len(log_probs)
        text = (" " if self._spaced else "").join(word.text for word in words)
        return Hypothesis(text, words, math.exp(total / symbols), float(score))
