"""Recognise recordings of any length in constant memory.

A recording is cut at its pauses (input_pipeline/audio/cutting.py). The network computes its parts in batches, each as the
utterance that it resembles: its states begin anew, and its level is its own. Where there is no pause, parts see a second of
their neighbours, whose output is dropped, and the decoder goes on. At a pause, it begins a new passage.
"""

import collections
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from decoding.hypothesis import BLANK, Hypothesis, Word
from decoding.search.beam import Engine
from decoding.search.pauses import widest_pause
from ds2_jax.artifacts.bundle import ModelMeta
from ds2_jax.parallel import processes
from ds2_jax.recognition.batched_network import BatchedNetwork, Shape
from ds2_jax.recognition.voice_gate import IMPOSSIBLE, SpeechCheck
from input_pipeline.audio.cutting import BELOW_SPEECH_DB, CutSettings, Cutter, Part
from input_pipeline.audio.frames import Resampler
from input_pipeline.audio.reader import rms_db

WAITING = 64  # parts whose output may wait for that of an earlier one
LONGEST_PASSAGE_S = 60.0
SPACE_PROBABILITY = 0.6  # where a part begins after a pause: a decoder may choose, the most probable symbols have it
TOGETHER = 16  # passages that are decoded at once


@dataclass(frozen=True)
class Passage:
    """What was said between two pauses; times are those of the recording. score: natural logarithm."""

    text: str
    words: list[Word]
    confidence: float
    score: float
    start_s: float
    end_s: float


class _Output(NamedTuple):
    """Natural-log probabilities [n, K] of a part's own steps."""

    part: Part
    log_probs: np.ndarray


class LongRecogniser:
    """Recognises long recordings with a network and a decoder.

    check: tells speech from noise; parts without speech give no text. None: all parts are recognised.
    """

    def __init__(
        self,
        network: BatchedNetwork,
        engine: Engine,
        check: SpeechCheck | None,
        settings: CutSettings,
    ):
        self._network, self._engine, self._check = network, engine, check
        meta = network.meta
        self._settings = settings
        self._frame_s = meta.output_frame_s
        self._step = meta.features.stride_samples * meta.model.time_stride
        self._front_end = _PartFrontEnd(meta)
        symbols = meta.vocabulary.symbols
        self._quiet = [BLANK, *(i + 1 for i, symbol in enumerate(symbols) if symbol == " ")]

    @property
    def meta(self) -> ModelMeta:
        """The description of the network."""
        return self._network.meta

    def log_probs(self, blocks: Iterable[np.ndarray], own_rate_hz: int) -> Iterator[np.ndarray]:
        """Yield natural-log probabilities [n, K] f32 of a recording, piece by piece, without gaps.

        A part that follows a pause begins with a probable space: the network, which begins anew there, writes none. blocks:
        its samples [N] or [N, channels], in order. Raises AudioError for samples that are not finite.
        """
        done = samples = 0

        def count() -> Iterator[np.ndarray]:
            nonlocal samples
            for block in blocks:
                samples += len(block)
                yield block

        for part, log_probs in self._outputs(count(), own_rate_hz):
            if part.first > done:
                yield self._silence(part.first - done)
            yield log_probs if part.joined or not done else self._after_space(log_probs)
            done = part.first + part.steps
        total = int(samples / own_rate_hz / self._frame_s)
        if total > done:
            yield self._silence(total - done)

    def passages(
        self, blocks: Iterable[np.ndarray], own_rate_hz: int, on_progress: Callable[[float], None] = lambda _: None
    ) -> Iterator[Passage]:
        """Yield the passages of a recording that have text, in order.

        blocks: as for `log_probs`. on_progress: called with the seconds that have been recognised.
        """
        decoding: collections.deque[Future] = collections.deque()
        with ThreadPoolExecutor(1, "decode") as host:
            stretches: list[tuple[int, np.ndarray]] = []
            for first, log_probs in self._stretches(self._outputs(blocks, own_rate_hz, on_progress)):
                stretches.append((first, log_probs))
                if len(stretches) == TOGETHER:
                    decoding.append(host.submit(self._decode, stretches))
                    stretches = []
                if len(decoding) > 1:
                    yield from decoding.popleft().result()
            decoding.append(host.submit(self._decode, stretches))
            while decoding:
                yield from decoding.popleft().result()

    def _outputs(
        self, blocks: Iterable[np.ndarray], own_rate_hz: int, on_progress: Callable[[float], None] = lambda _: None
    ) -> Iterator[_Output]:
        """Yield the output of each part in order; parts of similar length are computed together."""
        steps = 0
        waiting: dict[Shape, list[tuple[Part, np.ndarray]]] = collections.defaultdict(list)
        order: collections.deque[Part] = collections.deque()
        outputs: dict[int, np.ndarray] = {}

        def compute(parts: Sequence[tuple[Part, np.ndarray]]) -> None:
            processes.report_progress(f"recognise: {parts[-1][0].first * self._frame_s:.0f} s")
            computed = self._network.compute_together([features for _, features in parts])
            for (part, _), rows in zip(parts, computed, strict=True):
                keep(part, self._own(part, rows))

        def keep(part: Part, log_probs: np.ndarray) -> None:
            nonlocal steps
            outputs[part.first] = log_probs
            steps += part.steps
            on_progress(steps * self._frame_s)

        def ready() -> Iterator[_Output]:
            while order and order[0].first in outputs:
                part = order.popleft()
                yield _Output(part, outputs.pop(part.first))

        for part in self._parts(blocks, own_rate_hz):
            order.append(part)
            features = self._front_end(part)
            shape = self._network.shape_of_batch(len(features))
            if shape is None or not len(features) or (self._check and not self._check(part.samples)):
                keep(part, self._silence(part.steps))
            else:
                waiting[shape].append((part, features))
                if len(waiting[shape]) == shape.rows:
                    compute(waiting.pop(shape))
            if len(order) > WAITING:
                oldest = order[0].first
                if group := next((s for s, parts in waiting.items() if parts[0][0].first == oldest), None):
                    compute(waiting.pop(group))
            yield from ready()
        for parts in self._network.batches_of(itertools.chain(*waiting.values()), lambda part: len(part[1])):
            compute(parts)
        yield from ready()

    def _parts(self, blocks: Iterable[np.ndarray], own_rate_hz: int) -> Iterator[Part]:
        rate_hz = self._network.meta.features.sample_rate_hz
        resampler = Resampler(own_rate_hz, rate_hz)
        cutter = Cutter(self._step, rate_hz, self._settings)
        for block in blocks:
            yield from cutter.feed(resampler.feed(block))
        yield from cutter.feed(resampler.feed(np.zeros(0, np.float32), last=True), last=True)

    def _own(self, part: Part, log_probs: np.ndarray) -> np.ndarray:
        """Return the output of a part's own steps, without its context."""
        own = log_probs[part.context :][: part.steps]
        missing = part.steps - len(own)  # the last window ends before the last step
        return np.concatenate([own, self._silence(missing)]) if missing else own

    def _after_space(self, log_probs: np.ndarray) -> np.ndarray:
        """Return the output of a part with a space as its first symbol, unless it begins with speech, or there are no spaces."""
        if len(self._quiet) == 1 or not len(log_probs) or log_probs[0].argmax() not in self._quiet:
            return log_probs
        first = np.full((1, log_probs.shape[1]), IMPOSSIBLE, np.float32)
        first[0, self._quiet] = np.log([1 - SPACE_PROBABILITY, SPACE_PROBABILITY])
        return np.concatenate([first, log_probs[1:]])

    def _silence(self, steps: int) -> np.ndarray:
        """Return the output of silence: certain blanks [steps, K]."""
        log_probs = np.full((steps, self._network.meta.vocabulary.size), IMPOSSIBLE, np.float32)
        log_probs[:, BLANK] = 0.0
        return log_probs

    def _stretches(self, outputs: Iterable[_Output]) -> Iterator[tuple[int, np.ndarray]]:
        """Join the outputs of parts without a pause between them; yield the first step and the output of each stretch."""
        longest = round(LONGEST_PASSAGE_S / self._frame_s)
        first = 0
        pieces: list[np.ndarray] = []
        for part, log_probs in outputs:
            if pieces and not part.joined:
                yield first, np.concatenate(pieces)
                pieces = []
            if not pieces:
                first = part.first
            pieces.append(log_probs)
            if sum(map(len, pieces)) > longest:
                joined = np.concatenate(pieces)
                end = widest_pause(joined, self._quiet)
                yield first, joined[:end]
                first, pieces = first + end, [joined[end:]]
        if pieces:
            yield first, np.concatenate(pieces)

    def _decode(self, stretches: list[tuple[int, np.ndarray]]) -> list[Passage]:
        decoded = self._engine.decode_batch([log_probs for _, log_probs in stretches])
        passages = [
            passage_of(hypotheses[0], first * self._frame_s)
            for (first, _), hypotheses in zip(stretches, decoded, strict=True)
        ]
        return [passage for passage in passages if passage.words]


