"""Read audio: any format of libsndfile, any rate and number of channels, as mono float32.

WAV, FLAC, Ogg (Vorbis, Opus), MP3 and NIST SPHERE are told apart by their content, not by their name. Where a path is
read, a reference to a record of a shard and the address of an object are, too (input_pipeline/shards/source.py).
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

_WHOLE = 0.99  # share of the promised samples that a whole file has: the headers of MP3 are a little off
_SPHERE, _SPHERE_BYTES = b"NIST_1A", 1024  # how a SPHERE header starts, and its size
_SHORTEN, _SHORTEN_MAGIC = b"shorten", b"ajkg"  # what it says of compressed samples, and how these start
_SPHERE_SAMPLES = re.compile(rb"^sample_count -i (\d+)$", re.MULTILINE)  # what it promises, of each channel
# libsndfile shortens what a header promises to the bytes that there are, and says so in its log alone.
_PROMISED = re.compile(r"^ *(?:data|SSND|Data Size|riff|Riff size) *: (\d+) \(should be (\d+)\)", re.MULTILINE)
_NO_SIZE = 0x7FFF0000  # from here on a size is what programs write that write to a pipe, and cannot know it
_UNKNOWN = 2**62  # samples: libsndfile's word for a FLAC that was written to a pipe
_MP3_SLACK = 3 * 1152  # samples: what encoders add at both ends, and a header's own frame
_NO_END = "Last page lacks an end-of-stream bit"
_CONVERT = "ffmpeg -i IN OUT.flac"
_MALFORMED = ("malformed", "lost sync")  # libsndfile's words for a format that it knows, and content that is not right


class AudioError(ValueError):
    """Audio that cannot be used; the message names the file and what to do."""


class AudioInfo(NamedTuple):
    """What a file's header says."""

    samples: int  # of one channel
    sample_rate_hz: int
    channels: int
    duration_s: float


def read(source: Source, sample_rate_hz: int | None = None, *, first_channel: bool = False) -> tuple[np.ndarray, int]:
    """Read mono samples [N] float32 in [-1, 1], at the rate asked for, and return the file's own rate beside them.

    Channels are averaged, unless the first is asked for. A file object is read from its beginning. Raises AudioError
    where there is nothing to read, the file is cut off, or values are not finite.
    """
    source = _resolved(source)
    name = _name(source)
    with _opened(source) as file:
        samples, promised, own_rate_hz = file.read(dtype="float32", always_2d=True), file.frames, file.samplerate
    _check_not_empty(len(samples), name)
    if len(samples) < _WHOLE * promised:
        raise AudioError(f"{name} is cut off: {len(samples)} of {promised} samples can be read; copy it again")
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
        raise AudioError(f"{name} holds values that are not finite; convert it again, to 16-bit samples")
    if sample_rate_hz != own_rate_hz:
        mono = soxr.resample(mono, own_rate_hz, sample_rate_hz, quality="HQ")
        if len(mono) == 0:
            raise AudioError(
                f"{name} is too short to be resampled from {own_rate_hz} to {sample_rate_hz} Hz; remove it"
            )
    return np.ascontiguousarray(mono, np.float32)


def info(source: Source) -> AudioInfo:
    """Read a file's header. Raises AudioError, also where a file is cut off and its size shows it (not FLAC)."""
    source = _resolved(source)
    with _opened(source) as file:
        header = AudioInfo(file.frames, file.samplerate, file.channels, file.frames / file.samplerate)
    _check_not_empty(header.samples, _name(source))
    return header


def is_there(path: str) -> bool:
    """Tell whether there is such a file, or for a record its local shard; stores are not asked."""
    reference = parse_reference(path)
    return is_remote(path) or os.path.isfile(reference.shard if reference else path)


def rms_db(samples: np.ndarray) -> float:
    """Return 10 log10(mean(x^2)) of samples [N]; -inf for digital silence."""
    power = float(np.einsum("n,n->", samples, samples, dtype=np.float64)) / len(samples)
    return 10.0 * float(np.log10(power)) if power > 0 else -np.inf


def _resolved(source: Source) -> Source:
    """Get the clip that a reference or an address names; leave everything else as it is."""
    if not isinstance(source, str | os.PathLike):
        return source
    try:
        return shard_source.resolve(os.fspath(source))
    except (OSError, ValueError) as error:
        raise AudioError(str(error)) from error


