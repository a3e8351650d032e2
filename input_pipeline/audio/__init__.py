"""Audio files, and features computed from them."""

from input_pipeline.audio.opening import AudioError
from input_pipeline.audio.reader import (
    AudioInfo,
    Loaded,
    cut,
    from_array,
    info,
    is_there,
    load,
    read,
    rms_db,
    write_flac,
)
from input_pipeline.audio.segment import File, Segment, Source, describe_part, name_of

__all__ = [
    "AudioError",
    "AudioInfo",
    "File",
    "Loaded",
    "Segment",
    "Source",
    "cut",
    "describe_part",
    "from_array",
    "info",
    "is_there",
    "load",
    "name_of",
    "read",
    "rms_db",
    "write_flac",
]
