"""Read a recording of any length as a stream of blocks, in constant memory."""

import contextlib
import math
from collections.abc import Iterator

import numpy as np
import soundfile

from input_pipeline.audio import ffmpeg
from input_pipeline.audio.opening import COMPLETE, CONVERT, UNKNOWN, AudioError, Recording, open_audio
from input_pipeline.audio.reader import (
    ARRAY,
    check_array,
    check_channel,
    check_finite,
    check_inside,
    full_scale,
    read_blocks,
    resolve,
)
from input_pipeline.audio.segment import Segment, Source

BLOCK_S = 1.0  # of which nothing is kept where damaged content begins

LongSource = Source | tuple[np.ndarray, int]  # an array has samples [N] or [N, channels], and its rate in Hz


class LongAudio:
    """A recording that is open; `open_long` returns one.

    Attributes: name, sample_rate_hz, channels, duration_s (as the header states; 0 if it does not), read_s (seconds read so
    far), remarks (what is wrong with it; complete when all blocks are read).
    """

    def __init__(self, name: str, sample_rate_hz: int, channels: int, duration_s: float):
        self.name, self.sample_rate_hz, self.channels, self.duration_s = name, sample_rate_hz, channels, duration_s
        self.remarks: list[str] = []
        self.read_s = 0.0

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield the samples [n, channels], once. Raises AudioError for samples that are not finite."""
        count = 0
        for block in self._read():
            check_finite(block, f"{self.name}, after {self.read_s:.0f} s,")
            count += len(block)
            self.read_s = count / self.sample_rate_hz
            yield block

    def _read(self) -> Iterator[np.ndarray]:
        raise NotImplementedError


class _Array(LongAudio):
    """Samples in memory."""

    def __init__(self, samples: np.ndarray, sample_rate_hz: int):
        self._samples = check_array(samples, sample_rate_hz)
        super().__init__(ARRAY, int(sample_rate_hz), self._samples.shape[1], len(samples) / sample_rate_hz)

    def _read(self) -> Iterator[np.ndarray]:
        size = int(BLOCK_S * self.sample_rate_hz)
        for start in range(0, len(self._samples), size):
            yield full_scale(self._samples[start : start + size])


class _File(LongAudio):
    """A file, or a segment of one."""

    def __init__(self, recording: Recording, segment: Segment, *, whole: bool):
        rate_hz, frames = recording.rate_hz, recording.frames
        self._recording, self._segment, self._whole = recording, segment, whole
        self._reason = ""  # why less than all can be read
        self._first = round(segment.offset_s * rate_hz)
        self._wanted = round(segment.duration_s * rate_hz) if segment.duration_s else UNKNOWN
        if frames < UNKNOWN:
            check_inside(segment, frames / rate_hz, recording.name)
            self._wanted = min(self._wanted, frames - self._first)
        stated_s = self._wanted / rate_hz if self._wanted < UNKNOWN else 0.0
        super().__init__(recording.name, rate_hz, recording.channels if segment.channel is None else 1, stated_s)
        self.remarks = recording.remarks

    def _read(self) -> Iterator[np.ndarray]:
        """Yield the samples as far as they can be read. Raises AudioError for a cut file if it is to be whole."""
        was_cut = bool(self.remarks)
        yield from self._read_from(self._recording, self._first, self._wanted)
        if not self._reason and not self._segment.is_part and self._recording.has_unread():
            yield from self._read_rest()
        if self._reason or self.read_s < COMPLETE * self.duration_s:
            stated = f" of {self.duration_s:.1f} s" if self.duration_s else ""
            remark = f"{self.name} ends early: {self.read_s:.1f} s{stated} could be read{self._reason}; copy it again"
            if self._whole:
                raise AudioError(remark)
            self.remarks.append(remark)
        elif was_cut:
            self.remarks.append(f"{self.name}: {self.read_s:.1f} s are read")

    def _read_from(self, recording: Recording, first: int, count: int) -> Iterator[np.ndarray]:
        channel, size = self._segment.channel, int(BLOCK_S * self.sample_rate_hz)
        try:
            for block in read_blocks(recording, first, count, "float32", size):
                yield block if channel is None else block[:, channel : channel + 1]
        except soundfile.SoundFileError as error:
            self._reason = f" ({str(getattr(error, 'error_string', error)).rstrip('.')})"

    def _read_rest(self) -> Iterator[np.ndarray]:
        """Yield what follows the samples that the header of a FLAC file counts: of this file, or of others joined to it."""
        counted_s = self.read_s
        with open_audio(resolve(self._segment.source), whole=False, uncounted=True) as recording:
            if recording.frames < UNKNOWN:
                self.duration_s = recording.frames / self.sample_rate_hz
            yield from self._read_from(recording, round(counted_s * self.sample_rate_hz), UNKNOWN)
            self.remarks += recording.remarks or [
                f"{self.name} has {self.read_s:.1f} s, of which its header counts {counted_s:.1f} s; all are read (to correct "
                f"it: {CONVERT})"
            ]


@contextlib.contextmanager
def open_long(source: LongSource, *, whole: bool = True) -> Iterator[LongAudio]:
    """Open a file, its content, a file object, a segment of one of these, or an array; read it from its beginning.

    whole: refuse a file that is cut; otherwise, it is read as far as it goes, and `remarks` says so. Raises AudioError.
    """
    if isinstance(source, tuple):
        yield _Array(*source)
        return
    segment = source if isinstance(source, Segment) else Segment(source)
    with open_audio(resolve(segment.source), whole=whole) as recording:
        check_channel(segment, recording)
        yield _File(recording, segment, whole=whole)


def stated_s(source: Source) -> float:
    """Return the seconds of a file as its header states them; infinity if that is not known before it is decoded.

    0 for a file that cannot be opened, which is explained where it is read.
    """
    segment = source if isinstance(source, Segment) else Segment(source)
    if segment.duration_s:
        return segment.duration_s
    try:
        if ffmpeg.container_of(segment.source):
            return math.inf
        with open_audio(segment.source, whole=False) as recording:
            frames, rate_hz = recording.frames, recording.rate_hz
    except (AudioError, OSError):
        return 0.0
    return math.inf if frames >= UNKNOWN else frames / rate_hz - segment.offset_s
