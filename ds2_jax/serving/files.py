"""Whole files: short ones are transcribed in batches, long ones as streams at full speed."""

import asyncio
import collections
import contextlib
import queue
import threading
from collections.abc import AsyncGenerator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from decoding.hypothesis import Word
from decoding.search.beam import CheckedEngine
from ds2_jax.recognition.batched_network import LONGEST_S, BatchedNetwork
from ds2_jax.recognition.recogniser import Recogniser
from ds2_jax.recognition.stream import join_texts
from ds2_jax.serving.sessions import Event, Service, Session
from input_pipeline import audio
from input_pipeline.audio import ffmpeg
from input_pipeline.audio.long_reader import open_long
from input_pipeline.audio.reader import mix
from input_pipeline.audio.segment import source_name
from input_pipeline.cores import usable_cores

Content = bytes | BinaryIO


@dataclass(frozen=True)
class FileResult:
    """Transcript of a file, with the words of all segments."""

    text: str
    words: list[Word]
    duration_s: float


@dataclass(frozen=True, eq=False)
class WaitingFile:
    """A file that is to be transcribed. engine: a decoder of its own."""

    content: Content
    duration_s: float
    engine: CheckedEngine | None
    future: Future[FileResult]


class FileReader:
    """A long file that threads open and read, and that the event loop closes when it leaves the block.

    A thread may be reading then, as cancelling a task does not stop its thread: libsndfile would go on in memory that is freed.
    So the file is closed in a thread, too, after the call in progress, and no call follows.

    Attribute: read_s (seconds read so far). longest_s: what is longer is refused, whatever its header states.
    """

    def __init__(self, content: Content, longest_s: float):
        self._content, self._longest_s, self._stack = content, longest_s, contextlib.ExitStack()
        self._lock = threading.Lock()
        self._closed = False
        self.read_s = 0.0

    def __enter__(self) -> "FileReader":
        return self

    def __exit__(self, *_) -> None:
        asyncio.get_running_loop().run_in_executor(None, self._close)

    def open(self) -> int:
        """Open the file; return its sample rate. Raises AudioError."""
        with self._lock:
            self._file = self._stack.enter_context(open_long(self._content))
            self._blocks = self._file.blocks()
            return self._file.sample_rate_hz

    def read(self) -> np.ndarray | None:
        """Return the next samples [n]; None at the end, and when the file is closed.

        Raises AudioError for a file that is damaged or too long.
        """
        with self._lock:
            block = None if self._closed else next(self._blocks, None)
            self.read_s = self._file.read_s
            check_length(self.read_s, self._longest_s)
            return None if block is None else mix(block)[0]

    def _close(self) -> None:
        with self._lock:
            self._closed = True
            self._stack.close()


def check_length(duration_s: float, longest_s: float) -> None:
    """Raise AudioError for a file that is too long."""
    if duration_s > longest_s:
        raise audio.AudioError(f"the file is {duration_s:.0f} s long; this server takes up to {longest_s:g} s")


