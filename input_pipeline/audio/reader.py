"""Read audio of any format of libsndfile, sample rate and number of channels as mono float32.

WAV, FLAC, Ogg (Vorbis, Opus), MP3 and NIST SPHERE are recognised by content, not by name. A path may also be a reference
to a record of a shard or the address of an object (input_pipeline/shards/source.py).
"""

import io
import logging
import math
import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import soundfile
import soxr

from input_pipeline.audio import ffmpeg
from input_pipeline.audio.opening import (
    COMPLETE,
    CONVERT,
    HIGHEST_HZ,
    LOWEST_HZ,
    UNKNOWN,
    AudioError,
    Recording,
    open_audio,
)
from input_pipeline.audio.segment import File, Segment, Source, source_name
from input_pipeline.shards import source as shard_source
from input_pipeline.shards.format import parse_reference
from input_pipeline.storage import whole_file
from input_pipeline.storage.object_store import is_remote

_BLOCK = 1 << 22  # samples of all channels read at a time: a header that promises too much costs no memory
_SMALL_BLOCK = 1 << 12
_ROUNDING_S = 0.05  # by which a segment may end behind its file, as durations are rounded
_CANCELLED = 0.05  # share of the channels' power below which their average is no recording of them
_MOST_REMARKS = 20
ARRAY = "the array"  # as messages name it
FLAC_HIGHEST_HZ, _FLAC_CHANNELS = 655_350, 8  # that a header can state
# By libsndfile's coding: NumPy type that holds all its values, and the FLAC coding that does.
_EXACT = {
    **dict.fromkeys(("PCM_S8", "PCM_U8"), ("int16", "PCM_S8")),
    **dict.fromkeys(("PCM_16", "ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM", "GSM610"), ("int16", "PCM_16")),
    "PCM_24": ("int32", "PCM_24"),
    "PCM_32": ("int32", ""),
}

logger = logging.getLogger("input_pipeline")
_warned: set[str] = set()  # remarks that were logged


class AudioInfo(NamedTuple):
    """What a file's header states."""

    samples: int  # of one channel
    sample_rate_hz: int
    channels: int
    duration_s: float


class Loaded(NamedTuple):
    """Samples [N] float32 of one channel, the file's own rate, and what was found wrong with it."""

    samples: np.ndarray
    own_rate_hz: int
    remarks: tuple[str, ...]


def read(source: Source, sample_rate_hz: int | None = None, *, longest_s: float = math.inf) -> tuple[np.ndarray, int]:
    """Read mono samples [N] float32 in [-1, 1], resampled to `sample_rate_hz` if it is given; also return the file's rate.

    As `load`, but remarks are logged as warnings, each once.
    """
    loaded = load(source, sample_rate_hz, longest_s=longest_s)
    for remark in loaded.remarks:
        _warn(remark)
    return loaded.samples, loaded.own_rate_hz


def load(
    source: Source, sample_rate_hz: int | None = None, *, whole: bool = True, longest_s: float = math.inf
) -> Loaded:
    """Read mono samples and describe what is wrong with the header of their file.

    Channels are averaged, unless a segment names one, or they cancel each other: then the first is used. whole: refuse a
    file that is cut; otherwise, read what is left of it. A file object is read from its beginning. Raises AudioError for
    audio that is missing, empty, not finite or longer than `longest_s`.
    """
    segment = source if isinstance(source, Segment) else Segment(source)
    file = resolve(segment.source)
    name = source_name(file)
    try:
        with open_audio(file, whole=whole, keep=segment.is_part) as recording:
            samples = _read_segment(recording, segment, whole, longest_s)
            rate_hz, remarks = recording.rate_hz, list(recording.remarks)
            unread = not segment.is_part and recording.has_unread()
        if unread:
            stated = len(samples)
            with open_audio(file, whole=False, uncounted=True) as recording:
                samples = _read_segment(recording, segment, whole and len(recording.parts) > 1, longest_s)
            remarks = recording.remarks or [
                f"{name} has {len(samples)} samples, of which its header counts {stated}; all are read (to correct it: {CONVERT})"
            ]
        mono, cancelled = _mono(samples, rate_hz, sample_rate_hz or rate_hz, name)
    except MemoryError as error:
        raise AudioError(f"{name} does not fit into memory; split it") from error
    return Loaded(mono, rate_hz, tuple(remarks + cancelled))


