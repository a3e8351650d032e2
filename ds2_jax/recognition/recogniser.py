"""Transcribe audio with a loaded model: files, bytes, file objects or arrays, one or many."""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, overload

import jax
import numpy as np

from decoding.alignment.utterances import UtteranceSettings
from decoding.hypothesis import Hypothesis, Word
from decoding.settings import BeamSettings
from ds2_jax.artifacts.bundle import ModelMeta
from ds2_jax.artifacts.load import load_model
from ds2_jax.parallel import processes
from ds2_jax.recognition import alignment, decode_settings, recording
from ds2_jax.recognition.alignment import AlignedWord, Alignment
from ds2_jax.recognition.batched_network import BatchedNetwork
from ds2_jax.recognition.clips import Audio, Clip, ClipReader, Failure, Long
from ds2_jax.recognition.long_recording import LongRecogniser
from ds2_jax.recognition.long_recording import join as join_passages
from ds2_jax.recognition.recording import Progress, Recording, RecordingSettings, Turn
from ds2_jax.recognition.stream import Stream
from ds2_jax.recognition.stream_settings import StreamSettings
from ds2_jax.recognition.stream_step import StreamStep
from ds2_jax.recognition.voice_gate import make_check
from input_pipeline.audio.cutting import CutSettings
from input_pipeline.audio.long_reader import LongSource
from input_pipeline.text import Vocabulary

COMPILATION_CACHE = "~/.cache/ds2_jax"
DEFAULT_STREAM = StreamSettings()
DEFAULT_RECORDING = RecordingSettings()


@dataclass(frozen=True)
class Transcript:
    """Result for one clip: the best hypothesis, and `nbest` hypotheses, best first.

    confidence: 0 to 1. score: the natural logarithm by which hypotheses are ranked. sample_rate_hz: of the recording,
    before resampling to the model's rate. remarks: what is wrong with the file, such as a part that is missing.
    turns: the passages of a long recording and their speakers, by time; none for a clip.
    """

    text: str
    words: list[Word]
    confidence: float
    score: float
    nbest: list[Hypothesis] = field(repr=False)
    duration_s: float
    sample_rate_hz: int
    remarks: tuple[str, ...] = ()
    turns: list[Turn] = field(default_factory=list, repr=False)

    def __str__(self) -> str:
        return self.text


