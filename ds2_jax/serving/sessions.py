"""Live sessions: one thread computes the ready chunks of all of them as one batch (arXiv:1512.02595, section 7.1).

The thread owns the streams. A connection, in the event loop, puts audio and commits into its session, and reads events.
"""

import asyncio
import collections
import contextlib
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from decoding.search.beam import CheckedEngine
from ds2_jax.recognition.recogniser import Recogniser
from ds2_jax.recognition.stream import Partial, Segment, Stream
from ds2_jax.recognition.stream_settings import StreamSettings
from ds2_jax.recognition.stream_step import SIZES, Chunk, Output
from ds2_jax.serving.metrics import Metrics
from input_pipeline.audio import AudioError
from input_pipeline.cores import usable_cores

logger = logging.getLogger("ds2_jax")

BACKLOG_S = 30.0  # audio of a session that may wait; a client that sends more waits
COMMIT, FINISH, FLUSH = "commit", "finish", "flush"
LOWEST_HZ, HIGHEST_HZ = 4000, 192_000  # sample rates; lower ones would become much more audio than a client sent
PIECE_S = 0.25  # of audio that is handed to a stream at once
TURN_S = 0.1  # between two steps, to hand over what has arrived; the rest waits, as a step that is late delays all
INBOX_ITEMS = 256  # pieces and commits of a session that may wait; a client that sends more waits
EVENTS = 1000  # events that may wait for a client; one that does not read so many is too slow


class Overloaded(Exception):
    """A session too many; the message says why, for the client."""


@dataclass(frozen=True)
class Event:
    """What a client is told: the current partial result, or a final one, or the end of the stream (neither).

    processed_s: seconds of the session's audio that the network has seen. error: why the stream ended early. flushed: the
    answer to `Session.flush`, and nothing else.
    """

    partial: Partial | None = None
    final: Segment | None = None
    processed_s: float = 0.0
    error: str = ""
    flushed: bool = False

    @property
    def is_end(self) -> bool:
        """Whether no event follows."""
        return self.partial is None and self.final is None and not self.flushed


