"""Run the network over the next chunk of many streams at once."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ds2_jax.artifacts.bundle import ModelMeta
from ds2_jax.network.stream import ENDLESS, Chunking, NetworkState, StreamingDeepSpeech2, initial_state
from input_pipeline.audio.features import FLOOR, OF_WHOLE_CLIPS

CHUNK_MS = {False: 120.0, True: 400.0}  # default of a unidirectional and of a bidirectional network
SIZES = (1, 2, 4, 8, 16, 32, 64)  # streams of a step; each is compiled once


class StreamState(NamedTuple):
    """The memory of a stream on the device: the last frames [1, W - c * s, F], and what the network carries."""

    frames: jax.Array
    network: NetworkState

    @property
    def bytes(self) -> int:
        """Size of the state."""
        return sum(array.nbytes for array in jax.tree.leaves(self))


@dataclass(frozen=True)
class Chunk:
    """Input of a step of one stream.

    frames [n, F] f32, n at most c * s, and less only at the end. number: steps before it. total: frames of the utterance,
    ENDLESS until they are known. gain: power gain of all frames.
    """

    frames: np.ndarray
    number: int
    total: int
    gain: float
    state: StreamState


@dataclass(frozen=True)
class Output:
    """Output of a step of one stream: natural-log probabilities [c, K] f32, and the next state."""

    log_probs: np.ndarray
    state: StreamState


class _Inputs(NamedTuple):
    """Inputs of a step: new frames [B, c * s, F], steps before it [B], frames of the utterance [B], power gains [B]."""

    frames: np.ndarray
    numbers: np.ndarray
    totals: np.ndarray
    gains: np.ndarray


class StreamStep:
    """The compiled steps of a model. Raises ValueError for a model that cannot be streamed.

    chunk_ms, right_ms: as in StreamSettings.

    Attributes: chunking (sizes), initial (state of a new utterance), lookahead_ms (audio that follows an output frame and
    on which it depends, beside the rest of its chunk), chunk_ms.
    """

    def __init__(self, meta: ModelMeta, variables: dict, chunk_ms: float, right_ms: float):
        if meta.normalisation in ("utterance", "clip"):
            raise ValueError(
                f"config.features.normalisation of this model is {meta.normalisation!r}, which needs the whole clip: stream a model "
                "that was trained with 'corpus'"
            )
        if meta.features.kind in OF_WHOLE_CLIPS:
            raise ValueError(
                f"config.features.kind of this model is {meta.features.kind!r}, which needs the audio that follows a frame: stream "
                "a model that was trained with 'fbank' or 'linear'"
            )
        if meta.features.source_rate_hz:
            raise ValueError(
                f"this model resamples whole clips to {meta.features.source_rate_hz} Hz first (config.features.source_rate_hz), "
                "which a stream cannot: transcribe files with it, --mode=infer"
            )
        two_ways = meta.model.bidirectional
        frame_ms = meta.output_frame_s * 1000
        chunk = max(1, round((chunk_ms or CHUNK_MS[two_ways]) / frame_ms))
        self.chunking = Chunking(meta.model, chunk, round(right_ms / frame_ms) if two_ways else 0)
        self.chunk_ms = chunk * frame_ms
        self.lookahead_ms = self.chunking.lookahead_frames * meta.features.stride_ms
        self._variables = variables
        self._features = meta.feature_size
        window = self.chunking.window - self.chunking.frames
        initial = StreamState(jnp.zeros((1, window, self._features)), initial_state(self.chunking, 1))
        # where the states of later steps are: elsewhere, each step would be compiled twice
        self.initial = jax.device_put(initial, jax.tree.leaves(variables)[0].sharding)
        self._run = jax.jit(
            functools.partial(_step, StreamingDeepSpeech2(self.chunking, meta.vocabulary.size), _normaliser(meta))
        )

    def __call__(self, chunks: Sequence[Chunk]) -> list[Output]:
        """Run the network on a chunk of each of 1 to 64 streams."""
        rows = next(size for size in SIZES if size >= len(chunks))
        inputs = _Inputs(
            np.zeros((rows, self.chunking.frames, self._features), np.float32),
            np.zeros(rows, np.int32),
            np.zeros(rows, np.int32),
            np.ones(rows, np.float32),
        )
        for row, chunk in enumerate(chunks):
            inputs.frames[row, : len(chunk.frames)] = chunk.frames
            inputs.numbers[row], inputs.totals[row], inputs.gains[row] = chunk.number, chunk.total, chunk.gain
        states = [chunk.state for chunk in chunks] + [self.initial] * (rows - len(chunks))
        log_probs, states = self._run(self._variables, states, inputs)
        log_probs = jax.device_get(log_probs)
        return [Output(log_probs[row], states[row]) for row in range(len(chunks))]

    def warm_up(self, streams: int) -> None:
        """Compile the steps for up to this many streams."""
        for size in SIZES:
            self([Chunk(np.zeros((0, self._features), np.float32), 0, ENDLESS, 1.0, self.initial)] * size)
            if size >= streams:
                break


def _normaliser(meta: ModelMeta):
    """Return the function that brings frames [B, W, F] to their level, by gains [B], and normalises them by statistics."""
    stats = meta.stats if meta.normalisation == "corpus" else None
    whole_clip = meta.features.normalise_db and not meta.features.level_s

    def normalise(frames: jax.Array, gains: jax.Array) -> jax.Array:
        if whole_clip:  # frames are ln(power + FLOOR)
            frames = jnp.log(jnp.maximum(jnp.exp(frames) - FLOOR, 0) * gains[:, None, None] + FLOOR)
        return frames if stats is None else (frames - stats.mean) / (stats.std + 1e-14)

    return normalise


def _step(network, normalise, variables, states, inputs):
    """Return log probabilities [B, c, K], and the next state of each stream."""
    state = jax.tree.map(lambda *rows: jnp.concatenate(rows), *states)
    window = jnp.concatenate([state.frames, inputs.frames], axis=1)
    frames = normalise(window, inputs.gains)
    logits, carried = network.apply(variables, frames, inputs.numbers, inputs.totals, state.network)
    after = StreamState(window[:, inputs.frames.shape[1] :], carried)
    return jax.nn.log_softmax(logits), [
        jax.tree.map(lambda array, row=row: array[row : row + 1], after) for row in range(len(states))
    ]
