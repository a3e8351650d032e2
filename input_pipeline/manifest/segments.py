"""Where the audio of a manifest's rows is: files, or segments and channels of longer ones."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from input_pipeline import audio
from input_pipeline.columns import Strings

SEGMENT_KEYS = ("offset", "channel")
# Other programs' names for what a row is a part of; ignored, a row would be its whole file.
REFUSED_KEYS = ("start", "end", "begin", "stop", "segment", "channels_selector")
ALL_CHANNELS = -1
MOST_CHANNELS = 127
PACKED_KEYS = {key: f"packed_{key}" for key in SEGMENT_KEYS}  # where a row that was packed into shards keeps them


@dataclass(frozen=True)
class Segments(Sequence[audio.Source]):
    """The audio of rows, as columns; a row becomes a path or a Segment when it is read."""

    path: Strings
    duration: np.ndarray  # [N] float64, seconds; nan if unknown
    offset: np.ndarray  # [N] float64, seconds; nan for a whole file
    channel: np.ndarray  # [N] int8, from 0; ALL_CHANNELS for their average

    def __len__(self) -> int:
        return len(self.path)

    def __getitem__(self, row):
        if isinstance(row, slice):
            return self.take(np.arange(len(self))[row])
        return self.of(row, self.path[row])

    def of(self, row: int, source: audio.File) -> audio.Source:
        """Return what the row is of a file that was opened or fetched for it."""
        channel, offset = int(self.channel[row]), float(self.offset[row])
        if math.isnan(offset):
            return source if channel == ALL_CHANNELS else audio.Segment(source, channel=channel)
        duration = float(np.nan_to_num(self.duration[row]))
        return audio.Segment(source, offset, duration, None if channel == ALL_CHANNELS else channel)

    def take(self, rows: np.ndarray) -> "Segments":
        """Return these rows [n], in this order."""
        return Segments(self.path.take(rows), self.duration[rows], self.offset[rows], self.channel[rows])

    @classmethod
    def concatenate(cls, parts: Sequence["Segments"]) -> "Segments":
        """Return one column of the rows of several."""
        arrays = zip(*((part.duration, part.offset, part.channel) for part in parts), strict=True)
        return cls(Strings.concatenate([part.path for part in parts]), *map(np.concatenate, arrays))


def refused_key(record: Mapping, ignored: Sequence[str]) -> str:
    """Return the first key that changes what a row is, but is not understood; '' if there is none."""
    return next((key for key in REFUSED_KEYS if key in record and key not in ignored), "")


def parse_offset(value: object) -> float | None:
    """Return seconds, nan if absent; None for a value that is none."""
    if value is None:
        return math.nan
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf:
        return float(value)
    return None


def parse_channel(value: object) -> int | None:
    """Return a channel's number, ALL_CHANNELS if absent; None for a value that is none."""
    if value is None:
        return ALL_CHANNELS
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_CHANNELS:
        return value
    return None