class Session:
    """A client's stream. Use `Service.open`; methods are called in the event loop."""

    def __init__(self, service: "Service", stream: Stream, rate_hz: int, protocol: str):
        self._service, self.stream, self.rate_hz, self.protocol = service, stream, rate_hz, protocol
        self._loop = asyncio.get_running_loop()
        self._inbox: collections.deque[np.ndarray | str] = collections.deque()
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._room = asyncio.Event()
        self._room.set()
        self._sent = 0  # samples
        self._arrivals: collections.deque[tuple[float, float]] = collections.deque()  # seconds of audio, clock
        self._commits: collections.deque[float] = collections.deque()  # clock
        self._shown = ""
        self.flushes = 0
        self.started = time.monotonic()
        self.closed = self.finished = False

    async def send(self, samples: np.ndarray) -> None:
        """Add audio, as `Stream.feed`; wait while too much is waiting."""
        size = int(PIECE_S * self.rate_hz)
        for start in range(0, len(samples), size):
            if self.finished:
                return
            piece = samples[start : start + size]
            self._sent += len(piece)
            self._arrivals.append((self._sent / self.rate_hz, time.monotonic()))
            await self._put(piece)

    async def commit(self) -> None:
        """End the utterance: a final result with the reason 'commit' follows, which may be empty.

        Wait as `send`, and while more than EVENTS events have not been read.
        """
        if not self.finished:
            self._commits.append(time.monotonic())
            await self._put(COMMIT)
            await self._wait_while(lambda: self._events.qsize() > EVENTS)

    async def flush(self) -> None:
        """Ask for an event `flushed`, which follows those of all complete chunks of the audio sent so far. Wait as `send`."""
        if not self.finished:
            await self._put(FLUSH)

    async def _put(self, item: np.ndarray | str) -> None:
        """Add to the inbox; wait while it is full."""
        self._inbox.append(item)
        self._service.wake()
        await self._wait_while(self._is_full)

    def _is_full(self) -> bool:
        waiting_s = self._sent / self.rate_hz - self.stream.processed_s
        return waiting_s > BACKLOG_S or len(self._inbox) > INBOX_ITEMS

    async def _wait_while(self, condition: Callable[[], bool]) -> None:
        while not self.finished and condition():
            self._room.clear()
            await self._room.wait()

    def finish(self) -> None:
        """Commit and end the stream: `events` ends after the last final result."""
        if not self.finished:
            self._commits.append(time.monotonic())
            self._inbox.append(FINISH)
            self.finished = True
            self._service.wake()

    async def next_event(self) -> Event:
        """Return the next event."""
        event = await self._events.get()
        self._room.set()
        return event

    async def events(self) -> AsyncIterator[Event]:
        """Yield events until the stream has ended."""
        while not (event := await self.next_event()).is_end:
            yield event
        if event.error:
            raise RuntimeError(event.error)

    # Called by the thread of the service:

    @property
    def is_waiting(self) -> bool:
        """Whether something has arrived that the stream does not have yet."""
        return bool(self._inbox)

    def take_inbox(self, limit_s: float) -> bool:
        """Hand what has arrived to the stream, as much as there is time for; return whether anything had. Raises AudioError."""
        arrived, until = bool(self._inbox), time.monotonic() + limit_s
        while self._inbox and time.monotonic() < until:
            item = self._inbox.popleft()
            if not isinstance(item, str):
                self.stream.receive(item)
            elif item == COMMIT:
                self.stream.end()
            elif item == FLUSH:
                self.flushes += 1
            else:
                self.stream.close()
        return arrived

    def collect(self) -> list[Event]:
        """Return the events of what was decoded since the last call, and measure their delays."""
        now, metrics, processed_s = time.monotonic(), self._service.metrics, self.stream.processed_s
        while self._arrivals and self._arrivals[0][0] < processed_s:
            self._arrivals.popleft()
        waited = now - self._arrivals[0][1] if self._arrivals else None
        events = []
        for segment in self.stream.finals():
            self._shown = ""
            events.append(Event(final=segment, processed_s=processed_s))
            committed = segment.reason == "commit" and self._commits
            metrics.final.observe(now - self._commits.popleft() if committed else waited)
        partial = self.stream.partial()
        if partial.text != self._shown:
            self._shown = partial.text
            events.append(Event(partial=partial, processed_s=processed_s))
            metrics.partial.observe(waited)
        if self.stream.is_done and not self.closed:
            self.closed = True
            events.append(Event(processed_s=processed_s))
        return events

    def flushed(self) -> list[Event]:
        """Return the answers to `flush`, when all complete chunks are computed."""
        count, self.flushes = self.flushes, 0
        return [Event(flushed=True, processed_s=self.stream.processed_s)] * count

    def post(self, events: list[Event]) -> None:
        """Give events to the event loop, from the thread of the service."""
        with contextlib.suppress(RuntimeError):  # the server has stopped
            self._loop.call_soon_threadsafe(self._deliver, events)

    def _deliver(self, events: list[Event]) -> None:
        for event in events:
            if event.partial is not None and self._events.qsize() >= EVENTS:
                continue  # a client that does not read gets fewer partial results
            self._events.put_nowait(event)
        self._room.set()