def cut(segment: Segment) -> bytes:
    """Return a segment as an audio file of its own, from which `read` gets the same samples as from the recording.

    Integer samples become FLAC; decoded ones, which are fractions, a WAV of float samples. Raises AudioError.
    """
    file = resolve(segment.source)
    with open_audio(file, whole=True, keep=segment.is_part) as recording:
        subtype, rate_hz = recording.parts[0].subtype, recording.rate_hz
        kind, exact = _EXACT.get(subtype, ("float64" if subtype == "DOUBLE" else "float32", ""))
        samples = _read_segment(recording, segment, True, math.inf, kind)
    encoded = io.BytesIO()
    if exact and rate_hz <= FLAC_HIGHEST_HZ and samples.shape[1] <= _FLAC_CHANNELS:
        soundfile.write(encoded, samples, rate_hz, format="FLAC", subtype=exact)
    else:
        integers = {"int16": "PCM_16", "int32": "PCM_32", "float64": "DOUBLE"}
        soundfile.write(encoded, samples, rate_hz, format="WAV", subtype=integers.get(kind, "FLOAT"))
    return encoded.getvalue()


def from_array(samples: np.ndarray, own_rate_hz: int, sample_rate_hz: int) -> np.ndarray:
    """Return samples [N] or [N, channels] as `read` returns those of a file: mono [N] float32 at sample_rate_hz.

    Integers are taken as full scale (int16 as -32768 to 32767). Raises AudioError for samples that are none.
    """
    samples = full_scale(check_array(samples, own_rate_hz))
    mono, remarks = _mono(samples, int(own_rate_hz), sample_rate_hz, ARRAY)
    for remark in remarks:
        _warn(remark)
    return mono


def check_array(samples: np.ndarray, own_rate_hz: int) -> np.ndarray:
    """Return samples [N] or [N, channels] as [N, channels]. Raises AudioError for samples, or a rate, that are none."""
    samples = np.asarray(samples)
    if samples.ndim not in (1, 2) or samples.dtype.kind not in "fiu":
        raise AudioError(
            f"{ARRAY} has shape {samples.shape} and type {samples.dtype}: give samples [N] or [N, channels]"
        )
    if isinstance(own_rate_hz, bool) or not isinstance(own_rate_hz, int | np.integer) or own_rate_hz < 1:
        raise AudioError(f"the sample rate is {own_rate_hz!r}: give samples a second, such as 16000")
    _check_not_empty(len(samples), ARRAY)
    if samples.dtype.kind == "u":
        raise AudioError(f"{ARRAY} is of type {samples.dtype}: give float samples in [-1, 1], or int16")
    if not LOWEST_HZ <= own_rate_hz <= HIGHEST_HZ:
        raise AudioError(f"the sample rate is {own_rate_hz} Hz: give samples a second, such as 16000")
    return samples.reshape(len(samples), -1)


def full_scale(samples: np.ndarray) -> np.ndarray:
    """Return samples as float32; integers are taken as full scale."""
    if samples.dtype.kind == "i":
        samples = samples / -float(np.iinfo(samples.dtype).min)
    return samples.astype(np.float32)


