"""Read audio of any format of libsndfile, sample rate and number of channels as mono float32.

WAV, FLAC, Ogg (Vorbis, Opus), MP3 and NIST SPHERE are recognised by content, not by name. A path may also be a reference
to a record of a shard or the address of an object (input_pipeline/shards/source.py).
"""

import contextlib
import io
import os
import re
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np
import soundfile
import soxr

from input_pipeline.audio import containers
from input_pipeline.shards import source as shard_source
from input_pipeline.shards.format import parse_reference
from input_pipeline.storage import whole_file
from input_pipeline.storage.object_store import is_remote

Source = str | os.PathLike | bytes | BinaryIO  # bytes are a file's content, not its name

_COMPLETE = 0.99  # share of the stated samples that a complete file has: MP3 headers are slightly wrong
_SPHERE, _SPHERE_BYTES = b"NIST_1A", 1024  # start and size of a SPHERE header
_SHORTEN, _SHORTEN_MAGIC = b"shorten", b"ajkg"  # in the header of compressed samples, and at their start
_SPHERE_SAMPLES = re.compile(rb"^sample_count -i (\d+)$", re.MULTILINE)  # of each channel
# libsndfile reduces the size stated in a header to the bytes present, and reports it only in its log.
_STATED_SIZE = re.compile(r"^ *(?:data|SSND|Data Size|riff|Riff size) *: (\d+) \(should be (\d+)\)", re.MULTILINE)
_NO_SIZE = 0x7FFF0000  # programs that write to a pipe state a size from here on, as they do not know it
_UNKNOWN = 2**62  # samples that libsndfile reports for a FLAC file written to a pipe
_MP3_SLACK = 3 * 1152  # samples that encoders add at both ends, and the frame of the header
_NO_END = "Last page lacks an end-of-stream bit"
_CONVERT = "ffmpeg -i IN OUT.flac"
_MALFORMED = ("malformed", "lost sync")  # libsndfile's messages for damaged content of a known format


class AudioError(ValueError):
    """Audio that cannot be used; the message names the file and says what to do."""


class AudioInfo(NamedTuple):
    """What a file's header states."""

    samples: int  # of one channel
    sample_rate_hz: int
    channels: int
    duration_s: float


def read(source: Source, sample_rate_hz: int | None = None, *, first_channel: bool = False) -> tuple[np.ndarray, int]:
    """Read mono samples [N] float32 in [-1, 1], resampled to `sample_rate_hz` if it is given; also return the file's rate.

    Channels are averaged unless `first_channel` is set. A file object is read from its beginning. Raises AudioError for
    audio that is missing, empty, truncated or not finite.
    """
    source = _resolve(source)
    name = _name(source)
    with _open(source) as file:
        samples, stated, own_rate_hz = file.read(dtype="float32", always_2d=True), file.frames, file.samplerate
    _check_not_empty(len(samples), name)
    if len(samples) < _COMPLETE * stated:
        raise AudioError(f"{name} is truncated: {len(samples)} of {stated} samples can be read; copy it again")
    samples = samples[:, :1] if first_channel else samples
    return _mono(samples, own_rate_hz, sample_rate_hz or own_rate_hz, name), own_rate_hz


def from_array(samples: np.ndarray, own_rate_hz: int, sample_rate_hz: int) -> np.ndarray:
    """Return samples [N] or [N, channels] as `read` returns those of a file: mono [N] float32 at sample_rate_hz.

    Integers are taken as full scale (int16 as -32768 to 32767). Raises AudioError for samples that are none.
    """
    name = "the array"
    samples = np.asarray(samples)
    if samples.ndim not in (1, 2) or samples.dtype.kind not in "fiu":
        raise AudioError(
            f"{name} has shape {samples.shape} and type {samples.dtype}: give samples [N] or [N, channels]"
        )
    if isinstance(own_rate_hz, bool) or not isinstance(own_rate_hz, int | np.integer) or own_rate_hz < 1:
        raise AudioError(f"the sample rate is {own_rate_hz!r}: give samples a second, such as 16000")
    _check_not_empty(len(samples), name)
    if samples.dtype.kind == "u":
        raise AudioError(f"{name} is of type {samples.dtype}: give float samples in [-1, 1], or int16")
    if samples.dtype.kind == "i":
        samples = samples / -float(np.iinfo(samples.dtype).min)
    samples = samples.astype(np.float32).reshape(len(samples), -1)
    return _mono(samples, int(own_rate_hz), sample_rate_hz, name)