class Service:
    """All sessions of a server, and the thread that computes them.

    recogniser: the model. limit: sessions at the same time, at most 64. Raises ValueError for a model or a decoder that
    cannot be used for streams.
    """

    def __init__(self, recogniser: Recogniser, settings: StreamSettings, limit: int):
        self.recogniser, self.settings, self.limit = recogniser, settings, min(limit, SIZES[-1])
        self.metrics = Metrics()
        recogniser.stream(settings=settings)  # refuses what cannot be streamed
        self.step = recogniser.stream_step(settings)
        self._sessions: list[Session] = []
        self._closed: collections.deque[Session] = collections.deque()
        self._lock = threading.Lock()
        self._awake = threading.Event()
        self._stopped = False
        self._decoders = ThreadPoolExecutor(usable_cores(), "decode")
        self._thread = threading.Thread(target=self._run, name="streams", daemon=True)

    def start(self) -> None:
        """Compile all steps, then start the thread."""
        self.step.warm_up(self.limit)
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread."""
        self._stopped = True
        self.wake()
        if self._thread.is_alive():
            self._thread.join()
        self._decoders.shutdown()

    def wake(self) -> None:
        """Make the thread look at the inboxes."""
        self._awake.set()

    @property
    def active(self) -> int:
        """Sessions that are open."""
        return len(self._sessions)

    def open(
        self,
        rate_hz: int,
        protocol: str,
        settings: StreamSettings | None = None,
        engine: CheckedEngine | None = None,
    ) -> Session:
        """Open a session. Raises Overloaded, AudioError for the rate.

        settings: those of endpoints may differ from the service's; the sizes of chunks may not. engine: another decoder.
        """
        if not LOWEST_HZ <= rate_hz <= HIGHEST_HZ:
            raise AudioError(f"the sample rate is {rate_hz} Hz: use {LOWEST_HZ} to {HIGHEST_HZ}")
        if len(self._sessions) >= self.limit:
            self.metrics.refused += 1
            raise Overloaded(f"all {self.limit} sessions are in use: try again later")
        stream = Stream(
            self.recogniser.meta, engine or self.recogniser.engine, self.step, settings or self.settings, rate_hz
        )
        session = Session(self, stream, rate_hz, protocol)
        with self._lock:
            self._sessions.append(session)
        self.metrics.sessions += 1
        return session

    def close(self, session: Session) -> None:
        """Close a session and free its memory; log it in one line."""
        session.finished = session.closed = True
        with self._lock:
            if session not in self._sessions:
                return
            self._sessions.remove(session)
        self._closed.append(session)
        self.wake()
        seconds = session.stream.received_s
        self.metrics.audio_s += seconds
        logger.info(
            "session: %s, %.1f s of audio at %d Hz, open for %.1f s",
            session.protocol,
            seconds,
            session.rate_hz,
            time.monotonic() - session.started,
        )

    def _run(self) -> None:
        while not self._stopped:
            self._awake.wait()
            self._awake.clear()
            while not self._stopped and self._compute_ready():
                pass

    def _compute_ready(self) -> bool:
        """Compute a chunk of each session that has a complete one; return whether there is more to do."""
        while self._closed:  # what holds a session, such as a connection in a cycle, may live for long
            self._closed.popleft().stream.release()
        with self._lock:
            sessions = list(self._sessions)
        limit_s = TURN_S / max(1, sum(session.is_waiting for session in sessions))
        ready: list[tuple[Session, Chunk]] = []
        for session in sessions:
            with self._reported(session):
                arrived = session.take_inbox(limit_s)
                chunk = session.stream.next_chunk()
                if chunk is not None:
                    ready.append((session, chunk))
                elif arrived or session.flushes:
                    session.post(session.collect() + session.flushed())
        self.metrics.queue = len(ready)
        if ready:
            computed = [session for session, _ in ready]
            with self._reported(*computed):
                outputs = self.step([chunk for _, chunk in ready])
                list(self._decoders.map(self._accept, computed, outputs))
        return bool(ready) or any(session.is_waiting for session in sessions)

    def _accept(self, session: Session, output: Output) -> None:
        with self._reported(session):
            session.stream.accept(output)
            session.post(session.collect())

    @contextlib.contextmanager
    def _reported(self, *sessions: Session) -> Iterator[None]:
        """End sessions whose audio cannot be recognised, with the reason; the others go on."""
        try:
            yield
        except Exception as error:
            if not isinstance(error, ValueError):
                logger.exception("session: %s", ", ".join(session.protocol for session in sessions))
            for session in sessions:
                self.close(session)
                session.post([Event(error=str(error) or type(error).__name__)])