@contextlib.contextmanager
def _opened(source: Source) -> Iterator[soundfile.SoundFile]:
    """Open a source; whatever fails inside is raised as an AudioError that says why."""
    handle = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        if not isinstance(handle, str | os.PathLike):
            handle.seek(0)  # whoever looked at it before left it somewhere
        with soundfile.SoundFile(handle) as file:
            _check_whole(file, handle, _name(source))
            yield file
    except AudioError:
        raise
    except (OSError, soundfile.SoundFileError, TypeError, ValueError, MemoryError) as error:
        raise AudioError(_why_unreadable(handle, _name(source), error)) from error


def _check_whole(file: soundfile.SoundFile, handle: str | os.PathLike | BinaryIO, name: str) -> None:
    """Raise AudioError where a header promises another length than there is; FLAC shows it only when it is decoded."""
    if file.frames >= _UNKNOWN:
        raise AudioError(f"{name} does not say how long it is, as if streamed; write it again: {_CONVERT}")
    if file.format == "FLAC":
        return
    if file.format == "MP3":
        _check_frames(file.frames, containers.mp3_samples(_head(handle, size=-1)), name)
        return
    if file.format == "NIST":
        counts = _SPHERE_SAMPLES.findall(_head(handle))
        promised, there, unit = int(counts[0]) if counts else 0, file.frames, "samples"
        promised = 0 if promised == there * file.channels else promised  # some count those of all channels
    else:
        log = file.extra_info
        if _NO_END in log:
            raise AudioError(f"{name} is cut off: it has no end; copy it again, or close it: ffmpeg -i IN -c copy OUT")
        if file.format == "OGG" and containers.ogg_is_joined(_head(handle, size=-1)):
            raise AudioError(
                f"{name} is several files end to end, of which the first alone is read; join them: {_CONVERT}"
            )
        found = _PROMISED.search(log)
        promised, there, unit = (int(found[1]), int(found[2]), "bytes") if found else (0, 0, "")
    if there < _WHOLE * promised and promised < _NO_SIZE:
        raise AudioError(f"{name} is cut off: {there} of {promised} {unit} are there; copy it again")


def _check_frames(promised: int, there: int, name: str) -> None:
    """Raise AudioError where an MP3's frames, if they can be followed, do not hold what its header says."""
    if there and promised > there / _WHOLE + _MP3_SLACK:
        raise AudioError(
            f"{name} is cut off, or does not say how long it is: {there} of {promised} samples are there; copy it again, "
            f"or, if it is whole, convert it: {_CONVERT}"
        )
    if there and promised < there * _WHOLE - _MP3_SLACK:
        raise AudioError(
            f"{name} holds {there} samples, of which {promised} would be read: it does not say how long it is, or is "
            f"several files end to end; convert it: {_CONVERT}"
        )


def _check_not_empty(samples: int, name: str) -> None:
    if samples == 0:
        raise AudioError(f"{name} holds no samples, or is cut off; record or copy it again, or remove it")


def _name(source: Source) -> str:
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    return str(getattr(source, "name", "the audio received"))


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
        return f"{name} cannot be read ({problem}); give a file, or the bytes of the whole audio"
    if not head:
        return f"{name} is empty; record it again or remove it"
    if head.startswith(_SPHERE) and (_SHORTEN in head or head.endswith(_SHORTEN_MAGIC)):
        return f"{name} is compressed with 'shorten'; decompress it first: sph2pipe -p -f wav IN.sph OUT.wav"
    reason = getattr(error, "error_string", str(error))  # libsndfile's, without the path
    if any(word in reason for word in _MALFORMED):
        return f"{name} is cut off or damaged ({reason.rstrip('.')}); copy it again"
    return f"{name} is no audio that libsndfile reads ({reason}); convert it to WAV or FLAC"


def _head(handle: str | os.PathLike | BinaryIO, size: int = _SPHERE_BYTES + len(_SHORTEN_MAGIC)) -> bytes:
    """Return the first bytes (-1: all): a SPHERE header and the four bytes behind it; a file object stays where it is."""
    if isinstance(handle, str | os.PathLike):
        with open(handle, "rb") as file:
            return file.read(size)
    place = handle.tell()
    handle.seek(0)
    head = handle.read(size)
    handle.seek(place)
    return head


def write_flac(path: str | os.PathLike, samples: np.ndarray, sample_rate_hz: int) -> None:
    """Write samples [N], float32 or int16, as 16-bit FLAC. Raises OSError."""
    encoded = io.BytesIO()  # libsndfile does not say why a file cannot be written
    soundfile.write(encoded, samples, sample_rate_hz, subtype="PCM_16", format="FLAC")
    with whole_file.open_binary(path) as file:
        file.write(encoded.getbuffer())