def _mono(samples: np.ndarray, own_rate_hz: int, sample_rate_hz: int, name: str) -> np.ndarray:
    """Average the channels of samples [N, channels] and resample them -> [N] float32. Raises AudioError."""
    mono = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)
    if not np.isfinite(mono).all():
        raise AudioError(f"{name} has samples that are not finite numbers; convert it to 16-bit samples again")
    if sample_rate_hz != own_rate_hz:
        mono = soxr.resample(mono, own_rate_hz, sample_rate_hz, quality="HQ")
        if len(mono) == 0:
            raise AudioError(
                f"{name} is too short to be resampled from {own_rate_hz} to {sample_rate_hz} Hz; remove it"
            )
    return np.ascontiguousarray(mono, np.float32)


def info(source: Source) -> AudioInfo:
    """Read a file's header. Raises AudioError, also for truncated files except FLAC, where only decoding shows it."""
    source = _resolve(source)
    with _open(source) as file:
        header = AudioInfo(file.frames, file.samplerate, file.channels, file.frames / file.samplerate)
    _check_not_empty(header.samples, _name(source))
    return header


def is_there(path: str) -> bool:
    """Tell whether a file, or the local shard of a record, exists; of objects in a store, assume it."""
    reference = parse_reference(path)
    return is_remote(path) or os.path.isfile(reference.shard if reference else path)


def rms_db(samples: np.ndarray) -> float:
    """Return the level of samples [N], 10 log10(mean(x^2)); -inf for digital silence."""
    power = float(np.einsum("n,n->", samples, samples, dtype=np.float64)) / len(samples)
    return 10.0 * float(np.log10(power)) if power > 0 else -np.inf


def _resolve(source: Source) -> Source:
    """Return the content of a reference or an address; return other sources unchanged. Raises AudioError."""
    if not isinstance(source, str | os.PathLike):
        return source
    try:
        return shard_source.resolve(os.fspath(source))
    except (OSError, ValueError) as error:
        raise AudioError(str(error)) from error


@contextlib.contextmanager
def _open(source: Source) -> Iterator[soundfile.SoundFile]:
    """Open a source; errors in the block are raised as AudioError with an explanation."""
    handle = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        if not isinstance(handle, str | os.PathLike):
            handle.seek(0)
        with soundfile.SoundFile(handle) as file:
            _check_complete(file, handle, _name(source))
            yield file
    except AudioError:
        raise
    except (OSError, soundfile.SoundFileError, TypeError, ValueError, MemoryError) as error:
        raise AudioError(_why_unreadable(handle, _name(source), error)) from error


