"""Open audio files, and compare what their headers state with what is there.

A file that ends early is refused, or read as far as it goes. One that has more than its header states (a recorder that was
killed, files joined end to end) is read whole, with a remark.
"""

import contextlib
import functools
import io
import itertools
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple

import soundfile

from input_pipeline.audio import containers, riff
from input_pipeline.audio.segment import File, source_name
from input_pipeline.storage.paths import why_missing

COMPLETE = 0.99  # share of the stated samples that a complete file has: MP3 headers are slightly wrong
UNKNOWN = 2**62  # samples that libsndfile reports for a FLAC file written to a pipe
CONVERT = "ffmpeg -i IN OUT.flac"
LOWEST_HZ, HIGHEST_HZ = 1000, 1_000_000  # a rate outside is a wrong header, and would be resampled to gigabytes
_IGNORE_LENGTH = "ffmpeg -ignore_length 1 -i IN.wav OUT.flac"  # without the option, ffmpeg trusts the header
_JOIN = "ffmpeg -i 1.wav -i 2.wav -filter_complex concat=v=0:a=1 OUT.flac"
_SPHERE, _SPHERE_BYTES = b"NIST_1A", 1024  # start and size of a SPHERE header
_SHORTEN, _SHORTEN_MAGIC = b"shorten", b"ajkg"  # in the header of compressed samples, and at their start
_SPHERE_SAMPLES = re.compile(rb"^sample_count -i (\d+)$", re.MULTILINE)  # of each channel
# libsndfile reduces the size stated in a header to the bytes present, and reports it only in its log.
_STATED_SIZE = re.compile(r"^ *(?:data|SSND|Data Size|riff|Riff size) *: (\d+) \(should be (\d+)\)", re.MULTILINE)
_MP3_SLACK = 3 * 1152  # samples that encoders add at both ends, and the frame of the header
_NO_END = "Last page lacks an end-of-stream bit"
_MALFORMED = ("malformed", "lost sync", "psf_fseek() failed")  # messages for damaged content of a known format
_SAMPLER = "MPC2K"  # a sampler's format, for which libsndfile takes all data that begin with two certain bytes
_FLAC = b"fLaC"
_FLAC_SAMPLES_AT = 21  # of the 4 bits and 4 bytes in a FLAC file that count its samples
_FLAC_LARGEST_RATIO = 65535 // 10  # samples that a byte of FLAC can hold: a constant frame of the largest block
MAX_OPEN = 128  # files that stay open for their next segments
_SEARCHED = 1 << 20  # bytes of a file searched at a time
_READ_AHEAD = 1 << 14  # bytes that a decoder may leave unread at the end, with tags


class AudioError(ValueError):
    """Audio that cannot be used; the message names the file and says what to do."""


class Cut(NamedTuple):
    """A file of which a part is missing."""

    what: str
    remedy: str


class Sound(soundfile.SoundFile):
    """A sound file that is read on from where it is.

    The class of soundfile seeks after each read, which takes time, and fails where a header counts samples that are not
    there.
    """

    def seekable(self) -> bool:
        """Return False, so that `read` does not seek."""
        return False

    @property
    def can_seek(self) -> bool:
        """Whether `seek` works."""
        return super().seekable()


@dataclass
class Recording:
    """An open file: its parts, more than one if files were joined end to end, and what was found wrong with its header."""

    name: str
    file: BinaryIO
    parts: list[Sound] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    used: bool = False  # whether it was read from before
    stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)  # what closes it

    @property
    def frames(self) -> int:
        """Samples of one channel, as far as the headers tell; UNKNOWN if one does not."""
        return min(sum(part.frames for part in self.parts), UNKNOWN)

    @property
    def rate_hz(self) -> int:
        return self.parts[0].samplerate

    @property
    def channels(self) -> int:
        return self.parts[0].channels

    def has_unread(self) -> bool:
        """Tell whether a FLAC file goes on behind the samples that its header counts, which were read."""
        if len(self.parts) != 1 or self.parts[0].format != "FLAC":
            return False
        return _size(self.file) - self.file.tell() > _READ_AHEAD or _begins_anew(self.file)


@contextlib.contextmanager
def open_audio(source: File, *, whole: bool, uncounted: bool = False, keep: bool = False) -> Iterator[Recording]:
    """Open a source; errors in the block are raised as AudioError with an explanation.

    whole: refuse a file of which a part is missing; otherwise, that is a remark. uncounted: ignore the number of samples
    that the header of a FLAC file states. keep: leave a local file open afterwards, for the next of its segments.
    """
    handle = io.BytesIO(source) if isinstance(source, bytes) else source
    name = source_name(source)
    try:
        key = _key(handle) if keep and whole and isinstance(handle, str | os.PathLike) else None
        recording = (_idle.take(key) if key else None) or _open(handle, name, whole, uncounted)
        try:
            yield recording
        except BaseException:
            recording.stack.close()
            raise
        if key and all(part.can_seek for part in recording.parts):
            _idle.put(key, recording)
        else:
            recording.stack.close()
    except AudioError:
        raise
    except MemoryError as error:
        raise AudioError(f"{name} does not fit into memory; split it") from error
    except (OSError, soundfile.SoundFileError, TypeError, ValueError) as error:
        raise AudioError(_why_unreadable(handle, name, error)) from error