class Files:
    """Transcribes files for a server. `transcribe` and `stream` are called in the event loop.

    longest_s: longer files are refused.
    """

    def __init__(self, service: Service, longest_s: float):
        self._service, self._longest_s = service, longest_s
        self._queue: queue.SimpleQueue[WaitingFile | None] = queue.SimpleQueue()
        self._decoding = asyncio.Semaphore(usable_cores())
        self._thread = threading.Thread(target=self._run, name="files", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread after the files that wait."""
        self._queue.put(None)
        self._thread.join()

    async def transcribe(self, content: bytes, engine: CheckedEngine | None = None) -> FileResult:
        """Return the transcript of an audio file. Raises AudioError, and Overloaded for a long one without a free session.

        engine: another decoder than the server's.
        """
        source, duration_s = await self._prepare(content)
        if duration_s <= LONGEST_S:
            self._service.metrics.audio_s += duration_s
            future: Future[FileResult] = Future()
            self._queue.put(WaitingFile(source, duration_s, engine, future))
            return await asyncio.wrap_future(future)
        words: list[Word] = []
        texts = []
        reader = FileReader(source, self._longest_s)
        async for event in self._recognise(reader, engine):
            if event.final is not None:
                texts.append(event.final.text)
                words += event.final.words
        return FileResult(join_texts(texts), words, reader.read_s)

    async def stream(self, content: bytes, engine: CheckedEngine | None = None) -> AsyncGenerator[Event, None]:
        """Yield the events of a file that is recognised as a stream, at full speed. Raises as `transcribe`."""
        source, _ = await self._prepare(content)
        async with contextlib.aclosing(self._recognise(FileReader(source, self._longest_s), engine)) as events:
            async for event in events:
                yield event

    async def _prepare(self, content: bytes) -> tuple[Content, float]:
        """Return a file, decoded if it needs ffmpeg, and its seconds. Raises AudioError if it is unusable or too long."""
        source: Content = content
        if container := ffmpeg.container_of(content):
            try:
                async with self._decoding:
                    source = await ffmpeg.decode_for_client(
                        content, container, source_name(content), self._longest_s + 1
                    )
            except (OSError, ffmpeg.FfmpegError) as error:
                raise audio.AudioError(str(error)) from error
        duration_s = (await asyncio.to_thread(audio.info, source)).duration_s
        check_length(duration_s, self._longest_s)
        self._service.metrics.files += 1
        return source, duration_s

    async def _recognise(self, reader: FileReader, engine: CheckedEngine | None) -> AsyncGenerator[Event, None]:
        """Yield the events of a file as a stream. Raises AudioError, Overloaded."""
        with reader:
            session = self._service.open(await asyncio.to_thread(reader.open), "file", engine=engine)
            sending = asyncio.create_task(self._send(session, reader))
            try:
                async for event in session.events():
                    yield event
                await sending
            except RuntimeError as error:  # the session has ended early
                raise audio.AudioError(f"the file cannot be recognised: {error}") from error
            finally:
                sending.cancel()
                self._service.close(session)

    @staticmethod
    async def _send(session: Session, reader: FileReader) -> None:
        """Send a file to a session, and finish it. Raises AudioError if less than all of the file can be read."""
        try:
            while (samples := await asyncio.to_thread(reader.read)) is not None:
                await session.send(samples)
        finally:
            session.finish()

    def _run(self) -> None:
        recogniser: Recogniser = self._service.recogniser
        waiting: collections.deque[WaitingFile] = collections.deque()
        stopping = False
        while waiting or not stopping:
            while not stopping and not (waiting and self._queue.empty()):
                item = self._queue.get()
                if item is None:
                    stopping = True
                else:
                    waiting.append(item)
            chosen = take_batch(waiting, recogniser.network)
            try:
                _transcribe(recogniser, chosen)
            except Exception as error:  # this thread must go on
                for item in chosen:
                    if not item.future.done():
                        item.future.set_exception(error)


def take_batch(waiting: collections.deque[WaitingFile], network: BatchedNetwork) -> list[WaitingFile]:
    """Remove and return the file that has waited longest, and those that are computed with it; none if none waits.

    With it come files of neighbouring lengths, as many as give the most speech in the least time. Files whose clients have
    gone are dropped.
    """
    while waiting and waiting[0].future.cancelled():
        waiting.popleft()
    if not waiting:
        return []
    first = waiting[0]
    chosen = [first]
    frames = {item: network.frames_of(item.duration_s) for item in waiting}
    fit = [item for item in waiting if item.engine is None and network.shape_of_batch(frames[item])]
    if first in fit:
        fit.sort(key=lambda item: frames[item])
        together = network.batch_with([frames[item] for item in fit], fit.index(first))
        chosen = fit[together.start : together.stop]
    for item in chosen:
        waiting.remove(item)
    return [item for item in chosen if item.future.set_running_or_notify_cancel()]


def _transcribe(recogniser: Recogniser, chosen: list[WaitingFile]) -> None:
    """Transcribe one file with its own decoder, or several with the server's."""
    if len(chosen) == 1 and (engine := chosen[0].engine) is not None:
        [item] = chosen
        try:
            [[best, *_]] = engine.decode_batch([recogniser.log_probs(item.content)])
            item.future.set_result(FileResult(best.text, best.words, item.duration_s))
        except ValueError as error:
            item.future.set_exception(error)
        return
    for index, result in recogniser.transcribe_each(item.content for item in chosen):
        if isinstance(result, Exception):
            chosen[index].future.set_exception(result)
        else:
            chosen[index].future.set_result(FileResult(result.text, result.words, result.duration_s))