def _read_segment(
    recording: Recording, segment: Segment, whole: bool, longest_s: float, kind: str = "float32"
) -> np.ndarray:
    """Read the samples [N, channels] of a segment; of one channel, if it names one. Raises AudioError."""
    name, rate_hz = recording.name, recording.rate_hz
    check_channel(segment, recording)
    first, stated = round(segment.offset_s * rate_hz), recording.frames
    wanted = round(segment.duration_s * rate_hz) if segment.duration_s else UNKNOWN
    if stated < UNKNOWN:
        check_inside(segment, stated / rate_hz, name)
        wanted = min(wanted, stated - first)
    most = int(min(longest_s * rate_hz, UNKNOWN)) + 1
    # What a block holds before damaged content is lost.
    size = max(1, _BLOCK // recording.channels) if whole else _SMALL_BLOCK
    blocks, failure = [], ""
    try:
        for block in read_blocks(recording, first, min(wanted, most), kind, size):
            blocks.append(block if segment.channel is None else block[:, segment.channel : segment.channel + 1].copy())
    except soundfile.SoundFileError as error:
        if whole or not blocks:
            raise
        failure = str(getattr(error, "error_string", error))
    samples = np.concatenate(blocks) if len(blocks) > 1 else blocks[0] if blocks else np.zeros((0, 1), kind)
    if len(samples) == most:
        raise AudioError(f"{name} has more than {longest_s:.1f} s of audio, which is too long here")
    _check_not_empty(len(samples), name)
    if (wanted < UNKNOWN and len(samples) < COMPLETE * wanted) or failure:
        what = f"{name} is truncated: {len(samples)} of {wanted} samples can be read"
        if whole:
            raise AudioError(f"{what}; copy it again, or, if it is complete, convert it: {CONVERT}")
        if not recording.remarks:
            recording.remarks.append(f"{what}; only what is there is read")
    return samples


def check_channel(segment: Segment, recording: Recording) -> None:
    """Raise AudioError for a segment of a channel that its file lacks."""
    if segment.channel is not None and segment.channel >= recording.channels:
        raise AudioError(
            f"{recording.name} has {recording.channels} channel{'s' * (recording.channels > 1)}, counted from 0, and no channel "
            f"{segment.channel}; correct 'channel'"
        )


def check_inside(segment: Segment, file_s: float, name: str) -> None:
    """Raise AudioError for a segment that is not inside its file."""
    if segment.offset_s and segment.offset_s >= file_s:
        raise AudioError(
            f"{name} has {file_s:.3f} s of audio, and a segment cannot begin at {segment.offset_s:g} s; correct 'offset'"
        )
    end_s = segment.offset_s + segment.duration_s
    if end_s > file_s + _ROUNDING_S:
        raise AudioError(
            f"{name} has {file_s:.3f} s of audio, and a segment cannot end at {end_s:.3f} s (from {segment.offset_s:g} s, "
            f"{segment.duration_s:g} s long); correct 'offset' or 'duration'"
        )


def read_blocks(recording: Recording, first: int, count: int, kind: str, size: int) -> Iterator[np.ndarray]:
    """Yield `count` samples [n, channels] from the sample `first` on, or as many as there are, up to `size` at a time."""
    used, recording.used = recording.used, True
    for part in recording.parts:
        skipped = min(first, part.frames if len(recording.parts) > 1 else UNKNOWN)
        first -= skipped
        if part.can_seek and (skipped or used):
            # An MP3 frame may need what stands in several frames before it.
            early = min(skipped, recording.rate_hz) if part.format == "MP3" else 0
            part.seek(skipped - early)
            skipped = early
        for start in range(0, skipped, size):
            part.read(min(size, skipped - start), dtype=kind, always_2d=True)
        while count > 0:
            wanted = min(size, count)
            block = part.read(wanted, dtype=kind, always_2d=True)
            if len(block):
                yield block
            count -= len(block)
            if len(block) < wanted:
                break


def check_finite(samples: np.ndarray, name: str) -> None:
    """Raise AudioError for samples that are not finite numbers."""
    if not np.isfinite(samples).all():
        raise AudioError(f"{name} has samples that are not finite numbers; convert it to 16-bit samples again")


def _mono(samples: np.ndarray, own_rate_hz: int, sample_rate_hz: int, name: str) -> tuple[np.ndarray, list[str]]:
    """Average the channels of samples [N, channels] and resample them -> [N] float32, and remarks. Raises AudioError."""
    mono, cancelled = mix(samples)
    remarks = []
    if cancelled:
        remarks.append(
            f"{name} has channels that cancel each other when they are averaged, as one is inverted; the first is used"
        )
    check_finite(mono, name)
    if sample_rate_hz != own_rate_hz:
        mono = soxr.resample(mono, own_rate_hz, sample_rate_hz, quality="HQ")
        if len(mono) == 0:
            raise AudioError(
                f"{name} is too short to be resampled from {own_rate_hz} to {sample_rate_hz} Hz; remove it"
            )
    return np.ascontiguousarray(mono, np.float32), remarks


def mix(samples: np.ndarray) -> tuple[np.ndarray, bool]:
    """Return the average [N] of channels [N, C], or the first one if they cancel each other, and whether they do."""
    if samples.shape[1] == 1:
        return samples[:, 0], False
    mono = samples.mean(axis=1)
    power = np.einsum("nc,nc->", samples, samples, dtype=np.float64) / samples.shape[1]
    cancelled = bool(np.einsum("n,n->", mono, mono, dtype=np.float64) < _CANCELLED * power)
    return samples[:, 0] if cancelled else mono, cancelled


def _warn(remark: str) -> None:
    """Log a warning that was not logged yet, unless there were many."""
    if remark in _warned or len(_warned) > _MOST_REMARKS:
        return
    _warned.add(remark)
    if len(_warned) > _MOST_REMARKS:
        remark = "more files have such problems; python -m input_pipeline.manifest check lists those of a manifest"
    logger.warning("%s", remark)


def info(source: File) -> AudioInfo:
    """Read a file's header. Raises AudioError, also for truncated files except FLAC, where only decoding shows it."""
    source = resolve(source)
    with open_audio(source, whole=True) as recording:
        samples, rate_hz = recording.frames, recording.rate_hz
        header = AudioInfo(samples, rate_hz, recording.channels, samples / rate_hz)
    _check_not_empty(header.samples, source_name(source))
    return header


def is_there(path: str) -> bool:
    """Tell whether a file, or the local shard of a record, exists; of objects in a store, assume it."""
    reference = parse_reference(path)
    return is_remote(path) or os.path.isfile(reference.shard if reference else path)


def rms_db(samples: np.ndarray) -> float:
    """Return the level of samples [N], 10 log10(mean(x^2)); -inf for digital silence."""
    power = float(np.einsum("n,n->", samples, samples, dtype=np.float64)) / len(samples)
    return 10.0 * float(np.log10(power)) if power > 0 else -np.inf


def resolve(source: File) -> File:
    """Return the content of a reference or an address, decoded if it needs ffmpeg; return other sources unchanged.

    Raises AudioError.
    """
    name = source_name(source)
    try:
        if isinstance(source, str | os.PathLike):
            source = shard_source.resolve(os.fspath(source))
        return ffmpeg.decode_if_needed(source, name)
    except (OSError, ValueError) as error:
        raise AudioError(str(error)) from error


def _check_not_empty(samples: int, name: str) -> None:
    if samples == 0:
        raise AudioError(f"{name} has no samples, or is truncated; record or copy it again, or remove it")


def write_flac(path: str | os.PathLike, samples: np.ndarray, sample_rate_hz: int) -> None:
    """Write samples [N], float32 or int16, as 16-bit FLAC. Raises OSError."""
    encoded = io.BytesIO()  # libsndfile does not say why a file cannot be written
    soundfile.write(encoded, samples, sample_rate_hz, subtype="PCM_16", format="FLAC")
    with whole_file.open_binary(path) as file:
        file.write(encoded.getbuffer())
