"""The WebSocket of the page and of the terminal's client."""

import asyncio
import contextlib
import json
from typing import Any

import numpy as np
from aiohttp import WSCloseCode, WSMsgType, web

from decoding.hypothesis import as_json
from ds2_jax.serving.http import REASON_BYTES, SERVICE, open_socket, refuse_socket, send_text
from ds2_jax.serving.protocols.messages import parse_object
from ds2_jax.serving.sessions import Event, Overloaded, Session


async def handle(request: web.Request) -> web.WebSocketResponse:
    """Serve the protocol of the page: audio in, partial and final results out.

    /stream?rate=16000&format=int16 (or float32, little-endian, mono). The client sends audio as binary messages, and
    {"commit": true} or {"end": true}; the server sends {"type": "ready" | "partial" | "final" | "end" | "error", ...}.
    {"progress": true} is answered by {"type": "progress", "processed_s": ...}, for clients that send faster than one speaks.
    """
    service = request.app[SERVICE]
    socket = await open_socket(request)
    try:
        rate_hz = int(request.query.get("rate", service.recogniser.sample_rate_hz))
        kind = {"int16": "<i2", "float32": "<f4"}[request.query.get("format", "int16")]
        session = service.open(rate_hz, "page")
    except (ValueError, KeyError) as error:
        await _send(socket, type="error", message=f"{error}: use a rate such as 16000, and the format int16 or float32")
        await socket.close(code=WSCloseCode.UNSUPPORTED_DATA)
        return socket
    except Overloaded as error:
        return await refuse_socket(socket, str(error))
    step = service.step
    sending = None
    try:
        await _send(socket, type="ready", chunk_ms=step.chunk_ms, lookahead_ms=step.lookahead_ms)
        sending = asyncio.create_task(_send_events(socket, session))
        async for message in socket:
            if message.type == WSMsgType.BINARY:
                size = np.dtype(kind).itemsize
                await session.send(np.frombuffer(message.data[: len(message.data) // size * size], kind))
            elif message.type == WSMsgType.TEXT:
                command = parse_object(message.data)
                if command.get("progress"):
                    await _send(socket, type="progress", processed_s=round(session.stream.processed_s, 4))
                if command.get("commit"):
                    await session.commit()
                if command.get("end"):
                    session.finish()
                    await sending
                    break
    except ValueError as error:
        await _send(socket, type="error", message=f'{error}; send audio, {{"commit": true}} or {{"end": true}}')
    finally:
        if sending is not None:
            sending.cancel()
        service.close(session)
    await socket.close()
    return socket


async def _send(socket: web.WebSocketResponse, **message: Any) -> None:
    await send_text(socket, json.dumps(message))


async def _send_events(socket: web.WebSocketResponse, session: Session) -> None:
    with contextlib.suppress(ConnectionError):
        while True:
            event = await session.next_event()
            await _send(socket, **_describe(event))
            if event.error:
                await socket.close(code=WSCloseCode.INTERNAL_ERROR, message=event.error.encode()[:REASON_BYTES])
            if event.is_end:
                return


def _describe(event: Event) -> dict[str, Any]:
    """Return a message of the page's protocol."""
    if event.error:
        return {"type": "error", "message": event.error}
    if event.partial is not None:
        kind, values = "partial", as_json(event.partial)
    elif event.final is not None:
        kind, values = "final", as_json(event.final)
        del values["nbest"]
    else:
        kind, values = "end", {}
    return {"type": kind, **values, "processed_s": round(event.processed_s, 4)}
