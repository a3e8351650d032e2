"""Recognise audio while it arrives: partial results, endpoints, final results."""

import collections
import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from decoding.hypothesis import BLANK, Hypothesis, Word
from decoding.search.beam import CheckedEngine
from ds2_jax.artifacts.bundle import ModelMeta
from ds2_jax.network.stream import ENDLESS
from ds2_jax.recognition.stream_settings import StreamSettings
from ds2_jax.recognition.stream_step import Chunk, Output, StreamState, StreamStep
from ds2_jax.recognition.voice_gate import AFTER_S, make_gate
from input_pipeline.audio.frames import FrameStream, Resampler

NOTHING = Hypothesis("", [], 0.0)


@dataclass(frozen=True)
class Partial:
    """What has been recognised of the current segment; times are those of the stream.

    settled: number of words that will not change.
    """

    text: str
    words: list[Word]
    settled: int
    start_s: float


@dataclass(frozen=True)
class Segment:
    """A final result, from start_s to end_s of the stream; times of words are those of the stream.

    nbest: hypotheses, best first, with times from the start of the segment. reason: why it ended: silence, sure (silence
    after words with high confidence), length, commit.
    """

    text: str
    words: list[Word]
    confidence: float
    start_s: float
    end_s: float
    reason: str
    nbest: list[Hypothesis] = dataclasses.field(repr=False)


def join_texts(texts: Iterable[str]) -> str:
    """Return the texts of segments as one; those without text count for nothing."""
    return " ".join(filter(None, texts))


class _Utterance:
    """Audio that the network sees as one: frames on their way into it, and its state."""

    def __init__(self, meta: ModelMeta, step: StreamStep, start_s: float):
        self.frames = FrameStream(meta.features, kept=step.chunking.delay * meta.model.time_stride)
        self.state: StreamState = step.initial
        self.start_s = start_s
        self.steps = 0
        self.is_empty = True  # without audio
        self.total = ENDLESS  # frames

    @property
    def is_ending(self) -> bool:
        return self.total != ENDLESS