class Recogniser:
    """A loaded model, ready to transcribe; `load` returns one.

    Attributes: meta (description of the model), variables (parameters and batch statistics), settings (of decoding),
    engine (the decoder).
    """

    def __init__(self, meta: ModelMeta, variables: dict, settings: BeamSettings):
        self.meta = meta
        self.settings = settings
        self.engine = decode_settings.make_engine(settings, meta)
        self.network = BatchedNetwork(meta, variables)
        self._clips = ClipReader(meta, self.network)
        self._stream_steps: dict[tuple[float, float], StreamStep] = {}

    @property
    def variables(self) -> dict:
        """Parameters and batch statistics, on the devices."""
        return self.network.variables

    @property
    def vocabulary(self) -> Vocabulary:
        """The symbols of the network: column i + 1 of `log_probs` is symbol i, column 0 the blank."""
        return self.meta.vocabulary

    @property
    def sample_rate_hz(self) -> int:
        """The sample rate of the model, to which recordings are resampled."""
        return self.meta.features.sample_rate_hz

    @property
    def joiner(self) -> str:
        """What separates words in a text: a space, or nothing if the network writes none."""
        return " " if " " in self.vocabulary.symbols else ""

    @property
    def output_frame_s(self) -> float:
        """Seconds from one row of `log_probs` to the next."""
        return self.meta.output_frame_s

    @overload
    def transcribe(self, source: Audio) -> Transcript: ...
    @overload
    def transcribe(self, source: list[Audio]) -> list[Transcript]: ...
    def transcribe(self, source):
        """Transcribe a clip, or a list of clips in batches.

        source: the path of an audio file, its content as bytes, a file object, a Segment of one of these, or (samples, rate)
        with samples [N] or [N, channels] and the rate in Hz. Raises AudioError (a ValueError) naming the first unusable
        clip, and TypeError if the source is of another kind.

        A recording of more than 60 s is recognised in parts, in constant memory; its transcript has one hypothesis.
        """
        if not isinstance(source, list):
            clip = self._clips.read(source)
            if isinstance(clip, Long):
                return self._join(self.recognise_recording(clip.source))
            [log_probs] = self._compute([clip])
            return self._decode([clip], [log_probs])[0]
        transcripts: dict[int, Transcript] = {}
        for index, transcript in self.transcribe_each(source):
            if isinstance(transcript, Exception):
                raise transcript
            transcripts[index] = transcript
        return [transcripts[index] for index in range(len(source))]

    def transcribe_each(
        self,
        sources: Iterable[Audio],
        *,
        whole: bool = True,
        settings: RecordingSettings = DEFAULT_RECORDING,
        on_progress: Progress = recording.no_progress,
    ) -> Iterator[tuple[int, Transcript | Exception]]:
        """Yield (index, transcript) of each clip when it is ready, in any order; for an unusable clip, (index, error).

        whole: refuse files that are cut; otherwise, transcribe what is left of them, and say so in `remarks`. settings: of
        recordings of more than 60 s; with separate channels, all clips are recognised as these. on_progress: called while
        such a recording is recognised. Memory does not grow with the number or the length of clips.
        """
        separate = settings.channels == "separate"
        decoding: Future | None = None
        with ThreadPoolExecutor(1, "decode") as host:
            for clips in self._clips.batches(sources, whole=whole, separate=separate):
                if isinstance(clips, Failure):
                    yield clips.index, clips.error
                    continue
                if isinstance(clips, Long):
                    if decoding is not None:
                        yield from decoding.result()
                        decoding = None
                    try:
                        recognised = self.recognise_recording(clips.source, settings, on_progress, whole=whole)
                        yield clips.index, self._join(recognised)
                    except (ValueError, OSError) as error:
                        yield clips.index, error
                    continue
                log_probs = self._compute(clips)
                if decoding is not None:
                    yield from decoding.result()
                decoding = host.submit(self._decode_indexed, clips, log_probs)
            if decoding is not None:
                yield from decoding.result()

    def log_probs(self, source: Audio) -> np.ndarray:
        """Return the network's output for a clip: natural-log probabilities [U, K] f32, blank in column 0.

        source: as for `transcribe`.
        """
        clip = self._clips.read(source)
        if isinstance(clip, Long):
            return np.concatenate(list(self.long_log_probs(clip.source)))
        return self._compute([clip])[0]

    def long_log_probs(self, source: LongSource) -> Iterator[np.ndarray]:
        """Yield the network's output for a recording of any length, as `log_probs`, piece by piece, in constant memory.

        source: a file, its content, a file object, a segment or (samples, rate). Noise is recognised, too. Raises AudioError.
        """
        return recording.log_probs(self.long_recogniser(RecordingSettings(voice_gate="off")), source)

    def recognise_recording(
        self,
        source: LongSource,
        settings: RecordingSettings = DEFAULT_RECORDING,
        on_progress: Progress = recording.no_progress,
        *,
        whole: bool = True,
    ) -> Recording:
        """Recognise a recording of any length, and its channels as speakers if the settings say so. Raises AudioError.

        whole: as for `transcribe_each`.
        """
        separate = settings.channels == "separate"
        long = self.long_recogniser(settings)
        return recording.recognise(long, source, separate=separate, whole=whole, on_progress=on_progress)

    def align(
        self,
        source: Audio,
        text: str,
        *,
        settings: UtteranceSettings = alignment.DEFAULT_UTTERANCES,
        whole: bool = True,
        on_progress: Progress = recording.no_progress,
    ) -> Alignment:
        """Find what was spoken of a text in a recording of any length: its words, their times, and utterances.

        source: as for `transcribe`. Text that was not spoken, and speech that is not in the text, are listed. whole: as for
        `transcribe_each`. Raises AudioError, and ValueError for a text that the model cannot write.
        """
        long = self.long_recogniser(RecordingSettings(voice_gate="off"))
        return alignment.align(long, source, text, settings=settings, whole=whole, on_progress=on_progress)

    def align_exactly(self, source: Audio, text: str) -> list[AlignedWord]:
        """Return the words of the exact text of a clip with their times and those of their symbols.

        source: as for `transcribe`. Raises AudioError, and ValueError for a text that the model cannot write, or that is too
        long for the clip.
        """
        return alignment.align_exactly(self.log_probs(source), text, self.meta)

    def long_recogniser(self, settings: RecordingSettings) -> LongRecogniser:
        """Return the recogniser of long recordings."""
        check = make_check(settings.voice_gate, self.sample_rate_hz)
        part_s = self.meta.part_s if settings.part_s < 0 else settings.part_s
        return LongRecogniser(self.network, self.engine, check, CutSettings(shortest_s=part_s))

    def stream(self, sample_rate_hz: int = 0, settings: StreamSettings = DEFAULT_STREAM) -> Stream:
        """Start a stream of audio with this sample rate (0: the model's).

        Raises ValueError for a model or a decoder that cannot be used for streams.
        """
        return Stream(
            self.meta, self.engine, self.stream_step(settings), settings, sample_rate_hz or self.sample_rate_hz
        )

    def stream_step(self, settings: StreamSettings = DEFAULT_STREAM) -> StreamStep:
        """Return the network's step for streams of these sizes, compiled once for each number of streams."""
        sizes = settings.chunk_ms, settings.right_ms
        if sizes not in self._stream_steps:
            self._stream_steps[sizes] = StreamStep(self.meta, self.variables, *sizes)
        return self._stream_steps[sizes]

    def decode(self, log_probs: Sequence[np.ndarray]) -> list[list[Hypothesis]]:
        """Decode natural-log probabilities [U, K] of each clip; return the hypotheses of each, best first."""
        return self.engine.decode_batch(log_probs)

    def _join(self, recognised: Recording) -> Transcript:
        """Return the passages of a recording as one transcript."""
        best = join_passages((turn.passage for turn in recognised.turns), self.joiner)
        facts = recognised.duration_s, recognised.sample_rate_hz, recognised.remarks, recognised.turns
        return Transcript(best.text, best.words, best.confidence, best.score, [best], *facts)

    def _compute(self, clips: Sequence[Clip]) -> list[np.ndarray]:
        """Return the natural-log probabilities [U, K] of clips that fit a shape together."""
        processes.report_progress(f"transcribe: {len(clips)} clips")
        return self.network([clip.features for clip in clips])

    def _decode(self, clips: Sequence[Clip], log_probs: Sequence[np.ndarray]) -> list[Transcript]:
        return [
            Transcript(
                best.text,
                best.words,
                best.confidence,
                best.score,
                nbest,
                clip.duration_s,
                clip.sample_rate_hz,
                clip.remarks,
            )
            for clip, nbest in zip(clips, self.decode(log_probs), strict=True)
            for best in nbest[:1]
        ]

    def _decode_indexed(self, clips: Sequence[Clip], log_probs: Sequence[np.ndarray]) -> list[tuple[int, Transcript]]:
        return [(clip.index, t) for clip, t in zip(clips, self._decode(clips, log_probs), strict=True)]


def load(model: str | os.PathLike, **decode: Any) -> Recogniser:
    """Load a model for transcription: a bundle, a checkpoint, a run folder (its best checkpoint), or the name of a release.

    decode: fields of BeamSettings, such as engine="greedy", nbest=5, lm="lm.bin", hot_words="rubout:3"; the others come
    from the bundle, else from the defaults. Raises ModelFileError or ValueError with what to do, TypeError for unknown fields.
    """
    unknown = sorted(set(decode) - set(BeamSettings.__dataclass_fields__))
    if unknown:
        raise TypeError(f"unknown setting {unknown[0]!r}: use one of {', '.join(BeamSettings.__dataclass_fields__)}")
    _use_compilation_cache()
    path = os.fspath(model)
    settings = decode_settings.complete(decode, path)
    meta, variables = load_model(path)
    return Recogniser(meta, variables, settings)


def _use_compilation_cache() -> None:
    """Cache compiled programs for later processes, unless the user has configured JAX's cache."""
    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser(COMPILATION_CACHE))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