class _Idle:
    """Recordings that are open and that no thread reads, the most recently used ones of this process. Thread-safe."""

    def __init__(self, limit: int):
        self._limit = limit
        self._recordings: OrderedDict[tuple, Recording] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, key: tuple) -> Recording | None:
        """Return a recording for the caller alone; None if there is none."""
        with self._lock:
            return self._recordings.pop(key, None)

    def put(self, key: tuple, recording: Recording) -> None:
        """Keep a recording, and close what exceeds the limit."""
        with self._lock:
            closed = [self._recordings.pop(key)] if key in self._recordings else []
            self._recordings[key] = recording
            while len(self._recordings) > self._limit:
                closed.append(self._recordings.popitem(last=False)[1])
        for each in closed:
            each.stack.close()


_idle = _Idle(MAX_OPEN)


def _key(path: str | os.PathLike) -> tuple:
    """Identify a file as it is, in this process: a forked one would share the file's position with its parent."""
    status = os.stat(path)
    return os.getpid(), os.fspath(path), status.st_size, status.st_mtime_ns


def _open(handle: str | os.PathLike | BinaryIO, name: str, whole: bool, uncounted: bool) -> Recording:
    with contextlib.ExitStack() as stack:
        file: BinaryIO
        if isinstance(handle, str | os.PathLike):
            # Unbuffered, as libsndfile reads from the descriptor.
            file, path = stack.enter_context(open(handle, "rb", buffering=0)), os.fspath(handle)
        else:
            file, path = handle, ""
        recording = Recording(name, file)
        _open_parts(recording, stack, path, whole, uncounted)
        recording.stack = stack.pop_all()
    return recording


def _open_parts(recording: Recording, stack: contextlib.ExitStack, path: str, whole: bool, uncounted: bool) -> None:
    """Open the file, or each of several joined ones, and check them. Raises AudioError."""
    file, name = recording.file, recording.name
    found = riff.layouts(file)
    cut = _check_layouts(found, name, recording.remarks)
    targets: list = [riff.View(file, each.start, each.end, *each.patch()) for each in found]
    if len(found) < 2 and not any(each.is_longer for each in found):
        file.seek(0)
        targets = [file.fileno() if path else file]
    if uncounted:
        targets = _joined_flac(recording) or [_without_count(file)]
    recording.parts += [stack.enter_context(Sound(target, closefd=False)) for target in targets]
    sound = recording.parts[0]
    if sound.format == _SAMPLER:
        raise AudioError(f"{name} is not in a format of recordings; convert it to WAV or FLAC, or remove it")
    _check_rates(recording)
    if not found and not uncounted:
        cut = _check_others(recording, path)
    if sound.format == "OGG":
        starts = _scan(path, file, containers.ogg_starts)
        if len(starts) > 1:
            cut = cut or Cut(
                f"{name} is several files joined end to end, of which only the first would be read",
                f"convert it: {CONVERT}",
            )
            if not whole:
                limits = [*starts, _size(file)]
                views = [riff.View(file, *pair) for pair in itertools.pairwise(limits)]
                recording.parts[:] = [stack.enter_context(Sound(view)) for view in views]
                recording.remarks.append(f"{name} is {len(views)} files joined end to end; all of them are read")
                _check_rates(recording)
                return
    if cut and whole:
        raise AudioError(f"{cut.what}; {cut.remedy}")
    if cut:
        recording.remarks.append(f"{cut.what}; only what is there is read")


def _check_layouts(found: Sequence[riff.Layout], name: str, remarks: list[str]) -> Cut | None:
    """Compare the sizes that WAV, AIFF or AU headers state with those present; add remarks on those that are too small."""
    if len(found) > 1:
        remarks.append(
            f"{name} is {len(found)} files joined end to end, of which most programs read the first; all of them are read "
            f"(to join files: {_JOIN})"
        )
    for each in found:
        repair = f"to correct it: {_IGNORE_LENGTH}" if each.order == "little" else "the recorder was stopped early"
        if each.is_longer:
            remarks.append(
                f"{name} has {each.present} bytes of samples, of which its header states {each.stated}; all are read "
                f"({repair})"
            )
        if each.present < COMPLETE * each.stated and each.stated < riff.NO_SIZE:
            return Cut(
                f"{name} is truncated: {each.present} of {each.stated} bytes are present",
                "copy it again, or, if the recording is complete, "
                + (f"correct its header: {_IGNORE_LENGTH}" if each.order == "little" else f"convert it: {CONVERT}"),
            )
    return None


def _check_rates(recording: Recording) -> None:
    """Raise AudioError for rates that no recording has, and joined files that differ."""
    formats = {(part.samplerate, part.channels) for part in recording.parts}
    if len(formats) > 1:
        raise AudioError(
            f"{recording.name} is several files joined end to end, of different rates or channels; convert them one by one"
        )
    if not LOWEST_HZ <= recording.rate_hz <= HIGHEST_HZ:
        raise AudioError(
            f"{recording.name} states a sample rate of {recording.rate_hz} Hz, which cannot be that of speech; correct its "
            "header, or remove it"
        )


