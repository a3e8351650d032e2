"""The native engine: prefix beam search in C++ (search.hh) with a lexicon, look-ahead and memory-mapped KenLM models."""

import importlib
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from decoding.hypothesis import BLANK, LEAST_PROBABILITY, Hypothesis, Word
from decoding.lm import model_file
from decoding.settings import BeamSettings
from input_pipeline.text import Vocabulary

RawHypothesis = tuple[list[int], list[int], list[float], float]  # symbols, their frames, their ln p, score


def available() -> bool:
    """Tell whether the extension module is built (`python -m decoding.native.build`) and can be imported."""
    try:
        _extension()
    except ImportError:
        return False
    return True


def _extension() -> Any:
    return importlib.import_module("decoding.native._native")


class NativeEngine:
    """The engine for one vocabulary; threads share it and its memory-mapped model.

    If the vocabulary has a space, the output consists of words: of the language model (lexicon `strict`), or any
    (`open`). Without a space (Mandarin), every symbol is a unit of the language model. Without a language model, any text
    is possible.
    """

    name = "native"

    def __init__(self, vocabulary: Vocabulary, settings: BeamSettings, frame_s: float):
        symbols = list(vocabulary.symbols)
        self._symbols, self._settings, self._frame_s = ["", *symbols], settings, frame_s
        self._space = symbols.index(" ") + 1 if " " in symbols else -1
        hot_words = settings.hot_word_weights()
        words: list[str] = []
        if settings.lm and self._space > 0:
            known = model_file.read_words(settings.lm, settings.unigrams)
            hot = [word for phrase in hot_words for word in phrase.split()]
            words = [*known, *hot]  # hot words are allowed even if the model lacks them, as unknown words
        options = {
            "alpha": settings.alpha,
            "beta": settings.beta,
            "beam_size": settings.beam_size,
            "cutoff_prob": settings.cutoff_prob,
            "cutoff_top_n": settings.cutoff_top_n,
            "threshold": settings.threshold,
            "strict": settings.lexicon == "strict",
            "unknown_score": settings.unknown_score,
            "end_of_sentence": settings.end_of_sentence,
            "recombine": bool(settings.lm) and settings.nbest == 1 and not hot_words,
        }
        try:
            self._decoder = _extension().Decoder(
                symbols, self._space, settings.lm, words, list(hot_words.items()), options
            )
        except (RuntimeError, OSError, MemoryError) as error:
            raise ValueError(
                f"KenLM cannot load config.decode.lm={settings.lm!r}: {model_file.kenlm_message(error)}. It may be "
                "truncated, or built for another kind of machine; train it again (python -m decoding.lm train --help), or "
                "choose another file"
            ) from error

    def rescale(self, alpha: float, beta: float) -> None:
        """Set the weights of the language model."""
        self._decoder.rescale(alpha, beta)

    def decode_batch(self, log_probs: Sequence[np.ndarray]) -> list[list[Hypothesis]]:
        """Decode arrays [U, K] in `config.decode.threads` threads, without holding the interpreter lock."""
        decoded = self._decoder.decode(list(log_probs), nbest=self._settings.nbest, threads=self._settings.thread_count)
        return [
            [self._hypothesis(raw, rows[:, BLANK]) for raw in candidates]
            for rows, candidates in zip(log_probs, decoded, strict=True)
        ]

    def stream(self) -> "NativeStream":
        """Start an utterance whose frames arrive in pieces."""
        return NativeStream(self)

    def _hypothesis(self, raw: RawHypothesis, blank: np.ndarray) -> Hypothesis:
        """Group symbols into words, each from the most probable frame of its first symbol to that of its last one.

        blank [U]: ln p of the blank, which gives the confidence of an empty text.
        """
        symbols, frames, log_ps, score = raw
        words: list[Word] = []
        begin = 0
        for i in range(len(symbols) + 1):
            at_end = i == len(symbols) or symbols[i] == self._space
            if at_end and i > begin:
                words.append(self._word(symbols, frames, log_ps, begin, i))
            if at_end:
                begin = i + 1
            elif self._space < 0:
                words.append(self._word(symbols, frames, log_ps, i, i + 1))
                begin = i + 1
        text = (" " if self._space > 0 else "").join(word.text for word in words)
        if log_ps:
            confidence = math.exp(sum(log_ps) / len(log_ps))
        elif len(blank):
            confidence = math.exp(np.maximum(blank, math.log(LEAST_PROBABILITY)).mean())
        else:
            confidence = 0.0
        return Hypothesis(text, words, confidence, score)

    def _word(self, symbols: list[int], frames: list[int], log_ps: list[float], begin: int, end: int) -> Word:
        return Word(
            "".join(self._symbols[symbol] for symbol in symbols[begin:end]),
            frames[begin] * self._frame_s,
            (frames[end - 1] + 1) * self._frame_s,
            math.exp(sum(log_ps[begin:end]) / (end - begin)),
        )


class NativeStream:
    """An utterance that arrives in pieces; the engine's weights must not change meanwhile."""

    def __init__(self, engine: NativeEngine):
        self._engine = engine
        self._stream = _extension().Stream(engine._decoder)
        self._blank = [np.zeros(0, np.float32)]  # of each piece

    def feed(self, log_probs: np.ndarray) -> None:
        """Process the next frames, natural-log probabilities [n, K]."""
        self._stream.feed(log_probs)
        self._blank.append(log_probs[:, BLANK].copy())  # a view would keep the whole piece in memory

    def partial(self) -> Hypothesis:
        """Return the best prefix so far; its last word may be unfinished."""
        return self._best(1, ended=False)[0]

    def settle(self, margin: float, age: int) -> None:
        """Drop prefixes that are `margin` (ln) below the best one and differ from it in symbols older than `age` frames."""
        self._stream.settle(margin=margin, age=age)

    def settled(self) -> int:
        """Return the number of words of `partial` that no further frame will change."""
        symbols, space = self._stream.settled(), self._engine._space
        if space < 0:
            return len(symbols)
        return sum(a != space and b == space for a, b in itertools.pairwise(symbols))

    def finish(self) -> list[Hypothesis]:
        """Return the hypotheses of the whole utterance, best first."""
        return self._best(self._engine._settings.nbest, ended=True)

    def _best(self, count: int, *, ended: bool) -> list[Hypothesis]:
        blank = np.concatenate(self._blank)
        return [self._engine._hypothesis(raw, blank) for raw in self._stream.best(count=count, ended=ended)]
