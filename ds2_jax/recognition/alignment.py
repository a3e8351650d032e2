"""Align recordings of any length with their texts: times of words and symbols, and utterances to train with."""

import itertools
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from decoding.alignment.forced import PlacedWord, place
from decoding.alignment.recording import TextFinder
from decoding.alignment.utterances import Pause, Piece, UtteranceSettings, choose
from decoding.hypothesis import BLANK, LEAST_PROBABILITY, Word
from decoding.lm.preparation import Preparation
from decoding.search.greedy import decode as decode_greedily
from ds2_jax.artifacts.bundle import ModelMeta
from ds2_jax.recognition import decode_settings
from ds2_jax.recognition.long_recording import LongRecogniser
from ds2_jax.recognition.recording import Progress, no_progress
from input_pipeline.audio import AudioError
from input_pipeline.audio.long_reader import LongAudio, LongSource, open_long
from input_pipeline.audio.pauses import LevelMeter, Pauses
from input_pipeline.audio.reader import mix

TOGETHER_S = 0.5  # speech that is not in the text is one piece if no longer silence divides it
CLEAR_S = 1.0  # without a symbol, which is a pause even if it is loud
LATE_S = 0.7  # by which a word may go on after its last symbol, or begin before its first one
COMPARISON = 0.05  # of the work, as on_progress reports it: the rest is reading and recognition
FEW = 2  # words of the text missing between two that were found: something else may have been said there, and not heard
DEFAULT_UTTERANCES = UtteranceSettings()

NOT_SPOKEN = "text that was not spoken"
NOT_IN_TEXT = "speech that is not in the text"
UNFIT = "text and speech differ"
UNCUT = "no utterance of the allowed length between pauses"


@dataclass(frozen=True)
class Symbol:
    """A symbol of a word, in seconds; confidence: its highest probability."""

    text: str
    start_s: float
    end_s: float
    confidence: float


@dataclass(frozen=True)
class AlignedWord(Word):
    """A word of the text, where it was spoken."""

    symbols: list[Symbol] = field(default_factory=list, repr=False)


@dataclass(frozen=True)
class AlignedUtterance:
    """Audio between two pauses, and its text.

    score: natural logarithm, per symbol, by which the text is less probable than what was recognised; 0 is best.
    confidence: as of a word.
    """

    text: str
    words: list[AlignedWord] = field(repr=False)
    start_s: float
    end_s: float
    score: float
    confidence: float


@dataclass(frozen=True)
class LeftOut:
    """What belongs to no utterance: its text, what was recognised, and its time; start_s == end_s if nothing was spoken."""

    reason: str
    start_s: float
    end_s: float
    text: str
    recognised: str


@dataclass(frozen=True)
class Alignment:
    """A recording and its text. words: those that were found. remarks: what is wrong with the recording."""

    words: list[AlignedWord]
    utterances: list[AlignedUtterance]
    left_out: list[LeftOut]
    text_words: int
    duration_s: float
    sample_rate_hz: int
    remarks: tuple[str, ...] = ()


class Text:
    """A text as a network writes it.

    Attributes: words (all of them), spelled (symbols [n] of those that the network can write), places (index of each of
    these in `words`). Raises ValueError if there are none.
    """

    def __init__(self, text: str, meta: ModelMeta):
        prepare = Preparation(meta.text, meta.vocabulary.symbols)
        words = itertools.chain.from_iterable(prepare(line).split() for line in text.splitlines())
        self.words = list(itertools.chain.from_iterable(decode_settings.spell(word, meta).split() for word in words))
        if " " not in meta.vocabulary.symbols:  # each symbol is a word
            self.words = list(itertools.chain.from_iterable(self.words))
        known = set(meta.vocabulary.symbols)
        self.places = [i for i, word in enumerate(self.words) if known.issuperset(word)]
        self.spelled = [meta.vocabulary.encode(self.words[i]) for i in self.places]
        if not self.words:
            raise ValueError("the text has no words: give what is spoken in the recording")
        if not self.places:
            raise ValueError(
                f"none of the {len(self.words)} words of the text, such as {self.words[0]!r}, can be written with the symbols "
                f"of the model, {''.join(meta.vocabulary.symbols[:60])!r}: use a model of its language"
            )


