"""Speech in, text out: a loaded model that transcribes clips of any number and format."""

import collections
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NamedTuple, overload

import jax
import numpy as np

from decoding.hypothesis import Hypothesis, Word
from decoding.settings import BeamSettings
from ds2_jax.artifacts.bundle import ModelMeta
from ds2_jax.artifacts.load import load_model
from ds2_jax.parallel import processes, sharding
from ds2_jax.recognition import decode_settings
from ds2_jax.recognition.step import make_forward
from input_pipeline import audio
from input_pipeline.audio.features import frame_count
from input_pipeline.cores import usable_cores
from input_pipeline.text import Vocabulary

# Clips are padded to one of a few shapes, so that any number of them compiles these eight programs at most: seconds of the
# longest clip, and clips computed at once. A single clip takes the first of the former that it fits into.
SINGLE_S = (3.0, 7.0, 15.0, 30.0, 60.0)
BATCHES = ((4.0, 16), (10.0, 8), (20.0, 4))
LONGEST_S = SINGLE_S[-1]
COMPILATION_CACHE = "~/.cache/ds2_jax"
READ_AHEAD = 32  # clips that are read before they are computed

Audio = str | os.PathLike | bytes | BinaryIO | tuple[np.ndarray, int]


@dataclass(frozen=True)
class Transcript:
    """What was recognised in a clip: the best hypothesis, and `nbest` of them, best first.

    confidence: 0 to 1. score: what the hypotheses are ranked by, natural logarithm. sample_rate_hz: of the recording, which
    is resampled where the model's is another.
    """

    text: str
    words: list[Word]
    confidence: float
    score: float
    nbest: list[Hypothesis] = field(repr=False)
    duration_s: float
    sample_rate_hz: int

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class _Clip:
    """A clip that is ready for the network."""

    index: int
    features: np.ndarray  # [T, F]
    duration_s: float
    sample_rate_hz: int


@dataclass(frozen=True)
class _Failure:
    """A clip that cannot be used, and why."""

    index: int
    error: Exception


class _Shape(NamedTuple):
    frames: int
    rows: int


