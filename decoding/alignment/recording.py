"""Find the words of a text in a recording.

The output of the network is decoded, in stretches between pauses, with a language model of the text (text_model.py). Words that
were recognised as they are written are found (matching.py). Where both differ, the words of the text take the place of what
was recognised if they are hardly less probable: the CTC paths of the stretch with both are compared (forced.py).
"""

import itertools
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from decoding.alignment import text_model
from decoding.alignment.forced import PlacedWord, Placement, place
from decoding.alignment.matching import Match, match
from decoding.hypothesis import BLANK
from decoding.search.beam import build_engine, choose_engine
from decoding.search.pauses import widest_pause
from decoding.settings import BeamSettings
from input_pipeline.text import Vocabulary

LONGEST_S = 20.0  # of a stretch
TOGETHER = 16  # stretches that are decoded at once
BEAM_SIZE, THRESHOLD = 400, 30.0  # so wide that a word that is heard badly stays until those after it fit
LONGEST_DIFFERENCE = 12  # words in a row, on either side, that are compared
HEARD = -1.0  # ln of silence against the best symbol, below which a frame is speech
UNLIKE = 5.0  # ln, per symbol, by which a word is less probable than what was spoken: it is not that word
OTHER = -1  # a word that is not in the text


class Found(NamedTuple):
    """Words of the text in order, and the frames [N] of other speech."""

    words: list[PlacedWord]
    other: np.ndarray


class _Spoken(NamedTuple):
    """A word that was spoken, and its index in the text or OTHER."""

    text: str
    word: int


@dataclass
class _Stretch:
    """Frames first <= t < first + length between two pauses, and the words that were spoken in them."""

    first: int
    length: int
    spoken: list[_Spoken]
    placed: Placement


class _Difference(NamedTuple):
    """Words of the text, and the words first <= i < end of a stretch that were recognised instead."""

    text: range
    first: int
    end: int