class Stream:
    """Audio that is recognised while it arrives; `Recogniser.stream` returns one.

        stream = model.stream(sample_rate_hz=16000)
        stream.feed(samples)
        stream.partial().text
        for segment in stream.finals(): ...
        for segment in stream.finish(): ...

    `feed` computes all chunks that are complete. A server that computes the chunks of many streams at once calls `receive`,
    `next_chunk` and `accept` instead. A stream may be used by one thread at a time.
    """

    def __init__(
        self, meta: ModelMeta, engine: CheckedEngine, step: StreamStep, settings: StreamSettings, rate_hz: int
    ):
        self._meta, self._engine, self._step, self._settings = meta, engine, step, settings
        self._quiet = [BLANK, *(i + 1 for i, symbol in enumerate(meta.vocabulary.symbols) if symbol == " ")]
        self._resampler = Resampler(rate_hz, meta.features.sample_rate_hz)
        self._gate = make_gate(settings, meta.features.sample_rate_hz)
        self._inbox: collections.deque[np.ndarray | None] = collections.deque()  # audio, and None for a commit
        self._received = self._used = 0  # samples at the model's rate
        self._processed_s = 0.0
        self._finals: list[Segment] = []
        self._partial: Partial | None = None
        self._waiting = False  # for the output of a chunk
        self._finished = False
        self._resampling = False  # whether the resampler has audio
        self._begin_utterance()

    @property
    def received_s(self) -> float:
        """Seconds of audio received."""
        return self._received / self._meta.features.sample_rate_hz

    @property
    def processed_s(self) -> float:
        """Seconds of audio that the network has seen."""
        return self._processed_s

    @property
    def is_done(self) -> bool:
        """Whether the stream is finished and all of it is decoded."""
        return self._finished and not (self._inbox or self._utterance.is_ending)

    @property
    def decoded_s(self) -> float:
        """Seconds of audio that have been decoded."""
        return self._utterance.start_s + self._decoded * self._meta.output_frame_s

    def feed(self, samples: np.ndarray) -> None:
        """Add audio [N] or [N, channels], float in [-1, 1] or int16, and recognise all complete chunks.

        Raises AudioError for other audio, and ValueError after `finish`.
        """
        self.receive(samples)
        self._compute()

    def partial(self) -> Partial:
        """Return what has been recognised of the current segment; its last words may still change."""
        if self._partial is None:
            best = self._decoder.partial() if self._is_speech() else NOTHING
            settled = self._decoder.settled() if best.words else 0
            self._partial = Partial(best.text, self._shift(best.words), settled, self._segment_s)
        return self._partial

    def finals(self) -> list[Segment]:
        """Return the segments that have ended since the last call, oldest first."""
        finals, self._finals = self._finals, []
        return finals

    def commit(self) -> None:
        """End the utterance: the audio so far becomes final, and audio that follows begins another one."""
        self.end()
        self._compute()

    def finish(self) -> list[Segment]:
        """End the stream; return the segments that `finals` has not returned."""
        self.close()
        self._compute()
        return self.finals()

    def receive(self, samples: np.ndarray) -> None:
        """Add audio as `feed`, without computing anything."""
        if self._finished:
            raise ValueError("the stream is finished: start another one with Recogniser.stream")
        self._add(self._resampler.feed(samples))
        self._resampling = True

    def end(self) -> None:
        """End the utterance as `commit`, without computing anything."""
        if self._resampling:
            self._add(self._resampler.feed(np.zeros(0, np.float32), last=True))
            self._resampler.reset()
            self._resampling = False
        self._inbox.append(None)
        self._open_inbox()

    def close(self) -> None:
        """End the stream as `finish`, without computing anything."""
        if not self._finished:
            self.end()
            self._finished = True

    def release(self) -> None:
        """Free the memory of a stream that is not used any more; `received_s` and `processed_s` can still be read."""
        if self._gate:
            self._gate.release()
        self._gate, self._partial = None, None
        self._inbox.clear()
        self._finals.clear()
        del self._utterance, self._decoder, self._resampler

    def next_chunk(self) -> Chunk | None:
        """Return the next chunk, if it is complete and the output of the one before has been accepted."""
        utterance, count = self._utterance, self._step.chunking.frames
        if self._waiting or not (utterance.is_ending or utterance.frames.ready >= count):
            return None
        frames = utterance.frames.take(count)
        features, taken = self._meta.features, utterance.frames.taken
        samples = (taken - 1) * features.stride_samples + features.window_samples if taken else 0
        self._processed_s = max(self._processed_s, utterance.start_s + samples / features.sample_rate_hz)
        self._waiting = True
        return Chunk(frames, utterance.steps, utterance.total, utterance.frames.gain, utterance.state)

    def accept(self, output: Output) -> None:
        """Decode the output of the last chunk."""
        utterance, sizes = self._utterance, self._step.chunking
        first = utterance.steps * sizes.chunk - sizes.delay
        log_probs = output.log_probs[max(0, -first) : max(0, self._last_frame() - first)]
        utterance.steps += 1
        utterance.state = output.state
        self._waiting = False
        if len(log_probs):
            self._decode(log_probs)
        self._open_inbox()

    def _compute(self) -> None:
        while (chunk := self.next_chunk()) is not None:
            [output] = self._step([chunk])
            self.accept(output)

    def _add(self, samples: np.ndarray) -> None:
        self._received += len(samples)
        self._inbox.append(samples)
        self._open_inbox()

    def _open_inbox(self) -> None:
        """Move audio into the utterance, up to a commit, which ends it when all of its frames are decoded."""
        while True:
            utterance = self._utterance
            if utterance.is_ending:
                if self._waiting or self._decoded < self._last_frame():
                    return
                self._end_segment("commit")
                self._begin_utterance()
            if not self._inbox:
                return
            samples = self._inbox.popleft()
            if samples is None and self._utterance.is_empty:
                self._end_segment("commit")
                continue
            if samples is None:
                self._utterance.total = self._utterance.frames.taken + self._utterance.frames.ready
                continue
            self._used += len(samples)
            self._utterance.is_empty &= not len(samples)
            self._utterance.frames.feed(samples)
            if self._gate:
                self._gate.feed(samples)

    def _last_frame(self) -> int:
        """Return the number of output frames of the utterance, as far as it is known."""
        total = self._utterance.total
        return 0 if total == 0 else self._meta.model.output_frames(total)

    def _begin_utterance(self) -> None:
        self._utterance = _Utterance(self._meta, self._step, self._used / self._meta.features.sample_rate_hz)
        self._decoded = 0  # output frames of the utterance
        self._begin_segment()

    def _divide_utterance(self) -> None:
        """Let the audio that has not been decoded begin an utterance of its own."""
        before, frames = self._utterance, self._decoded * self._meta.model.time_stride
        self._utterance = _Utterance(self._meta, self._step, self.decoded_s)
        self._utterance.frames, self._utterance.is_empty = before.frames.divide(frames), False
        if before.is_ending:
            self._utterance.total = self._utterance.frames.ready
        self._decoded = 0
        self._begin_segment()

    def _begin_segment(self) -> None:
        self._segment_s = self.decoded_s
        self._first = self._decoded  # output frame of the utterance at which the segment begins
        self._silent = 0  # output frames since the last symbol
        self._decoder = self._engine.stream()
        self._partial = None
        if self._gate:
            self._gate.forget(self._segment_s - AFTER_S)

    def _is_speech(self) -> bool:
        """Return whether the current segment may have text."""
        return self._gate is None or self._gate.is_sure(self._segment_s, self.decoded_s)

    def _end_segment(self, reason: str) -> None:
        """Add the segment to the finals; without text, only if it was committed."""
        nbest = self._decoder.finish() if self._is_speech() else [NOTHING]
        if nbest[0].text or reason == "commit":
            best = nbest[0]
            words = self._shift(best.words)
            self._finals.append(
                Segment(best.text, words, best.confidence, self._segment_s, self.decoded_s, reason, nbest)
            )

    def _decode(self, log_probs: np.ndarray) -> None:
        """Decode frames [n, K] of the utterance; end the segment if an endpoint is reached."""
        if self._gate:
            times = self.decoded_s + np.arange(len(log_probs)) * self._meta.output_frame_s
            log_probs = self._gate.apply(log_probs, times)
        self._decoder.feed(log_probs)
        if self._settings.settle_s:
            age = round(self._settings.settle_s / self._meta.output_frame_s)
            self._decoder.settle(self._settings.settle_margin, age)
        self._partial = None
        self._decoded += len(log_probs)
        spoken = np.flatnonzero(~np.isin(log_probs.argmax(-1), self._quiet))
        self._silent = len(log_probs) - 1 - spoken[-1] if len(spoken) else self._silent + len(log_probs)
        at_end = self._utterance.is_ending and self._decoded >= self._last_frame()
        reason = None if at_end else self._find_endpoint()
        if reason == "length":  # perhaps in a word
            self._end_segment(reason)
            self._begin_segment()
        elif reason:
            self._end_segment(reason)
            self._divide_utterance()

    def _find_endpoint(self) -> str | None:
        """Return why the segment ends here; None if it goes on."""
        rules, frame_s = self._settings.endpoint, self._meta.output_frame_s
        silent_s = self._silent * frame_s
        if 0 < rules.longest_s <= (self._decoded - self._first) * frame_s:
            return "length"
        least = min((s for s in (rules.silence_s, rules.after_text_s, rules.early_s) if s), default=math.inf)
        if silent_s < least:
            return None
        partial = self.partial()
        if not partial.text:
            return "silence" if 0 < rules.silence_s <= silent_s else None
        if 0 < rules.after_text_s <= silent_s:
            return "silence"
        sure = all(word.confidence >= rules.early_confidence for word in partial.words)
        if 0 < rules.early_s <= silent_s and sure and self._decoder.finish()[0].text == partial.text:
            return "sure"
        return None

    def _shift(self, words: list[Word]) -> list[Word]:
        """Return words of the current segment with the times of the stream."""
        start_s = self._segment_s
        return [dataclasses.replace(word, start_s=word.start_s + start_s, end_s=word.end_s + start_s) for word in words]