def _check_complete(file: soundfile.SoundFile, handle: str | os.PathLike | BinaryIO, name: str) -> None:
    """Raise AudioError where the length differs from what the header states; of FLAC, only decoding shows it."""
    if file.frames >= _UNKNOWN:
        raise AudioError(f"{name} does not state its length, as files written to a pipe; convert it: {_CONVERT}")
    if file.format == "FLAC":
        return
    if file.format == "MP3":
        _check_frames(file.frames, containers.mp3_samples(_head(handle, size=-1)), name)
        return
    if file.format == "NIST":
        counts = _SPHERE_SAMPLES.findall(_head(handle))
        stated, present, unit = int(counts[0]) if counts else 0, file.frames, "samples"
        stated = 0 if stated == present * file.channels else stated  # some programs count those of all channels
    else:
        log = file.extra_info
        if _NO_END in log:
            raise AudioError(
                f"{name} is truncated: its last page is missing; copy it again, or repair it: ffmpeg -i IN -c copy OUT"
            )
        if file.format == "OGG" and containers.ogg_is_joined(_head(handle, size=-1)):
            raise AudioError(
                f"{name} is several files joined end to end, of which only the first would be read; convert it: {_CONVERT}"
            )
        match = _STATED_SIZE.search(log)
        stated, present, unit = (int(match[1]), int(match[2]), "bytes") if match else (0, 0, "")
    if present < _COMPLETE * stated and stated < _NO_SIZE:
        raise AudioError(f"{name} is truncated: {present} of {stated} {unit} are present; copy it again")


def _check_frames(stated: int, present: int, name: str) -> None:
    """Raise AudioError where an MP3's frames, if any were found, have another length than its header states."""
    if present and stated > present / _COMPLETE + _MP3_SLACK:
        raise AudioError(
            f"{name} is truncated, or does not state its length: {present} of {stated} samples are present; copy it again, "
            f"or, if it is complete, convert it: {_CONVERT}"
        )
    if present and stated < present * _COMPLETE - _MP3_SLACK:
        raise AudioError(
            f"{name} has {present} samples, of which only {stated} would be read: it does not state its length, or is "
            f"several files joined end to end; convert it: {_CONVERT}"
        )


def _check_not_empty(samples: int, name: str) -> None:
    if samples == 0:
        raise AudioError(f"{name} has no samples, or is truncated; record or copy it again, or remove it")


def _name(source: Source) -> str:
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    return str(getattr(source, "name", "the given audio"))


def _why_unreadable(handle: str | os.PathLike | BinaryIO, name: str, error: Exception) -> str:
    if isinstance(handle, str | os.PathLike):
        if not os.path.exists(handle):
            return f"{name} does not exist; check the path"
        if os.path.isdir(handle):
            return f"{name} is a folder; name an audio file"
        if not os.access(handle, os.R_OK):
            return f"{name} may not be read; change its permissions"
    try:
        head = _head(handle)
    except (OSError, ValueError) as problem:
        return f"{name} cannot be read ({problem}); give a file, or the bytes of a whole file"
    if not head:
        return f"{name} is empty; record it again or remove it"
    if head.startswith(_SPHERE) and (_SHORTEN in head or head.endswith(_SHORTEN_MAGIC)):
        return f"{name} is compressed with 'shorten'; decompress it first: sph2pipe -p -f wav IN.sph OUT.wav"
    reason = getattr(error, "error_string", str(error))  # libsndfile's, without the path
    if any(word in reason for word in _MALFORMED):
        return f"{name} is truncated or damaged ({reason.rstrip('.')}); copy it again"
    return f"{name} is not in an audio format that libsndfile can read ({reason}); convert it to WAV or FLAC"


def _head(handle: str | os.PathLike | BinaryIO, size: int = _SPHERE_BYTES + len(_SHORTEN_MAGIC)) -> bytes:
    """Return the first bytes (-1: all), by default a SPHERE header and four bytes; keep a file object's position."""
    if isinstance(handle, str | os.PathLike):
        with open(handle, "rb") as file:
            return file.read(size)
    position = handle.tell()
    handle.seek(0)
    head = handle.read(size)
    handle.seek(position)
    return head


def write_flac(path: str | os.PathLike, samples: np.ndarray, sample_rate_hz: int) -> None:
    """Write samples [N], float32 or int16, as 16-bit FLAC. Raises OSError."""
    encoded = io.BytesIO()  # libsndfile does not say why a file cannot be written
    soundfile.write(encoded, samples, sample_rate_hz, subtype="PCM_16", format="FLAC")
    with whole_file.open_binary(path) as file:
        file.write(encoded.getbuffer())
