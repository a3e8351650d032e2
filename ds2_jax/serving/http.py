"""What all HTTP routes share: the objects of the application, WebSockets, errors."""

import contextlib
import weakref
from collections.abc import Callable, Iterator

from aiohttp import WSCloseCode, web

from ds2_jax.serving import tcp
from ds2_jax.serving.files import Files
from ds2_jax.serving.sessions import Overloaded, Service

SERVICE: web.AppKey[Service] = web.AppKey("service", Service)
FILES: web.AppKey[Files] = web.AppKey("files", Files)
MODEL: web.AppKey[str] = web.AppKey("model", str)
SOCKETS: web.AppKey[weakref.WeakSet] = web.AppKey("sockets", weakref.WeakSet)
UPLOADS: web.AppKey["Uploads"] = web.AppKey("uploads")
MESSAGE_BYTES = 1 << 20  # limit of a WebSocket message
TRANSPORT = "transport"  # key of a WebSocket
REASON_BYTES = 120  # of a close frame, which holds 123


class Uploads:
    """The files that are being received and transcribed, and their memory: `most` bytes in all.

    Attribute: active (their number).
    """

    def __init__(self, most: int):
        self._most, self._used = most, 0
        self.active = 0

    @contextlib.contextmanager
    def upload(self) -> Iterator[Callable[[int], None]]:
        """Return what takes bytes of the memory until the end of the block; it raises Overloaded if there are not so many."""
        taken = 0

        def take(size: int) -> None:
            nonlocal taken
            if self._used + size > self._most:
                raise Overloaded("too many files are being transcribed: try again later")
            self._used += size
            taken += size

        self.active += 1
        try:
            yield take
        finally:
            self._used -= taken
            self.active -= 1


def detect_vanished(request: web.Request) -> None:
    """Make the system close the connection of a request if its client vanishes."""
    if request.transport is not None:
        tcp.detect_vanished(request.transport.get_extra_info("socket"))


async def open_socket(
    request: web.Request, protocols: tuple[str, ...] = (), message_bytes: int = MESSAGE_BYTES
) -> web.WebSocketResponse:
    """Accept a WebSocket, which is closed when the server stops, or the client vanishes. message_bytes: limit of a message."""
    socket = web.WebSocketResponse(max_msg_size=message_bytes, protocols=protocols)
    socket[TRANSPORT] = request.transport
    detect_vanished(request)  # pings would wait behind the audio of a client that sends fast
    await socket.prepare(request)
    request.app[SOCKETS].add(socket)
    return socket


async def send_text(socket: web.WebSocketResponse, text: str) -> None:
    """Send a message. Raises ConnectionError, and ends the connection, if the client does not read."""
    async with tcp.writing(socket[TRANSPORT]):
        await socket.send_str(text)


async def refuse_socket(socket: web.WebSocketResponse, reason: str) -> web.WebSocketResponse:
    """Close a WebSocket because of too many sessions (1013)."""
    await socket.close(code=WSCloseCode.TRY_AGAIN_LATER, message=reason.encode()[:REASON_BYTES])
    return socket


def error_response(status: int, message: str, kind: str = "invalid_request_error") -> web.Response:
    """Return an error in OpenAI's form."""
    error = {"message": message, "type": kind, "param": None, "code": None}
    return web.json_response({"error": error}, status=status)
