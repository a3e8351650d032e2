"""Audio files, and features computed from them."""

from input_pipeline.audio.reader import (
    AudioError,
    AudioInfo,
    Source,
    from_array,
    info,
    is_there,
    read,
    rms_db,
    write_flac,
)

__all__ = [
    "AudioError",
    "AudioInfo",
    "Source",
    "from_array",
    "info",
    "is_there",
    "read",
    "rms_db",
    "write_flac",
]
