"""Whole files: which are computed together, and that each gets its own text."""

import asyncio
import collections
from concurrent.futures import Future

import jax
import pytest

from ds2_jax.recognition.recogniser import Recogniser, load
from ds2_jax.recognition.stream_settings import StreamSettings
from ds2_jax.serving.files import Files, WaitingFile, take_batch
from ds2_jax.serving.sessions import Service
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
