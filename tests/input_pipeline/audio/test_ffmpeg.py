"""Containers that only ffmpeg can read: decoded by a program of that name, refused in one line without it."""

import asyncio
import contextlib
import io
import os
import stat
import sys
import time

import numpy as np
import pytest
import soundfile

from input_pipeline import audio
from input_pipeline.audio import ffmpeg

RATE_HZ = 8000
M4A = b"\0\0\0\x20ftypM4A \0\0\0\0"
WEBM = b"\x1aE\xdf\xa3\x9fB\x86\x81\x01B\xf7\x81"
# It decodes what the tests put behind a container's head, and writes a WAV whose length is not stated, as to a pipe.
STAND_IN = f"""#!{sys.executable}
import sys
arguments = sys.argv[1:]
content = open(arguments[arguments.index("-i") + 1].removeprefix("file:"), "rb").read()
head, found, samples = content.partition(b"SAMPLES")
expected = {{b"ftyp": "mov", b"\\x1aE\\xdf\\xa3": "matroska"}}
if not found or not any(mark in head and arguments[arguments.index("-f") + 1] == name for mark, name in expected.items()):
    sys.exit("Invalid data found when processing input")
size = (0xFFFFFFFF).to_bytes(4, "little")
form = (1).to_bytes(2, "little") * 2 + ({RATE_HZ}).to_bytes(4, "little") + ({2 * RATE_HZ}).to_bytes(4, "little")
sys.stdout.buffer.write(b"RIFF" + size + b"WAVEfmt " + (16).to_bytes(4, "little") + form + b"\\2\\0\\x10\\0data" + size + samples)
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    program = tmp_path / "bin" / "ffmpeg"
    program.parent.mkdir()
    program.write_text(STAND_IN)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture
def samples() -> np.ndarray:
    return (8000 * np.sin(np.arange(RATE_HZ) / 5)).astype(np.int16)


@pytest.mark.parametrize("head", [M4A, WEBM])
@pytest.mark.parametrize("kind", ["path", "bytes", "file"])
def test_a_container_is_decoded_by_ffmpeg(head, kind, samples, tmp_path, installed):
    content = head + b"SAMPLES" + samples.tobytes()
    path = tmp_path / "a: clip.any"  # told by its content, not by its name
    path.write_bytes(content)
    source = {"path": str(path), "bytes": content, "file": io.BytesIO(content)}[kind]
    read, rate_hz = audio.read(source)
    assert rate_hz == RATE_HZ
    np.testing.assert_array_equal(read, samples / np.float32(32768))
    assert audio.info(source).duration_s == 1.0


def test_a_server_decodes_as_much_as_it_takes(samples, installed):
    content = M4A + b"SAMPLES" + samples.tobytes()
    decoded = asyncio.run(ffmpeg.decode_for_client(content, "mov", "a.m4a", 5.0))
    np.testing.assert_array_equal(audio.read(decoded)[0], samples / np.float32(32768))
    with pytest.raises(ffmpeg.FfmpegError, match=r"a\.m4a cannot be decoded by ffmpeg \(Invalid data found"):
        asyncio.run(ffmpeg.decode_for_client(M4A, "mov", "a.m4a", 5.0))


def test_ffmpeg_ends_when_its_client_goes(tmp_path, monkeypatch):
    program, told = tmp_path / "ffmpeg", tmp_path / "told"
    program.write_text(f'#!/bin/sh\necho "$@" > {told}\necho $$ >> {told}\nexec sleep 60\n')
    program.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    async def decode_and_go() -> None:
        decoding = asyncio.create_task(ffmpeg.decode_for_client(M4A, "mov", "a.m4a", 5.0))
        while not told.exists() or len(told.read_text().splitlines()) < 2:
            await asyncio.sleep(0.01)
        decoding.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await decoding

    started = time.monotonic()
    asyncio.run(decode_and_go())
    assert time.monotonic() - started < 10
    arguments, process = told.read_text().splitlines()
    assert " -t 5.000000 " in arguments
    with pytest.raises(ProcessLookupError):
        os.kill(int(process), 0)


def test_what_ffmpeg_cannot_decode_is_refused_with_its_reason(tmp_path, installed):
    path = tmp_path / "a.m4a"
    path.write_bytes(M4A)
    with pytest.raises(audio.AudioError, match=r"a\.m4a cannot be decoded by ffmpeg \(Invalid data found"):
        audio.read(str(path))


def test_without_ffmpeg_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    path = tmp_path / "a.m4a"
    path.write_bytes(M4A)
    with pytest.raises(audio.AudioError, match=r"a\.m4a needs ffmpeg .*not installed: install it, or convert") as error:
        audio.info(str(path))
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3", "AIFF", "AU", "CAF"])
def test_what_libsndfile_reads_is_not_given_to_ffmpeg(kind, samples):
    file = io.BytesIO()
    soundfile.write(file, samples, RATE_HZ, format=kind)
    assert ffmpeg.container_of(file.getvalue()) == ""


@pytest.mark.parametrize("text", [b"#EXTM3U\nhttp://192.0.2.1/a.ts\n", b"ffconcat version 1.0\nfile /etc/passwd\n"])
def test_a_playlist_is_never_given_to_ffmpeg(text, installed):
    with pytest.raises(audio.AudioError, match="is not in an audio format"):
        audio.read(text)
