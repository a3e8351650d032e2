"""Audio in containers that libsndfile cannot read (m4a, mp4, webm, wma, amr and others), decoded by ffmpeg if it is installed.

A container is told by its first bytes, and ffmpeg is told which one to read: it guesses otherwise, and takes a playlist,
which could name any file or address, for audio.
"""

import contextlib
import io
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
    program = shutil.which("ffmpeg")
    if program is None:
        raise FfmpegError(
            f"{name} needs ffmpeg to be read ({container}), which is not installed: install it, or convert the file on another "
            "machine: ffmpeg -i IN OUT.flac"
        )
    decoded = tempfile.TemporaryFile()  # noqa: SIM115 - returned
    with contextlib.ExitStack() as stack:
        if isinstance(source, str | os.PathLike):
            path = os.path.abspath(os.fspath(source))
        else:  # these containers cannot be read from a pipe
            copy = stack.enter_context(tempfile.NamedTemporaryFile(prefix="ds2_jax_"))
            source.seek(0)
            shutil.copyfileobj(source, copy)
            copy.flush()
            path = copy.name
        options = ["-nostdin", "-v", "error", "-protocol_whitelist", "file", "-f", container]
        # With a protocol, because ffmpeg takes what is before a colon for one.
        command = [program, *options, "-i", f"file:{path}", "-map", "0:a:0", "-f", "wav", "-"]
        result = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=decoded, stderr=subprocess.PIPE, check=False)
    if result.returncode or not decoded.tell():
        decoded.close()
        reason = result.stderr.decode(errors="replace").strip().rpartition("\n")[2] or f"exit code {result.returncode}"
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
