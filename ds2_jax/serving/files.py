"""Whole files: short ones are transcribed in batches, long ones as streams at full speed."""

import asyncio
import contextlib
import queue
import threading
from collections.abc import AsyncGenerator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from decoding.hypothesis import Word
from decoding.search.beam import CheckedEngine
from ds2_jax.recognition.batched_network import LONGEST_S
from ds2_jax.recognition.recogniser import Recogniser
from ds2_jax.recognition.stream import join_texts
from ds2_jax.serving.sessions import Event, Service, Session
from input_pipeline import audio
from input_pipeline.audio.features import SilenceError
from input_pipeline.audio.long_reader import LongAudio, open_long

TOGETHER = 16  # files in a batch


@dataclass(frozen=True)
class FileResult:
    """Transcript of a file, with the words of all segments."""

    text: str
    words: list[Word]
    duration_s: float


class _Waiting(NamedTuple):
    content: bytes
    duration_s: float
    engine: CheckedEngine | None
    future: Future[FileResult]


class Files:
    """Transcribes files for a server. `transcribe` and `stream` are called in the event loop.

    longest_s: longer files are refused.
    """

    def __init__(self, service: Service, longest_s: float):
        self._service, self._longest_s = service, longest_s
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="files", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread after the files that wait."""
        self._queue.put(None)
        self._thread.join()

    async def measure(self, content: bytes) -> float:
        """Return the seconds of a file. Raises AudioError if it cannot be read or is too long."""
        duration_s = (await asyncio.to_thread(audio.info, content)).duration_s
        if duration_s > self._longest_s:
            raise audio.AudioError(
                f"the file is {duration_s:.0f} s long; this server takes up to {self._longest_s:g} s"
            )
        return duration_s

    async def transcribe(self, content: bytes, engine: CheckedEngine | None = None) -> FileResult:
        """Return the transcript of an audio file. Raises AudioError, and Overloaded for a long one without a free session.

        engine: another decoder than the server's.
        """
        duration_s = await self.measure(content)
        self._service.metrics.files += 1
        if duration_s <= LONGEST_S:
            self._service.metrics.audio_s += duration_s
            future: Future[FileResult] = Future()
            self._queue.put(_Waiting(content, duration_s, engine, future))
            return await asyncio.wrap_future(future)
        words: list[Word] = []
        texts = []
        async for event in self.stream(content, engine):
            if event.final is not None:
                texts.append(event.final.text)
                words += event.final.words
        return FileResult(join_texts(texts), words, duration_s)

    async def stream(self, content: bytes, engine: CheckedEngine | None = None) -> AsyncGenerator[Event, None]:
        """Yield the events of a file that is recognised as a stream, at full speed. Raises as `transcribe`."""
        with contextlib.ExitStack() as stack:
            file = await asyncio.to_thread(stack.enter_context, open_long(content))  # ffmpeg may have to decode it
            session = self._service.open(file.sample_rate_hz, "file", engine=engine)
            sending = asyncio.create_task(self._send(session, file))
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
    async def _send(session: Session, file: LongAudio) -> None:
        """Send a file to a session, and finish it. Raises AudioError if less than all of the file can be read."""
        blocks = file.blocks()
        try:
            while (samples := await asyncio.to_thread(next, blocks, None)) is not None:
                await session.send(np.ascontiguousarray(samples))
        finally:
            session.finish()

    def _run(self) -> None:
        recogniser: Recogniser = self._service.recogniser
        while (item := self._queue.get()) is not None:
            waiting = [item]
            while len(waiting) < TOGETHER and not self._queue.empty():
                item = self._queue.get()
                if item is None:
                    self._queue.put(None)
                    break
                waiting.append(item)
            waiting = [item for item in waiting if item.future.set_running_or_notify_cancel()]
            try:
                self._transcribe(recogniser, waiting)
            except Exception as error:  # this thread must go on
                for item in waiting:
                    if not item.future.done():
                        item.future.set_exception(error)

    @staticmethod
    def _transcribe(recogniser: Recogniser, waiting: list[_Waiting]) -> None:
        """Transcribe files with the server's decoder as a batch, and the others one by one."""
        together = [item for item in waiting if item.engine is None]
        for index, result in recogniser.transcribe_each(item.content for item in together):
            if isinstance(result, Exception):
                _fail(together[index], result)
            else:
                together[index].future.set_result(FileResult(result.text, result.words, result.duration_s))
        for item in waiting:
            if item.engine is not None:
                try:
                    [[best, *_]] = item.engine.decode_batch([recogniser.log_probs(item.content)])
                    item.future.set_result(FileResult(best.text, best.words, item.duration_s))
                except ValueError as error:
                    _fail(item, error)


def _fail(item: _Waiting, error: Exception) -> None:
    """Report why a file cannot be transcribed; digital silence has no text."""
    if isinstance(error.__cause__, SilenceError):
        item.future.set_result(FileResult("", [], item.duration_s))
    else:
        item.future.set_exception(error)