class Recogniser:
    """A model that is ready to transcribe; `load` makes one.

    Attributes: meta (the model's description), variables (its parameters and batch statistics), settings (how is decoded),
    engine (what decodes).
    """

    def __init__(self, meta: ModelMeta, variables: dict, settings: BeamSettings):
        self.meta = meta
        self.settings = settings
        self.engine = decode_settings.make_engine(settings, meta)
        mesh = sharding.local_mesh()
        everywhere, rows = sharding.replicated(mesh), sharding.row_sharding(mesh)
        self.variables = sharding.put(variables, everywhere)
        self._forward = jax.jit(make_forward(meta.network), in_shardings=(everywhere, rows, rows), out_shardings=rows)
        self._devices = mesh.size
        self._singles = [self._shape(seconds, 1) for seconds in SINGLE_S]
        self._batches = [self._shape(seconds, rows) for seconds, rows in BATCHES]

    @property
    def vocabulary(self) -> Vocabulary:
        """The symbols of the network; column i + 1 of `log_probs` is symbol i, column 0 the blank."""
        return self.meta.vocabulary

    @property
    def sample_rate_hz(self) -> int:
        """The rate that recordings are resampled to."""
        return self.meta.features.sample_rate_hz

    @property
    def output_frame_s(self) -> float:
        """Seconds between two rows of `log_probs`."""
        return self.meta.output_frame_s

    @overload
    def transcribe(self, source: Audio) -> Transcript: ...
    @overload
    def transcribe(self, source: list[Audio]) -> list[Transcript]: ...
    def transcribe(self, source):
        """Transcribe a clip, or a list of clips, which are computed in batches.

        source: the path of an audio file, its content as bytes, a file object, or samples [N] or [N, channels] with their
        rate in Hz, (samples, rate). Raises AudioError (a ValueError) naming the first clip that cannot be used, and
        TypeError for what is no audio.
        """
        if not isinstance(source, list):
            clip = self._read(0, source)
            [log_probs] = self._compute([clip], self._fitting(self._singles, clip))
            return self._decode([clip], [log_probs])[0]
        found: dict[int, Transcript] = {}
        for index, transcript in self.transcribe_each(source):
            if isinstance(transcript, Exception):
                raise transcript
            found[index] = transcript
        return [found[index] for index in range(len(source))]

    def transcribe_each(self, sources: Iterable[Audio]) -> Iterator[tuple[int, Transcript | Exception]]:
        """Yield (index, transcript) of each clip as soon as it is there, in any order; of an unusable one, its error.

        Any number of clips takes the same memory.
        """
        decoding: Future | None = None
        with ThreadPoolExecutor(1, "decode") as host:
            for clips in self._batched(sources):
                if isinstance(clips, _Failure):
                    yield clips.index, clips.error
                    continue
                shapes = self._singles if len(clips) == 1 else self._batches
                log_probs = self._compute(clips, self._fitting(shapes, *clips))
                if decoding is not None:
                    yield from decoding.result()
                decoding = host.submit(self._indexed, clips, log_probs)
            if decoding is not None:
                yield from decoding.result()

    def log_probs(self, source: Audio) -> np.ndarray:
        """Return the network's output for a clip: natural-log probabilities [U, K] f32, blank first.

        source: as for `transcribe`.
        """
        clip = self._read(0, source)
        return self._compute([clip], self._fitting(self._singles, clip))[0]

    def decode(self, log_probs: Sequence[np.ndarray]) -> list[list[Hypothesis]]:
        """Decode natural-log probabilities [U, K], one array a clip -> its hypotheses, best first."""
        return self.engine.decode_batch(log_probs)

    def _shape(self, seconds: float, rows: int) -> _Shape:
        settings = self.meta.features
        samples = round(seconds * settings.sample_rate_hz) + settings.window_samples
        return _Shape(int(frame_count(samples, settings)), -(-rows // self._devices) * self._devices)

    @staticmethod
    def _fitting(shapes: Sequence[_Shape], *clips: _Clip) -> _Shape:
        """Return the first shape that all clips fit into."""
        longest = max(len(clip.features) for clip in clips)
        return next(shape for shape in shapes if longest <= shape.frames)

    def _read(self, index: int, source: Audio) -> _Clip:
        """Read a clip and make its features. Raises AudioError, FeatureError, TypeError."""
        rate_hz = self.sample_rate_hz
        if isinstance(source, tuple):
            if len(source) != 2 or not isinstance(source[0], np.ndarray):
                raise TypeError("a tuple is samples and their rate: (numpy array, 16000)")
            samples, own_rate_hz = audio.from_array(*source, rate_hz), int(source[1])
        elif isinstance(source, str | os.PathLike | bytes) or hasattr(source, "read"):
            samples, own_rate_hz = audio.read(source, rate_hz)
        else:
            raise TypeError(
                f"{type(source).__name__} is no audio: give a path, bytes, a file object or (samples, sample_rate_hz)"
            )
        name = source if isinstance(source, str | os.PathLike) else "the clip"
        duration_s = len(samples) / rate_hz
        if duration_s > LONGEST_S:
            raise audio.AudioError(
                f"{name} lasts {duration_s:.1f} s, and clips of up to {LONGEST_S:g} s are transcribed: cut it at pauses"
            )
        try:
            features = self.meta.front_end(samples)
        except ValueError as error:  # of the samples, which do not know their file
            raise audio.AudioError(f"{name}: {error}") from error
        return _Clip(index, features, duration_s, own_rate_hz)

    def _batched(self, sources: Iterable[Audio]) -> Iterator[list[_Clip] | _Failure]:
        """Read clips in threads and put those of similar length together; yield failures as they come."""
        waiting: dict[_Shape | None, list[_Clip]] = collections.defaultdict(list)
        for read in self._read_ahead(enumerate(sources)):
            if isinstance(read, _Failure):
                yield read
                continue
            shape = next((shape for shape in self._batches if len(read.features) <= shape.frames), None)
            waiting[shape].append(read)
            if shape is None or len(waiting[shape]) == shape.rows:
                yield waiting.pop(shape)
        yield from waiting.values()

    def _read_ahead(self, sources: Iterator[tuple[int, Audio]]) -> Iterator[_Clip | _Failure]:
        """Read the sources in threads, ahead of their use, in order."""

        def attempt(index: int, source: Audio) -> _Clip | _Failure:
            try:
                return self._read(index, source)
            except (ValueError, OSError, TypeError) as error:
                return _Failure(index, error)

        pending: collections.deque[Future] = collections.deque()
        with ThreadPoolExecutor(usable_cores(), "read") as pool:
            for index, source in sources:
                pending.append(pool.submit(attempt, index, source))
                if len(pending) >= READ_AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()

    def _compute(self, clips: Sequence[_Clip], shape: _Shape) -> list[np.ndarray]:
        """Run the network on clips that fit a shape -> natural-log probabilities [U, K] of each."""
        spectrogram = np.zeros((shape.rows, shape.frames, self.meta.feature_size), np.float32)
        frames = np.zeros(shape.rows, np.int32)
        for row, clip in enumerate(clips):
            spectrogram[row, : len(clip.features)] = clip.features
            frames[row] = len(clip.features)
        processes.report_progress(f"transcribe: {len(clips)} clips")
        log_probs, lengths = jax.device_get(self._forward(self.variables, spectrogram, frames))
        return [log_probs[row, : lengths[row]] for row in range(len(clips))]

    def _decode(self, clips: Sequence[_Clip], log_probs: Sequence[np.ndarray]) -> list[Transcript]:
        return [
            Transcript(best.text, best.words, best.confidence, best.score, nbest, clip.duration_s, clip.sample_rate_hz)
            for clip, nbest in zip(clips, self.decode(log_probs), strict=True)
            for best in nbest[:1]
        ]

    def _indexed(self, clips: Sequence[_Clip], log_probs: Sequence[np.ndarray]) -> list[tuple[int, Transcript]]:
        return [(clip.index, t) for clip, t in zip(clips, self._decode(clips, log_probs), strict=True)]


def load(model: str | os.PathLike, **decode: Any) -> Recogniser:
    """Load a model for transcription: a bundle, a checkpoint, or a run folder (then its best checkpoint).

    decode: fields of BeamSettings, such as engine="greedy", nbest=5, lm="lm.bin", hot_words="rubout:3"; what is not named
    comes with the bundle's language model. Raises ModelFileError and ValueError that say what to do.
    """
    unknown = sorted(set(decode) - set(BeamSettings.__dataclass_fields__))
    if unknown:
        raise TypeError(f"there is no setting {unknown[0]!r}; there are {', '.join(BeamSettings.__dataclass_fields__)}")
    _use_compilation_cache()
    path = os.fspath(model)
    settings = decode_settings.complete(decode, path)
    meta, variables = load_model(path)
    return Recogniser(meta, variables, settings)


def _use_compilation_cache() -> None:
    """Keep compiled programs for the next process, unless the user of JAX has said where."""
    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser(COMPILATION_CACHE))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
