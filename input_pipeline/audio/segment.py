"""What can be read as audio: a file, its content, a file object; or a part of one of these."""

import os
from dataclasses import dataclass
from typing import BinaryIO

File = str | os.PathLike | bytes | BinaryIO  # bytes are a file's content, not its name


@dataclass(frozen=True)
class Segment:
    """A part of a recording, or one of its channels.

    offset_s: where it begins. duration_s: its length; 0 for all that follows. channel: counted from 0; None for the average
    of all channels.
    """

    source: File
    offset_s: float = 0.0
    duration_s: float = 0.0
    channel: int | None = None

    @property
    def is_part(self) -> bool:
        """Whether less than the whole length is meant."""
        return self.offset_s > 0 or self.duration_s > 0

    def __str__(self) -> str:
        """Describe the segment for a message: `call.flac, 4.5 to 8.6 s, channel 1`."""
        described = describe_part(self.offset_s, self.duration_s, self.channel)
        name = source_name(self.source)
        return f"{name}, {described}" if described else name


Source = File | Segment


def source_name(source: File) -> str:
    """Return the name of a file for messages."""
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    return str(getattr(source, "name", "the given audio"))


def name_of(source: Source) -> str:
    """Return the name of a file, or describe a segment, for messages."""
    return str(source) if isinstance(source, Segment) else source_name(source)


def describe_part(offset_s: float, duration_s: float, channel: int | None) -> str:
    """Describe a part of a recording: `4.5 to 8.6 s, channel 1`; '' for all of it."""
    parts = []
    if duration_s > 0:
        parts.append(f"{round(offset_s, 3):g} to {round(offset_s + duration_s, 3):g} s")
    elif offset_s > 0:
        parts.append(f"from {round(offset_s, 3):g} s")
    return ", ".join(parts if channel is None else [*parts, f"channel {channel}"])
