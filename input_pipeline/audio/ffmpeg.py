"""Audio in containers that libsndfile cannot read (m4a, mp4, webm, wma, amr and others), decoded by ffmpeg if it is installed.

A container is told by its first bytes, and ffmpeg is told which one to read: it guesses otherwise, and takes a playlist,
which could name any file or address, for audio.
"""

import asyncio
import contextlib
import io
import math
import os
import shutil
import subprocess
import tempfile
from typing import Any, BinaryIO

_HEAD_BYTES = 16  # by which a container is told
_MAGIC = (  # offset, bytes, ffmpeg's name of the container
    (4, b"ftyp", "mov"),
    (4, b"moov", "mov"),
    (4, b"mdat", "mov"),
    (0, b"\x1aE\xdf\xa3", "matroska"),
    (0, b"0&\xb2u\x8ef\xcf\x11", "asf"),
    (0, b"#!AMR", "amr"),
    (8, b"AVI ", "avi"),
    (0, b"FLV\x01", "flv"),
    (0, b"\x0bw", "ac3"),
    (0, b"wvpk", "wv"),
    (0, b"MAC ", "ape"),
    (0, b"TTA1", "tta"),
    (0, b"ADIF", "aac"),
    (0, b"\xff\xf1", "aac"),
    (0, b"\xff\xf9", "aac"),
)


class FfmpegError(ValueError):
    """A file that ffmpeg cannot decode, or ffmpeg is not installed; the message says what to do."""


def container_of(source: str | os.PathLike | bytes | BinaryIO) -> str:
    """Return ffmpeg's name of the container that a source is; '' for all others, and for what cannot be opened.

    A file object is left at its start. Raises OSError.
    """
    if isinstance(source, bytes):
        head = source[:_HEAD_BYTES]
    elif isinstance(source, str | os.PathLike):
        if not os.path.isfile(source) or not os.access(source, os.R_OK):
            return ""  # described where it is read
        with open(source, "rb") as file:
            head = file.read(_HEAD_BYTES)
    else:
        source.seek(0)
        head = source.read(_HEAD_BYTES)
        source.seek(0)
    return next((name for offset, magic, name in _MAGIC if head[offset:].startswith(magic)), "")


def decode_if_needed(source: str | os.PathLike | bytes | BinaryIO, name: str) -> Any:
    """Return a source of audio decoded by ffmpeg if it is a container that libsndfile cannot read, else unchanged.

    name: of the file, also that of the result. Raises FfmpegError, OSError.
    """
    container = container_of(source)
    if not container:
        return source
    return decode(io.BytesIO(source) if isinstance(source, bytes) else source, container, name)


def decode(source: str | os.PathLike | BinaryIO, container: str, name: str) -> BinaryIO:
    """Decode the first audio stream of a file, or of a file object's content, into a temporary WAV file without a name.

    container: from `container_of`. name: of the file, also that of the result. Raises FfmpegError, OSError.
    """
    decoded = tempfile.TemporaryFile()  # noqa: SIM115 - returned
    with contextlib.ExitStack() as stack:
        if isinstance(source, str | os.PathLike):
            path = os.path.abspath(os.fspath(source))
        else:
            path = stack.enter_context(_copy(source)).name
        command = _command(path, container, name, math.inf)
        result = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=decoded, stderr=subprocess.PIPE, check=False)
    return _check(decoded, result.returncode, result.stderr, name)


async def decode_for_client(content: bytes, container: str, name: str, longest_s: float) -> BinaryIO:
    """Decode a file's content as `decode` does, at most `longest_s` of it, in an event loop; cancelled, end ffmpeg."""
    decoded = tempfile.TemporaryFile()  # noqa: SIM115 - returned
    with await asyncio.to_thread(_copy, io.BytesIO(content)) as copy:
        process = await asyncio.create_subprocess_exec(
            *_command(copy.name, container, name, longest_s),
            stdin=subprocess.DEVNULL,
            stdout=decoded,
            stderr=subprocess.PIPE,
        )
        try:
            _, errors = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    return _check(decoded, process.returncode or 0, errors, name)


def _copy(source: BinaryIO) -> Any:
    """Copy a file object's content to a temporary file, as these containers cannot be read from a pipe."""
    copy = tempfile.NamedTemporaryFile(prefix="ds2_jax_")  # noqa: SIM115 - returned
    source.seek(0)
    shutil.copyfileobj(source, copy)
    copy.flush()
    return copy


def _command(path: str, container: str, name: str, longest_s: float) -> list[str]:
    program = shutil.which("ffmpeg")
    if program is None:
        raise FfmpegError(
            f"{name} needs ffmpeg to be read ({container}), which is not installed: install it, or convert the file on another "
            "machine: ffmpeg -i IN OUT.flac"
        )
    options = ["-nostdin", "-v", "error", "-protocol_whitelist", "file", "-f", container]
    limit = [] if math.isinf(longest_s) else ["-t", f"{longest_s:f}"]
    # With a protocol, because ffmpeg takes what is before a colon for one.
    return [program, *options, "-i", f"file:{path}", "-map", "0:a:0", *limit, "-f", "wav", "-"]


def _check(decoded: BinaryIO, code: int, errors: bytes, name: str) -> BinaryIO:
    """Return what ffmpeg has decoded, at its start. Raises FfmpegError."""
    if code or not decoded.seek(0, io.SEEK_END):
        decoded.close()
        reason = errors.decode(errors="replace").strip().rpartition("\n")[2] or f"exit code {code}"
        raise FfmpegError(f"{name} cannot be decoded by ffmpeg ({reason}): copy it again, or convert it to FLAC")
    decoded.seek(0)
    return _Named(decoded, name)


class _Named(io.BufferedReader):
    """A file that keeps another file open and has the name of a third one, for messages."""

    def __init__(self, file: Any, name: str):
        super().__init__(file.raw)
        self._file, self._name = file, name

    @property
    def name(self) -> str:
        return self._name