class TextFinder:
    """Finds the words of a text, each of symbols of `vocabulary`, in a recording whose output arrives in pieces.

    limit: ln, by which a word of the text may be less probable than what was recognised in its place, and silence than speech
    beside the words. file: empty, for the output, so that memory does not grow with it.
    """

    def __init__(self, text: Sequence[str], vocabulary: Vocabulary, frame_s: float, limit: float, file: IO[bytes]):
        self._text, self._vocabulary, self._limit = text, vocabulary, limit
        self._space = int(vocabulary.encode(" ")[0]) if " " in vocabulary.symbols else BLANK
        self._longest = round(LONGEST_S / frame_s)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "text.arpa")
            text_model.write(path, text)
            settings = BeamSettings(lm=str(path), alpha=1.0, beta=0.0, beam_size=BEAM_SIZE, threshold=THRESHOLD)
            self._engine = build_engine(choose_engine(settings), vocabulary, settings, frame_s)
        self._file = file
        self._arrived = np.zeros((0, vocabulary.size), np.float32)
        self._waiting: list[np.ndarray] = []
        self._stretches: list[_Stretch] = []
        self._frames = 0

    def feed(self, log_probs: np.ndarray) -> None:
        """Process the next frames, natural logarithms [n, K] f32."""
        self._arrived = np.concatenate([self._arrived, log_probs])
        while len(self._arrived) > self._longest:
            end = widest_pause(self._arrived[: self._longest], (BLANK, self._space))
            self._add(self._arrived[:end])
            self._arrived = self._arrived[end:]

    def finish(self, on_progress: Callable[[float], None] = lambda _: None) -> Found:
        """Return what was found in all frames. on_progress: called with the share of the stretches that are compared, 0 to 1."""
        self._add(self._arrived)
        self._decode()
        heard = [text for stretch in self._stretches for text in _alike(stretch)]
        begins = np.cumsum([0, *(len(stretch.spoken) for stretch in self._stretches)])
        matches = match(self._text, heard)
        for found in matches:
            for i in range(found.size):
                number = _index(begins, found.heard + i)
                at = found.heard + i - int(begins[number])
                self._stretches[number].spoken[at] = _Spoken(self._text[found.text + i], found.text + i)
        self._exchange_all(self._differences(matches, begins), on_progress)
        parts = [self._read_off(stretch) for stretch in self._stretches]
        return Found([word for part in parts for word in part.words], np.concatenate([part.other for part in parts]))

    def _add(self, log_probs: np.ndarray) -> None:
        self._file.write(np.ascontiguousarray(log_probs, np.float32).tobytes())
        self._waiting.append(log_probs)
        if len(self._waiting) == TOGETHER:
            self._decode()

    def _decode(self) -> None:
        for log_probs, hypotheses in zip(self._waiting, self._engine.decode_batch(self._waiting), strict=True):
            spoken = [_Spoken(word.text, OTHER) for word in hypotheses[0].words]
            placed = self._align(log_probs, spoken)
            self._stretches.append(_Stretch(self._frames, len(log_probs), spoken, placed))
            self._frames += len(log_probs)
        self._waiting = []

    def _differences(self, matches: Sequence[Match], begins: np.ndarray) -> list[list[_Difference]]:
        """Return what may be exchanged in each stretch; begins: the index of the first word of each, and the end."""
        differences: list[list[_Difference]] = [[] for _ in self._stretches]
        start, end = Match(0, 0, 0), Match(len(self._text), int(begins[-1]), 0)
        for before, after in itertools.pairwise([start, *matches, end]):
            text = range(before.text + before.size, after.text)
            heard = range(before.heard + before.size, after.heard)
            if not text or max(len(text), len(heard)) > LONGEST_DIFFERENCE:
                continue
            # Text that was not heard belongs to the word before or the one after, which may be beyond a pause.
            touched = heard or range(max(0, heard.start - 1), min(heard.start + 1, end.heard))
            numbers = dict.fromkeys(_index(begins, i) for i in touched)
            if heard and len(numbers) > 1:
                continue
            for number in numbers:
                first = heard.start - int(begins[number])
                differences[number].append(_Difference(text, first, first + len(heard)))
        return differences

    def _exchange_all(self, differences: Sequence[Sequence[_Difference]], on_progress: Callable[[float], None]) -> None:
        """Put words of the text in place of what was recognised where they are hardly less probable."""
        found: set[int] = set()
        for number, (stretch, own) in enumerate(zip(self._stretches, differences, strict=True)):
            on_progress(number / len(differences))
            log_probs = self._read(stretch) if own else None
            for difference in reversed(own):  # so that the words before keep their indices
                if log_probs is None or difference.text.start in found:
                    continue
                written = [_Spoken(self._text[i], i) for i in difference.text]
                spoken = [*stretch.spoken[: difference.first], *written, *stretch.spoken[difference.end :]]
                try:
                    placed = self._align(log_probs, spoken)
                except ValueError:  # the words are too long
                    continue
                words = max(len(difference.text), difference.end - difference.first)
                if placed.margin <= stretch.placed.margin + self._limit * words:
                    stretch.spoken, stretch.placed = spoken, placed
                    found.add(difference.text.start)

    def _align(self, log_probs: np.ndarray, spoken: Sequence[_Spoken]) -> Placement:
        return place(log_probs, [self._vocabulary.encode(one.text) for one in spoken], self._space)

    def _read_off(self, stretch: _Stretch) -> Found:
        """Return the words of the text in a stretch, and other speech: other words, and too much to be silence."""
        log_probs = self._read(stretch)
        other = np.zeros(stretch.length, np.bool_)
        silent = np.maximum(log_probs[:, BLANK], log_probs[:, self._space]) - log_probs.max(1, initial=-np.inf)
        ends = [0, *(word.end for word in stretch.placed.words)]
        starts = [*(word.first for word in stretch.placed.words), stretch.length]
        for end, start in zip(ends, starts, strict=True):
            if -silent[end:start].sum() > self._limit:
                other[end:start] = silent[end:start] < HEARD
        words: list[PlacedWord] = []
        for spoken, placed in zip(stretch.spoken, stretch.placed.words, strict=True):
            if spoken.word == OTHER or not _is_alike(placed):
                other[placed.first : placed.end] = True
            else:
                words.append(_move(placed._replace(word=spoken.word), stretch.first))
        return Found(words, stretch.first + np.flatnonzero(other))

    def _read(self, stretch: _Stretch) -> np.ndarray:
        row_bytes = self._vocabulary.size * np.dtype(np.float32).itemsize
        self._file.seek(stretch.first * row_bytes)
        rows = np.frombuffer(self._file.read(stretch.length * row_bytes), np.float32)
        return rows.reshape(stretch.length, self._vocabulary.size)


def _index(begins: np.ndarray, word: int) -> int:
    """Return the stretch of a word; begins: the first word of each."""
    return int(np.searchsorted(begins, word, side="right")) - 1


def _is_alike(placed: PlacedWord) -> bool:
    """Return whether a word sounds like what was spoken."""
    return placed.margin <= UNLIKE * len(placed.symbols)


def _alike(stretch: _Stretch) -> list[str]:
    """Return the words of a stretch, '' for one that does not sound like what was spoken."""
    pairs = zip(stretch.spoken, stretch.placed.words, strict=True)
    return [spoken.text if _is_alike(placed) else "" for spoken, placed in pairs]


def _move(word: PlacedWord, frames: int) -> PlacedWord:
    """Return a word of a stretch with its place in the recording."""
    symbols = [s._replace(first=s.first + frames, end=s.end + frames) for s in word.symbols]
    return word._replace(symbols=symbols)
