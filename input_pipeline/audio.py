"""Read audio files: any format of libsndfile, any rate and number of channels, as mono float32.

WAV, FLAC, Ogg (Vorbis, Opus), MP3 and NIST SPHERE are told apart by their content, not by their name.
"""

import os
from typing import BinaryIO, NamedTuple

import numpy as np
import soundfile
import soxr

Source = str | os.PathLike | BinaryIO

_SHORTEN = b"ajkg"  # magic of audio compressed by 'shorten', behind a SPHERE header of 1024 bytes


class AudioError(ValueError):
    """Audio that cannot be used; the message names the file and what to do."""


class AudioInfo(NamedTuple):
    """What a file's header says."""

    samples: int  # of one channel
    sample_rate_hz: int
    channels: int
    duration_s: float


def read(source: Source, sample_rate_hz: int | None = None) -> tuple[np.ndarray, int]:
    """Read mono samples [N] float32 in [-1, 1], at the rate asked for, and return the file's own rate beside them.

    Channels are averaged. Raises AudioError where there is nothing to read, or values are not finite.
    """
    name = _name(source)
    try:
        samples, own_rate_hz = soundfile.read(source, dtype="float32", always_2d=True)
    except (OSError, soundfile.SoundFileError, TypeError) as error:
        raise AudioError(_why_unreadable(source, name, error)) from error
    if samples.shape[0] == 0:
        raise AudioError(f"{name} holds no samples; record it again or remove it")
    mono = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)
    if not np.isfinite(mono).all():
        raise AudioError(f"{name} holds values that are not finite; convert it again, to 16-bit samples")
    if sample_rate_hz and sample_rate_hz != own_rate_hz:
        mono = soxr.resample(mono, own_rate_hz, sample_rate_hz, quality="HQ")
        if len(mono) == 0:
            raise AudioError(
                f"{name} is too short to be resampled from {own_rate_hz} to {sample_rate_hz} Hz; remove it"
            )
    return np.ascontiguousarray(mono, np.float32), own_rate_hz


def info(source: Source) -> AudioInfo:
    """Read a file's header. Raises AudioError."""
    name = _name(source)
    try:
        header = soundfile.info(source)
    except (OSError, soundfile.SoundFileError, TypeError) as error:
        raise AudioError(_why_unreadable(source, name, error)) from error
    if header.frames == 0:
        raise AudioError(f"{name} holds no samples; record it again or remove it")
    return AudioInfo(header.frames, header.samplerate, header.channels, header.frames / header.samplerate)


def rms_db(samples: np.ndarray) -> float:
    """Return 10 log10(mean(x^2)) of samples [N]; -inf for digital silence."""
    power = float(np.mean(np.square(samples, dtype=np.float64)))
    return 10.0 * np.log10(power) if power > 0 else -np.inf


def _name(source: Source) -> str:
    return os.fspath(source) if isinstance(source, str | os.PathLike) else getattr(source, "name", "the audio received")


def _why_unreadable(source: Source, name: str, error: Exception) -> str:
    if isinstance(source, str | os.PathLike):
        if not os.path.exists(source):
            return f"{name} does not exist; check the path"
        if os.path.isdir(source):
            return f"{name} is a folder; name an audio file"
        if not os.access(source, os.R_OK):
            return f"{name} may not be read; change its permissions"
        if os.path.getsize(source) == 0:
            return f"{name} is empty; record it again or remove it"
        with open(source, "rb") as file:
            if file.read(1028)[1024:] == _SHORTEN:
                return f"{name} is compressed with 'shorten'; decompress it first: sph2pipe -p -f wav {name} out.wav"
    return f"{name} is no audio that libsndfile reads ({error}); convert it to WAV or FLAC"
