"""OpenAI's realtime transcription: audio in JSON events over a WebSocket, and transcripts as events.

    ws://HOST:PORT/v1/realtime?intent=transcription

Clients that send the header `OpenAI-Beta: realtime=v1`, or the older `transcription_session.update`, get sessions in the
older form. Not available are semantic VAD, noise reduction and log probabilities; sessions report what applies.
"""

import asyncio
import contextlib
import json
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, hdrs, web

from ds2_jax.serving.http import SERVICE, error_response, open_socket, refuse_socket, send_text
from ds2_jax.serving.protocols import openai_events as events
from ds2_jax.serving.protocols.openai_events import ClientEvent, Configuration, EventError
from ds2_jax.serving.protocols.openai_http import HOT_WORDS
from ds2_jax.serving.protocols.openai_items import CLEAR, COMMIT, RESTART, Items, new_id
from ds2_jax.serving.sessions import Overloaded, Session

BETA_HEADER, BETA_PROTOCOL = "OpenAI-Beta", "openai-beta.realtime-v1"
MESSAGE_BYTES = 1 << 24  # of which OpenAI allows 15 MiB for audio
LEAST_COMMIT_S = 0.1


async def handle(request: web.Request) -> web.StreamResponse:
    """Serve a connection."""
    intent = request.query.get("intent", "transcription")
    if intent != "transcription":
        return error_response(400, f"intent is {intent[:40]!r}: this server transcribes, use intent=transcription")
    socket = await open_socket(request, ("realtime",), MESSAGE_BYTES)
    connection = _Connection(request, socket)
    with contextlib.suppress(ConnectionError):  # the client has vanished
        try:
            connection.open()
            await connection.serve()
        except Overloaded as error:
            await connection.report(str(error), "overloaded", "session_limit_reached")
            return await refuse_socket(socket, str(error))
        finally:
            connection.close()
        await socket.close()
    return socket


class _Connection:
    """A connection, its configuration, and the session that it uses now."""

    def __init__(self, request: web.Request, socket: web.WebSocketResponse):
        self._app, self._socket = request.app, socket
        self._flat = "realtime=v1" in request.headers.get(BETA_HEADER, "") or BETA_PROTOCOL in request.headers.get(
            hdrs.SEC_WEBSOCKET_PROTOCOL, ""
        )
        self._service = request.app[SERVICE]
        self._id = new_id("sess")
        self._configuration = Configuration()
        self._items = Items(self._configuration.detection)
        self._engine: Any = None  # of the prompt
        self._session: Session | None = None
        self._sending: asyncio.Task | None = None
        self._rest = b""  # half a sample
        self._uncommitted_s = 0.0

    def open(self) -> Session:
        """Open a session with the configuration. Raises Overloaded."""
        settings = self._configuration.stream_settings(self._service.settings)
        self._session = self._service.open(self._configuration.rate_hz, "openai", settings, self._engine)
        self._sending = asyncio.create_task(self._send_results(self._session))
        return self._session

    def close(self) -> None:
        """End the session without waiting for its results."""
        if self._session is not None and self._sending is not None:
            self._sending.cancel()
            self._service.close(self._session)

    async def serve(self) -> None:
        """Answer the client's events until it closes the connection."""
        await self._tell_session("created", flat=self._flat)
        async for message in self._socket:
            try:
                if message.type != WSMsgType.TEXT:
                    raise EventError("binary messages cannot be used: send JSON, with audio as base64")
                await self._answer(events.parse_event(message.data))
            except EventError as error:
                await self.report(str(error), "invalid_request_error", error.code, error)

    async def _answer(self, event: ClientEvent) -> None:
        try:
            if event.type == events.APPEND:
                await self._append(event.audio)
            elif event.type == events.COMMIT:
                await self._commit()
            elif event.type == events.CLEAR:
                await self._clear()
            else:
                await self._update(event)
        except EventError as error:
            error.event_id = event.event_id
            raise

    async def _append(self, audio: bytes) -> None:
        configuration, session = self._configuration, self._current
        audio, self._rest = self._rest + audio, b""
        if configuration.encoding == events.PCM and len(audio) % 2:
            audio, self._rest = audio[:-1], audio[-1:]
        samples = events.decode_samples(audio, configuration.encoding)
        self._uncommitted_s += len(samples) / configuration.rate_hz
        await session.send(samples)

    async def _commit(self) -> None:
        if self._uncommitted_s < LEAST_COMMIT_S:
            raise EventError(
                f"the buffer has {self._uncommitted_s * 1000:.0f} ms of audio: append at least "
                f"{LEAST_COMMIT_S * 1000:.0f} ms before a commit",
                code="input_audio_buffer_commit_empty",
            )
        await self._end_utterance(COMMIT)

    async def _clear(self) -> None:
        await self._end_utterance(CLEAR)
        await self._tell({"type": "input_audio_buffer.cleared"})

    async def _end_utterance(self, reason: str) -> None:
        self._uncommitted_s, self._rest = 0.0, b""
        self._items.pending.append(reason)
        await self._current.commit()

    async def _update(self, event: ClientEvent) -> None:
        before = self._configuration
        after = events.update(before, event.session, self._service.recogniser.meta.language)
        engine = await self._app[HOT_WORDS].engine(after.prompt)
        own = self._service.settings
        changed = (
            after.rate_hz != before.rate_hz
            or engine is not self._engine
            or after.stream_settings(own) != before.stream_settings(own)
        )
        if changed:
            await self._finish_session()
        self._configuration, self._engine = after, engine
        self._items.detection = after.detection
        if changed:
            self.open()
        await self._tell_session("updated", flat=event.type == events.FLAT_UPDATE)

    async def _finish_session(self) -> None:
        """End the session when all results of its audio have been sent, to open another one."""
        session, sending = self._current, self._sending
        self._items.pending.append(RESTART)
        session.finish()
        if sending is not None:
            await sending
        self._items.offset_s += session.stream.received_s
        self._service.close(session)

    @property
    def _current(self) -> Session:
        assert self._session is not None, "the connection has a session from its start"
        return self._session

    async def _send_results(self, session: Session) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                event = await session.next_event()
                for message in self._items.messages(event):
                    await self._tell(message)
                if event.error:
                    await self.report(event.error, "server_error", "session_failed")
                    await self._socket.close(code=WSCloseCode.INTERNAL_ERROR, message=event.error.encode()[:120])
                if event.is_end:
                    return

    async def report(self, message: str, kind: str, code: str, error: EventError | None = None) -> None:
        """Send an `error` event. error: what is wrong in which event of the client."""
        values = {
            "type": kind,
            "code": code,
            "message": message,
            "param": error.param if error else None,
            "event_id": error.event_id if error else None,
        }
        await self._tell({"type": "error", "error": values})

    async def _tell_session(self, what: str, *, flat: bool) -> None:
        kind = "transcription_session" if flat else "session"
        values = events.describe(self._configuration, self._service.settings, flat=flat)
        session = {"id": self._id, "object": "realtime.transcription_session", **values}
        await self._tell({"type": f"{kind}.{what}", "session": session})

    async def _tell(self, message: dict[str, Any]) -> None:
        await send_text(self._socket, json.dumps({"event_id": new_id("event"), **message}))
