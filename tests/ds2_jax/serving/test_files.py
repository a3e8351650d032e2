"""Whole files: which are computed together, and that each gets its own text."""

import asyncio
import collections
import contextlib
import io
import os
from collections.abc import Iterator
from concurrent.futures import Future

import jax
import numpy as np
import pytest
import soundfile

from ds2_jax.recognition.recogniser import Recogniser, load
from ds2_jax.recognition.stream_settings import StreamSettings
from ds2_jax.serving import files as serving_files
from ds2_jax.serving.files import Files, WaitingFile, take_batch
from ds2_jax.serving.sessions import Service
from input_pipeline.audio import AudioError
from tests.conftest import CLIPS
from tests.servers import MODEL


@pytest.fixture(scope="module")
def recogniser() -> Recogniser:
    return load(MODEL)


ON_CPU = pytest.mark.skipif(jax.default_backend() != "cpu", reason="accelerators have larger batches")


def queue(*seconds: float) -> collections.deque[WaitingFile]:
    return collections.deque(WaitingFile(b"", duration_s, None, Future()) for duration_s in seconds)


@ON_CPU
@pytest.mark.parametrize(
    ("waiting", "taken"),
    [
        ([], []),
        ([14.0] * 2, [14.0]),  # a batch of four takes as long as two files, or more, one by one
        ([14.0] * 3, [14.0] * 3),
        ([2.0] * 3, [2.0] * 3),  # one by one, they are padded to 3 s
        ([2.0] * 4, [2.0] * 4),
        ([3.5] * 2, [3.5] * 2),  # to 7 s
        ([2.0] * 9, [2.0] * 4),
        ([7.0, *[2.0] * 16], [7.0]),  # the first is not passed over
        ([2.0, 7.0, *[2.0] * 3], [2.0] * 4),
        ([7.0, 2.0, 5.0, 6.0, 7.5, 8.0], [6.0, 7.0, 7.5, 8.0]),
        ([2.1, 1.5, 2.9, 1.9, 2.8, 1.8, 3.0], [2.1, 2.8, 2.9, 3.0]),  # which all need 3 s
        ([2.0, 40.0, 2.0, 2.5], [2.0, 2.0, 2.5]),
        ([40.0, *[2.0] * 16], [40.0]),
    ],
)
def test_the_file_that_has_waited_longest_is_computed_with_those_of_its_length(recogniser, waiting, taken):
    files = queue(*waiting)
    assert [item.duration_s for item in take_batch(files, recogniser.network)] == taken
    assert len(files) == len(waiting) - len(taken)


def test_a_file_whose_client_has_gone_is_dropped(recogniser):
    files = queue(7.0, *[2.0] * 4)
    files[0].future.cancel()
    files[2].future.cancel()
    assert len(take_batch(files, recogniser.network)) == 3
    assert not files


def test_each_of_many_files_gets_its_own_text(recogniser):
    contents = [path.read_bytes() for path in sorted(CLIPS.glob("*.flac"))]
    expected = [transcript.text for transcript in recogniser.transcribe(list(contents))]
    service = Service(recogniser, StreamSettings(), 4)
    files = Files(service, 60.0)

    async def send_all() -> list[str]:
        return [result.text for result in await asyncio.gather(*map(files.transcribe, 3 * contents))]

    try:
        assert asyncio.run(send_all()) == 3 * expected
    finally:
        files.stop()


@contextlib.contextmanager
def make_files(recogniser: Recogniser, longest_s: float) -> Iterator[Files]:
    service = Service(recogniser, StreamSettings(), 4)
    files = Files(service, longest_s)
    service.start()
    try:
        yield files
    finally:
        files.stop()
        service.stop()


def undercounted(seconds: float) -> tuple[bytes, float]:
    """Return three clips as FLAC whose header counts `seconds`, and their true seconds."""
    samples = np.concatenate([soundfile.read(clip, dtype="int16")[0] for clip in sorted(CLIPS.glob("*.flac"))[:3]])
    encoded = io.BytesIO()
    soundfile.write(encoded, samples, 16000, format="FLAC")
    content = bytearray(encoded.getvalue())
    content[22:26] = int(seconds * 16000).to_bytes(4, "big")
    return bytes(content), len(samples) / 16000


def test_what_a_file_has_counts_not_what_its_header_states(recogniser, monkeypatch):
    monkeypatch.setattr(serving_files, "LONGEST_S", 1.0)  # longer files are recognised as streams
    content, true_s = undercounted(2.0)

    async def recognise(files: Files) -> float:
        return (await files.transcribe(content)).duration_s

    with make_files(recogniser, true_s + 1) as files:
        assert asyncio.run(recognise(files)) == pytest.approx(true_s)
    with make_files(recogniser, 4.0) as files, pytest.raises(AudioError, match="s long; this server takes up to 4 s"):
        asyncio.run(recognise(files))


def test_a_container_is_decoded_once(recogniser, tmp_path, monkeypatch):
    (tmp_path / "ffmpeg").write_text(f"#!/bin/sh\necho >> {tmp_path / 'calls'}\ncat {tmp_path / 'clip.wav'}\n")
    (tmp_path / "ffmpeg").chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    clip = CLIPS / "cen1-mtos-b.flac"
    soundfile.write(tmp_path / "clip.wav", *soundfile.read(clip, dtype="int16"))

    async def recognise(files: Files) -> str:
        return (await files.transcribe(b"\0\0\0\x20ftypM4A \0\0\0\0")).text

    with make_files(recogniser, 60.0) as files:
        assert asyncio.run(recognise(files)) == "s m i t h"
    assert (tmp_path / "calls").read_text() == "\n"