def join(passages: Iterable[Passage], joiner: str) -> Hypothesis:
    """Return the passages as one hypothesis; joiner: what separates words."""
    passages = list(passages)
    words = [word for passage in passages for word in passage.words]
    logarithms = [len(word.text) * math.log(max(word.confidence, 1e-30)) for word in words]
    symbols = sum(len(word.text) for word in words)
    confidence = math.exp(sum(logarithms) / symbols) if symbols else 0.0
    text = joiner.join(passage.text for passage in passages)
    return Hypothesis(text, words, confidence, sum(passage.score for passage in passages))


class _PartFrontEnd:
    """Features of a part, at the level of an utterance, unless it is much softer than the speech around it."""

    def __init__(self, meta: ModelMeta):
        settings = meta.features
        self._by_level = settings.normalise_db and not settings.level_s
        self._target_db, self._window = settings.target_db, settings.window_samples
        if self._by_level:
            settings = dataclasses.replace(settings, normalise_db=False)
        self._front_end = dataclasses.replace(meta.front_end, settings=settings)

    def __call__(self, part: Part) -> np.ndarray:
        """Return features [T, F]; none for less than a window."""
        samples = part.samples
        if len(samples) < self._window:
            return np.zeros((0, self._front_end.size), np.float32)
        if self._by_level:
            level_db = max(rms_db(samples), part.speech_db - BELOW_SPEECH_DB)
            samples = samples * np.float32(10 ** ((self._target_db - level_db) / 20))
        return self._front_end(samples)


def passage_of(best: Hypothesis, start_s: float) -> Passage:
    """Return a hypothesis about the audio from `start_s` on as a passage."""
    words = [dataclasses.replace(w, start_s=w.start_s + start_s, end_s=w.end_s + start_s) for w in best.words]
    end_s = words[-1].end_s if words else start_s
    return Passage(best.text, words, best.confidence, best.score, words[0].start_s if words else start_s, end_s)
