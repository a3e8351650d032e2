"""One interface for all decoding engines: settings in, ranked hypotheses out.

The engines are `greedy`, `native` (C++, in this repository), `pyctcdecode` and `ctc_beam_decoder`. All rank by

    ln p(text | audio) + alpha * ln p_LM(text) + beta * (number of units of the language model)

in natural logarithms: a published alpha of the original, whose language model uses log10, must be divided by ln 10. The
units are words, or characters for a character model.
"""

import dataclasses
import importlib
import json
import logging
import math
import sys
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from decoding.hypothesis import Hypothesis
from decoding.lm import model_file
from decoding.lm.verification import is_verified
from decoding.search import greedy, trial
from decoding.settings import BeamSettings
from input_pipeline.text import UnknownCharacters, Vocabulary, describe_character

logger = logging.getLogger("decoding")

ROUNDING = 1e-3  # by which a float32 log-softmax may exceed 0


class Engine(Protocol):
    """Decodes batches of utterances, with one vocabulary and settings."""

    name: str

    def decode_batch(self, log_probs: Sequence[np.ndarray]) -> list[list[Hypothesis]]:
        """Decode natural-log probabilities [U, K] f32 (blank 0), an array per utterance; return hypotheses, best first."""
        ...

    def rescale(self, alpha: float, beta: float) -> None:
        """Set the weights of the language model without loading it again, for tuning."""
        ...


class Stream(Protocol):
    """Decodes an utterance that arrives in pieces; the engine's weights must not change meanwhile."""

    def feed(self, log_probs: np.ndarray) -> None:
        """Process the next frames, natural-log probabilities [n, K] f32."""
        ...

    def partial(self) -> Hypothesis:
        """Return the best hypothesis so far; its last word may be incomplete, and all of it may still change."""
        ...

    def settle(self, margin: float, age: int) -> None:
        """Drop hypotheses that are `margin` (ln) below the best one and differ from it in symbols older than `age` frames."""
        ...

    def settled(self) -> int:
        """Return the number of words of `partial` that no further frame will change."""
        ...

    def finish(self) -> list[Hypothesis]:
        """Return the hypotheses of the whole utterance, best first, as `Engine.decode_batch` does."""
        ...


def native_available() -> bool:
    """Tell whether the native engine is built."""
    try:
        return bool(importlib.import_module("decoding.native").available())
    except ImportError:
        return False


def choose_engine(settings: BeamSettings) -> str:
    """Return the engine to use; `auto` is the native one if it is built, else ctc_beam_decoder, whose limits are logged."""
    if settings.engine != "auto":
        return settings.engine
    if native_available():
        return "native"
    from decoding.search import library_engine

    logger.info(
        "the native decoder is not built; ctc_beam_decoder decodes instead: %s. With a C++ compiler, "
        "make install builds the native one, or pip install --force-reinstall --no-cache-dir from the sources",
        library_engine.LOSSES,
    )
    return "ctc_beam_decoder"


def make_engine(vocabulary: Vocabulary, settings: BeamSettings, frame_s: float) -> "CheckedEngine":
    """Make the engine that `settings.engine` names; frame_s: seconds from one frame to the next.

    Raises ValueError for a language model or hot words that do not fit the vocabulary, and for a missing library.
    """
    name = choose_engine(settings)
    if name == "greedy":
        return CheckedEngine(GreedyEngine(vocabulary, frame_s), vocabulary)
    _check_hot_words(settings, vocabulary)
    if settings.lm:
        require_sound(vocabulary, dataclasses.replace(settings, engine=name))
    return build_engine(name, vocabulary, settings, frame_s)


def require_sound(vocabulary: Vocabulary, settings: BeamSettings) -> None:
    """Check that the model `settings.lm` fits a vocabulary, and is as it was written as far as a digest says so.

    A binary without a digest is unverified, which is logged; it is tried with the engine of the settings. Raises
    LanguageModelError.
    """
    words = model_file.read_words(settings.lm, settings.unigrams)
    model_file.check_words(words, vocabulary, settings.lm)
    if not is_verified(settings.lm) and model_file.kind_of(settings.lm) == "binary":
        logger.info("%s is unverified: no digest is stored for it (%s)", settings.lm, "docs/language_models.md#trust")
        trial.try_model(vocabulary, settings, choose_engine(settings))


def run_trial() -> None:
    """Build the engine that standard input describes, and decode noise: the child process of `trial.try_model`."""
    task = json.load(sys.stdin)
    vocabulary = Vocabulary(tuple(task["symbols"]))
    engine = build_engine(task["engine"], vocabulary, BeamSettings(**task["settings"]), frame_s=0.02)
    trial.decode_noise(engine.decode_batch, vocabulary.size)


def build_engine(name: str, vocabulary: Vocabulary, settings: BeamSettings, frame_s: float) -> "CheckedEngine":
    """Make a beam-search engine without checking its language model first. Raises ValueError for a missing library."""
    if name == "native":
        return CheckedEngine(_make_native(vocabulary, settings, frame_s), vocabulary)
    from decoding.search.library_engine import LibraryEngine

    words = model_file.read_words(settings.lm, settings.unigrams) if settings.lm else None
    return CheckedEngine(LibraryEngine(name, vocabulary, settings, frame_s, words), vocabulary)