def align(
    model: LongRecogniser,
    source: LongSource,
    text: str,
    *,
    settings: UtteranceSettings = DEFAULT_UTTERANCES,
    whole: bool = True,
    on_progress: Progress = no_progress,
) -> Alignment:
    """Find what was spoken of a text in a recording, and divide it into utterances.

    whole: refuse a recording that is cut; otherwise, align what is left of it, and say so in `remarks`. Raises AudioError, and
    ValueError for a text that the model cannot write.
    """
    meta = model.meta
    prepared = Text(text, meta)
    written = [prepared.words[i] for i in prepared.places]
    with tempfile.TemporaryFile() as file:
        finder = TextFinder(written, meta.vocabulary, meta.output_frame_s, settings.word_limit, file)
        with open_long(source, whole=whole) as audio:
            meter = LevelMeter(audio.sample_rate_hz)
            best: list[np.ndarray] = []
            probabilities: list[np.ndarray] = []

            def report(share: float) -> None:
                on_progress(share * audio.read_s, audio.duration_s)

            blocks = _measured(audio, meter, lambda: report(1 - COMPARISON))
            for log_probs in model.log_probs(blocks, audio.sample_rate_hz):
                finder.feed(log_probs)
                best.append(log_probs.argmax(-1).astype(np.int32))
                probabilities.append(np.exp(log_probs.max(-1)))
            if not audio.read_s:
                raise AudioError(f"{audio.name} has no samples; record or copy it again, or remove it")
        found = finder.finish(lambda share: report(1 - COMPARISON + COMPARISON * share))
    ids = np.concatenate([np.zeros(0, np.int32), *best])
    heard = _Heard(ids, np.concatenate([np.zeros(0), *probabilities]), meta)
    divided = _Divided(prepared, found.words, found.other, meter.pauses(), heard)
    utterances, left_out = divided.choose(audio.read_s, settings)
    words = [_word_of(word, prepared, meta) for word in found.words]
    facts = len(prepared.words), audio.read_s, audio.sample_rate_hz, tuple(audio.remarks)
    return Alignment(words, utterances, left_out, *facts)


def align_exactly(log_probs: np.ndarray, text: str, meta: ModelMeta) -> list[AlignedWord]:
    """Return the words of a text, each of which was spoken, and nothing else.

    log_probs: [T, K] natural logarithms. Raises ValueError for words that the model cannot write, and for a text that is
    longer than the audio.
    """
    prepared = Text(text, meta)
    unknown = sorted(set(range(len(prepared.words))) - set(prepared.places))
    if unknown:
        raise ValueError(
            f"the model cannot write {prepared.words[unknown[0]]!r}, a word of the text: correct it, or spell numbers"
        )
    placed = place(log_probs, prepared.spelled, _space_of(meta)).words
    return [_word_of(word, prepared, meta) for word in placed]


def _measured(audio: LongAudio, meter: LevelMeter, on_block: Callable[[], None]) -> Iterator[np.ndarray]:
    for block in audio.blocks():
        mono = mix(block)[0]
        meter.feed(mono)
        on_block()
        yield mono


def _space_of(meta: ModelMeta) -> int:
    return int(meta.vocabulary.encode(" ")[0]) if " " in meta.vocabulary.symbols else BLANK


def _word_of(placed: PlacedWord, text: Text, meta: ModelMeta) -> AlignedWord:
    frame_s = meta.output_frame_s
    symbols = [
        Symbol(meta.vocabulary.decode([s.symbol]), s.first * frame_s, s.end * frame_s, math.exp(s.log_p))
        for s in placed.symbols
    ]
    confidence = math.exp(np.mean([s.log_p for s in placed.symbols]))
    word = text.words[text.places[placed.word]]
    return AlignedWord(word, placed.first * frame_s, placed.end * frame_s, confidence, symbols)


class _Heard:
    """What the network recognises: the best symbol of each frame and its probability, [U]."""

    def __init__(self, ids: np.ndarray, probabilities: np.ndarray, meta: ModelMeta):
        self._ids, self._probabilities, self.meta = ids, probabilities, meta
        self.frame_s = meta.output_frame_s
        self.joiner = " " if " " in meta.vocabulary.symbols else ""

    def text(self, start_s: float, end_s: float) -> str:
        """Return the text between two times."""
        part = slice(round(start_s / self.frame_s), round(end_s / self.frame_s))
        decoded = decode_greedily(self._ids[part], self._probabilities[part], self.meta.vocabulary, self.frame_s)
        return decoded.text


