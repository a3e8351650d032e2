"""The WebSocket of the page and of the terminal's client."""

import asyncio
import dataclasses
import json
from typing import Any

import numpy as np
from aiohttp import WSCloseCode, WSMsgType, web

from ds2_jax.serving.http import SERVICE, open_socket, refuse_socket, send_text
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
        await socket.send_json({"type": "error", "message": f"rate or format cannot be used: {error}"})
        await socket.close(code=WSCloseCode.UNSUPPORTED_DATA)
        return socket
    except Overloaded as error:
        return await refuse_socket(socket, str(error))
    step = service.step
    await socket.send_json({"type": "ready", "chunk_ms": step.chunk_ms, "lookahead_ms": step.lookahead_ms})
    sending = asyncio.create_task(_send_events(request, socket, session))
    try:
        async for message in socket:
            if message.type == WSMsgType.BINARY:
                size = np.dtype(kind).itemsize
                await session.send(np.frombuffer(message.data[: len(message.data) // size * size], kind))
            elif message.type == WSMsgType.TEXT:
                command = parse_object(message.data)
                if command.get("progress"):
                    processed_s = round(session.stream.processed_s, 4)
                    await socket.send_json({"type": "progress", "processed_s": processed_s})
                if command.get("commit"):
                    session.commit()
                if command.get("end"):
                    session.finish()
                    await sending
                    break
    except ValueError as error:
        await socket.send_json(
            {"type": "error", "message": f'{error}; send audio, {{"commit": true}} or {{"end": true}}'}
        )
    finally:
        sending.cancel()
        service.close(session)
    await socket.close()
    return socket


async def _send_events(request: web.Request, socket: web.WebSocketResponse, session: Session) -> None:
    while True:
        event = await session.next_event()
        try:
            await send_text(socket, json.dumps(_describe(event)))
        except ConnectionError:
            if request.transport is not None:
                request.transport.abort()
            return
        if event.is_end:
            return


def _describe(event: Event) -> dict[str, Any]:
    """Return a message of the page's protocol."""
    if event.error:
        return {"type": "error", "message": event.error}
    if event.partial is not None:
        kind, values = "partial", dataclasses.asdict(event.partial)
    elif event.final is not None:
        kind, values = "final", dataclasses.asdict(event.final)
        del values["nbest"]
    else:
        kind, values = "end", {}
    return {"type": kind, **_round(values), "processed_s": round(event.processed_s, 4)}


def _round(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _round(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_round(item) for item in value]
    return round(value, 4) if isinstance(value, float) else value