def _make_native(vocabulary: Vocabulary, settings: BeamSettings, frame_s: float) -> Any:
    if not native_available():
        raise ValueError(
            "config.decode.engine is 'native', which is not built: run make install (it needs a C++ compiler), or choose "
            "--config.decode.engine=ctc_beam_decoder"
        )
    return importlib.import_module("decoding.native").NativeEngine(vocabulary, settings, frame_s)


def _check_hot_words(settings: BeamSettings, vocabulary: Vocabulary) -> None:
    for word in settings.hot_word_weights():
        try:
            vocabulary.encode(word)
        except UnknownCharacters as error:
            raise ValueError(
                f"config.decode.hot_words: {word!r} has characters that the network cannot output, "
                f"{', '.join(map(describe_character, error.characters))}; spell it with: "
                f"{''.join(vocabulary.symbols[:60])}"
            ) from error


class GreedyEngine:
    """Greedy decoding as an engine."""

    name = "greedy"

    def __init__(self, vocabulary: Vocabulary, frame_s: float):
        self._vocabulary, self._frame_s = vocabulary, frame_s

    def decode_batch(self, log_probs: Sequence[np.ndarray]) -> list[list[Hypothesis]]:
        """Return one hypothesis for each array [U, K]."""
        return [[greedy.decode_log_probs(rows, self._vocabulary, self._frame_s)] for rows in log_probs]

    def rescale(self, alpha: float, beta: float) -> None:
        """Do nothing: there is no language model."""

    def stream(self) -> greedy.GreedyStream:
        """Start an utterance whose frames arrive in pieces."""
        return greedy.GreedyStream(self._vocabulary, self._frame_s)


class CheckedEngine:
    """An engine that validates its inputs first: shapes, finite numbers, utterances without frames."""

    def __init__(self, inner: Engine, vocabulary: Vocabulary):
        self.inner = inner
        self.name = inner.name
        self._size = vocabulary.size

    def decode_batch(self, log_probs: Sequence[np.ndarray]) -> list[list[Hypothesis]]:
        """Decode as `Engine.decode_batch` does; an utterance without frames gives empty text. Raises ValueError."""
        arrays = [_validate(rows, f"utterance {number}", self._size) for number, rows in enumerate(log_probs)]
        nonempty = [rows for rows in arrays if len(rows)]
        decoded = iter(self.inner.decode_batch(nonempty) if nonempty else [])
        return [(next(decoded) if len(rows) else []) or [Hypothesis("", [], 0.0)] for rows in arrays]

    def rescale(self, alpha: float, beta: float) -> None:
        """Set the weights. Raises ValueError for values that are not finite."""
        if not (math.isfinite(alpha) and math.isfinite(beta)):
            raise ValueError(f"alpha {alpha} and beta {beta} must be finite numbers")
        self.inner.rescale(float(alpha), float(beta))

    def stream(self) -> Stream:
        """Start an utterance whose frames arrive in pieces. Raises ValueError for engines that cannot decode these."""
        start = getattr(self.inner, "stream", None)
        if start is None:
            raise ValueError(
                f"config.decode.engine={self.name!r} decodes complete utterances only: choose config.decode.engine='native', "
                "which make install builds if there is a C++ compiler, or 'greedy'"
            )
        return CheckedStream(start(), self._size)


class CheckedStream:
    """A stream that validates its pieces first."""

    def __init__(self, inner: Stream, size: int):
        self._inner, self._size = inner, size
        self.partial, self.settle, self.settled = inner.partial, inner.settle, inner.settled
        self.finish = inner.finish

    def feed(self, log_probs: np.ndarray) -> None:
        """Process the next frames as `Stream.feed` does, none of them if one is invalid. Raises ValueError."""
        self._inner.feed(_validate(log_probs, "this piece", self._size))


def _validate(rows: np.ndarray, what: str, size: int) -> np.ndarray:
    """Return log probabilities [n, K] as contiguous float32. Raises ValueError for other values."""
    rows = np.ascontiguousarray(rows, np.float32)
    if rows.ndim != 2 or rows.shape[1] != size:
        raise ValueError(
            f"log probabilities of {what} have shape {list(rows.shape)}; the vocabulary requires [U, {size}]"
        )
    bad = ~np.isfinite(rows).all(1)
    if bad.any():
        raise ValueError(
            f"log probabilities of {what} are not finite at frame {int(bad.argmax())} of {len(rows)}: the model has "
            "diverged; restore an earlier checkpoint, or train with a lower config.optim.learning_rate"
        )
    if len(rows) and rows.max() > ROUNDING:
        raise ValueError(
            f"log probabilities of {what} reach {rows.max():.3g}: give natural logarithms of probabilities (log_softmax)"
        )
    return rows
