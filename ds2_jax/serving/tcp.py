"""Listeners for protocols that are not HTTP: limits and timeouts, so that no client can hold what it does not use."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

logger = logging.getLogger("ds2_jax")

READ_S = 30.0  # for an event, or the next piece of audio, to arrive
WRITE_S = 10.0  # for a client to read what waits for it
LINGER_S = 2.0  # for a client to stop sending after an error, so that it reads the error
LINE_BYTES = 1 << 16
KEEPALIVE = {"TCP_KEEPIDLE": 4, "TCP_KEEPALIVE": 4, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 2}  # a vanished client: 8 s
USER_TIMEOUT_MS = 8000  # for sent data to be acknowledged


class Connection:
    """A client of a listener. Reading raises EOFError (incomplete data), TimeoutError, ConnectionError."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self._reader, self._writer = reader, writer
        self.peer = "{}:{}".format(*(writer.get_extra_info("peername") or ("?", "?"))[:2])

    async def read_line(self) -> bytes:
        """Return the next line with its end; b'' at the end of data. Raises ValueError if it is longer than 64 KiB."""
        try:
            return await self._reader.readuntil(b"\n")
        except asyncio.IncompleteReadError as error:
            if not error.partial:
                return b""
            raise
        except asyncio.LimitOverrunError as error:
            raise ValueError(f"the line is longer than {LINE_BYTES} bytes") from error

    async def read(self, count: int) -> bytes:
        """Return exactly this many bytes."""
        return await self._reader.readexactly(count)

    async def write(self, data: bytes) -> None:
        """Send data; wait while the client reads more slowly. Raises ConnectionError if it does not read."""
        async with writing(self._writer.transport):
            self._writer.write(data)
            await self._writer.drain()

    async def linger(self) -> None:
        """End sending, and wait until the client has ended, too: closing at once would discard what it has not read."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                self._writer.write_eof()
                while await self._reader.read(LINE_BYTES):
                    pass


Handler = Callable[[Connection], Awaitable[None]]


async def listen(handler: Handler, most: int, host: str, port: int) -> contextlib.AbstractAsyncContextManager[None]:
    """Listen; handle each connection, at most `most` at the same time, and close it. Leaving the context ends all.

    Raises OSError for an address that cannot be used.
    """
    tasks: set[asyncio.Task] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            connection = Connection(reader, writer)
            if len(tasks) > most:
                logger.warning("connection from %s refused: all %d are in use", connection.peer, most)
                return
            detect_vanished(writer.get_extra_info("socket"))
            await _handle(handler, connection)
            writer.close()
            async with asyncio.timeout(WRITE_S):
                await writer.wait_closed()
        except (OSError, asyncio.CancelledError):
            pass  # the client has gone, or does not read; or the listener is closed
        finally:
            writer.transport.abort()
            tasks.discard(task)

    server = await asyncio.start_server(serve, host, port, limit=LINE_BYTES)

    @contextlib.asynccontextmanager
    async def closing() -> AsyncIterator[None]:
        try:
            yield
        finally:
            server.close()
            waiting = list(tasks)
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    return closing()


async def _handle(handler: Handler, connection: Connection) -> None:
    try:
        await handler(connection)
    except (OSError, EOFError):
        pass  # the client has gone, or does nothing
    except Exception:
        logger.exception("connection from %s", connection.peer)


@contextlib.asynccontextmanager
async def writing(transport: asyncio.WriteTransport) -> AsyncIterator[None]:
    """Send something in the block. Raises ConnectionError, and ends the connection, if the client does not read."""
    try:
        async with asyncio.timeout(WRITE_S):
            yield
    except TimeoutError as error:
        transport.abort()
        raise ConnectionAbortedError("the client does not read") from error


def detect_vanished(connection: socket.socket) -> None:
    """Make the system close a connection whose other end has vanished."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