def _check_others(recording: Recording, path: str) -> Cut | None:
    """Describe where a file that is neither WAV, AIFF nor AU has another length than its header states, as far as is seen.

    Of FLAC, only decoding shows it.
    """
    file, sound, name = recording.file, recording.parts[0], recording.name
    if sound.frames >= UNKNOWN:
        return Cut(f"{name} does not state its length, as files written to a pipe", f"convert it: {CONVERT}")
    if sound.format == "FLAC":
        size = _size(file)
        if sound.frames > size * _FLAC_LARGEST_RATIO:
            return Cut(
                f"{name} is truncated, or its header is wrong: its {size} bytes cannot hold {sound.frames} samples",
                f"copy it again, or convert it: {CONVERT}",
            )
        return None
    if sound.format == "MP3":
        return _check_mp3(sound.frames, _scan(path, file, containers.mp3_samples), name)
    if sound.format == "NIST":
        counts = _SPHERE_SAMPLES.findall(_head(file))
        stated, present, unit = int(counts[0]) if counts else 0, sound.frames, "samples"
        stated = 0 if stated == present * sound.channels else stated  # some programs count those of all channels
    else:
        log = sound.extra_info
        if _NO_END in log:
            return Cut(
                f"{name} is truncated: its last page is missing",
                "copy it again, or repair it: ffmpeg -i IN -c copy OUT",
            )
        match = _STATED_SIZE.search(log)
        stated, present, unit = (int(match[1]), int(match[2]), "bytes") if match else (0, 0, "")
    if present < COMPLETE * stated and stated < riff.NO_SIZE:
        return Cut(f"{name} is truncated: {present} of {stated} {unit} are present", "copy it again")
    return None


def _check_mp3(stated: int, present: int, name: str) -> Cut | None:
    """Describe where an MP3's frames, if any were found, have another length than its header states."""
    if present and stated > present / COMPLETE + _MP3_SLACK:
        return Cut(
            f"{name} is truncated, or does not state its length: {present} of {stated} samples are present",
            f"copy it again, or, if it is complete, convert it: {CONVERT}",
        )
    if present and stated < present * COMPLETE - _MP3_SLACK:
        return Cut(
            f"{name} has {present} samples, of which only {stated} would be read: it does not state its length, or is "
            "several files joined end to end",
            f"convert it: {CONVERT}",
        )
    return None


def _scan(path: str, file: BinaryIO, examine: Callable):
    """Return the result of examining a whole file; of a local one, once for many segments."""
    if path:
        status = os.stat(path)
        return _scan_path(path, status.st_size, status.st_mtime_ns, examine)
    return examine(_head(file, size=-1))


@functools.lru_cache(maxsize=4096)
def _scan_path(path: str, size: int, modified_ns: int, examine: Callable):
    return examine(_head(path, size=-1))


def _without_count(file: BinaryIO) -> riff.View:
    """Return a FLAC file as if its header did not count the samples."""
    file.seek(_FLAC_SAMPLES_AT)
    first = file.read(1)[0] & 0xF0
    return riff.View(file, 0, file.seek(0, io.SEEK_END), _FLAC_SAMPLES_AT, bytes([first, 0, 0, 0, 0]))


def _begins_anew(file: BinaryIO) -> bool:
    """Tell whether another FLAC file begins near the place up to which a decoder has read ahead; keep the position."""
    position = file.tell()
    file.seek(max(1, position - 2 * _READ_AHEAD))
    found = containers.flac_starts(file.read(3 * _READ_AHEAD))
    file.seek(position)
    return bool(found) and _head(file, len(_FLAC)) == _FLAC


def _flac_starts(file: BinaryIO) -> list[int]:
    """Return where FLAC files begin in a file, which is searched in blocks, as it may be long; keep the position."""
    position, starts = file.tell(), []
    for begin in range(0, _size(file), _SEARCHED):
        file.seek(begin)
        block = file.read(_SEARCHED + containers.FLAC_START_BYTES - 1)
        starts += [begin + start for start in containers.flac_starts(block)]
    file.seek(position)
    return starts


def _joined_flac(recording: Recording) -> list[riff.View]:
    """Return the FLAC files that were joined end to end, with a remark; [] for a single one."""
    starts = _flac_starts(recording.file)
    if len(starts) < 2 or starts[0]:
        return []
    recording.remarks.append(f"{recording.name} is {len(starts)} files joined end to end; all of them are read")
    return [riff.View(recording.file, *pair) for pair in itertools.pairwise([*starts, _size(recording.file)])]


def _size(file: BinaryIO) -> int:
    """Return the size of a file in bytes; keep its position, on which libsndfile relies."""
    position = file.tell()
    size = file.seek(0, io.SEEK_END)
    file.seek(position)
    return size


def _why_unreadable(handle: str | os.PathLike | BinaryIO, name: str, error: Exception) -> str:
    if isinstance(handle, str | os.PathLike):
        if not os.path.exists(handle):
            return f"{name} does not exist; {why_missing(name) or 'check the path'}"
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