class _Divided:
    """The words that were found, and other speech, divided by pauses."""

    def __init__(self, text: Text, placed: Sequence[PlacedWord], other: np.ndarray, pauses: Pauses, heard: _Heard):
        self._text, self._pauses, self._heard = text, pauses, heard
        self._placed = {text.places[word.word]: word for word in placed}
        frame_s = heard.frame_s
        spans = [(word.first * frame_s, word.end * frame_s, i) for i, word in self._placed.items()]
        starts = np.array([word.first for word in placed])
        groups: list[list[int]] = []
        for frame in other.tolist():
            between = groups and np.searchsorted(starts, frame) != np.searchsorted(starts, groups[-1][-1])
            if not groups or between or (frame - groups[-1][-1]) * frame_s > TOGETHER_S:
                groups.append([])
            groups[-1].append(frame)
        spans += [(group[0] * frame_s, (group[-1] + 1) * frame_s, -1) for group in groups]
        self._spans = sorted(spans)

    def choose(self, duration_s: float, settings: UtteranceSettings) -> tuple[list[AlignedUtterance], list[LeftOut]]:
        """Return the utterances, and what belongs to none."""
        pieces = self._pieces(duration_s, settings)
        begin = self._pause(0.0, pieces[0].start_s, settings) if pieces else None
        begin_s = begin.end_s if begin else 0.0
        chosen = choose(pieces, Pause(-begin_s, begin_s), settings)  # all of this pause is free, not half of it
        utterances, left_out = [], []
        done, next_word = 0, 0
        for one in chosen:
            words = [pieces[i].word for i in range(one.first, one.last + 1)]
            left_out += self._left_out(pieces[done : one.first], range(next_word, words[0]), one.start_s)
            utterances.append(self._utterance(words, one.start_s, one.end_s))
            done, next_word = one.last + 1, words[-1] + 1
        left_out += self._left_out(pieces[done:], range(next_word, len(self._text.words)), duration_s)
        return utterances, left_out

    def _pieces(self, duration_s: float, settings: UtteranceSettings) -> list[Piece]:
        """Return words and other speech by time."""
        words = [word for _, _, word in self._spans]
        pieces = []
        for i, (start_s, end_s, word) in enumerate(self._spans):
            last = i + 1 == len(self._spans)
            after = self._pause(end_s, duration_s if last else self._spans[i + 1][0], settings)
            if last:  # all of this pause is free, as before the first piece
                quiet_s = after.start_s if after else duration_s
                after = Pause(quiet_s, 2 * duration_s - quiet_s)
            following = next((other for other in words[i + 1 :] if other >= 0), len(self._text.words))
            parted = word >= 0 and following != word + 1
            fits = word >= 0 and not any(
                self._may_be_others(a, b) for a, b in itertools.pairwise(words[max(0, i - 1) : i + 2])
            )
            pieces.append(Piece(word, start_s, end_s, fits, after, parted))
        return pieces

    def _may_be_others(self, word: int, following: int) -> bool:
        """Return whether so few words of the text are missing between two that others may have been spoken, and not heard."""
        return word >= 0 and 1 < following - word <= FEW + 1

    def _pause(self, start_s: float, end_s: float, settings: UtteranceSettings) -> Pause | None:
        """Return the pause between two pieces, None if there is none."""
        if quiet := self._pauses.between(start_s, end_s, settings.pause_s):
            return Pause(quiet[0][0], quiet[-1][1])
        if end_s - start_s < CLEAR_S:
            return None
        middle_s = (start_s + end_s) / 2
        first_s = self._pauses.quietest_s(start_s, min(start_s + LATE_S, middle_s))
        return Pause(first_s, max(first_s, self._pauses.quietest_s(max(end_s - LATE_S, middle_s), end_s)))

    def _utterance(self, words: Sequence[int], start_s: float, end_s: float) -> AlignedUtterance:
        placed = [self._placed[word] for word in words]
        log_ps = [max(symbol.log_p, math.log(LEAST_PROBABILITY)) for word in placed for symbol in word.symbols]
        score = sum(word.margin for word in placed) / len(log_ps)
        aligned = [_word_of(word, self._text, self._heard.meta) for word in placed]
        return AlignedUtterance(self._join(words), aligned, start_s, end_s, score, math.exp(np.mean(log_ps)))

    def _left_out(self, pieces: Sequence[Piece], words: range, at_s: float) -> list[LeftOut]:
        """Describe what lies between two utterances; at_s: where text that was not spoken would be."""
        if not pieces and not words:
            return []
        start_s, end_s = (pieces[0].start_s, pieces[-1].end_s) if pieces else (at_s, at_s)
        if not pieces:
            reason = NOT_SPOKEN
        elif not words:
            reason = NOT_IN_TEXT
        else:
            found = [piece.word for piece in pieces if piece.fits]
            reason = UNCUT if found == list(words) and len(found) == len(pieces) else UNFIT
        return [LeftOut(reason, start_s, end_s, self._join(words), self._heard.text(start_s, end_s))]

    def _join(self, words: Sequence[int]) -> str:
        return self._heard.joiner.join(self._text.words[word] for word in words)
