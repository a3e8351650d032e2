"""The WebSocket of the page: clients that go at once, audio that is none; the page itself is tested in a browser."""

import asyncio
import base64
import contextlib
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator

import aiohttp
import numpy as np
import pytest

from tests.ds2_jax.serving.speech import SHORT, TEXTS, count_sessions, logged_server, read_clip
from tests.runs import wait_until

RESET = struct.pack("ii", 1, 0)  # SO_LINGER with which a closed connection is reset


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[tuple[str, int]]:
    with logged_server(tmp_path_factory.mktemp("server") / "log") as address:
        yield address


def handshake(host: str, port: int) -> bytes:
    key = base64.b64encode(os.urandom(16)).decode()
    return (
        f"GET /stream HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
    ).encode()


def test_clients_that_go_during_the_handshake_leave_no_session(address):
    for number in range(200):
        client = socket.create_connection(address)
        client.sendall(handshake(*address))
        time.sleep(number % 20 * 0.0002)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        client.close()
    wait_until(lambda: count_sessions(*address) == 0, 10)


def test_a_session_that_ends_early_says_why_and_is_closed(address):
    host, port = address

    async def send() -> tuple[dict, int | None]:
        async with (
            aiohttp.ClientSession() as http,
            http.ws_connect(f"ws://{host}:{port}/stream?rate=16000&format=float32") as stream,
        ):
            await stream.receive_json()
            await stream.send_bytes(np.full(1600, np.nan, "<f4").tobytes())
            error = await stream.receive_json()
            await stream.receive(5)
            return error, stream.close_code

    error, code = asyncio.run(send())
    assert error["type"] == "error"
    assert "not finite" in error["message"]
    assert code == aiohttp.WSCloseCode.INTERNAL_ERROR


def frame(data: bytes, kind: int) -> bytes:
    """Return a short message of a WebSocket client."""
    return bytes([0x80 | kind, 0x80 | len(data), 0, 0, 0, 0]) + data


@pytest.mark.parametrize("messages", [frame(b'{"commit": true}', 1) * 200_000, frame(b"\1\0", 2) * 100_000])
def test_a_flood_of_small_messages_does_not_stop_other_sessions(address, messages):
    host, port = address
    flooding = socket.create_connection(address)
    flooding.sendall(handshake(host, port))
    assert flooding.recv(1 << 16).startswith(b"HTTP/1.1 101")

    def send() -> None:
        with contextlib.suppress(OSError):
            flooding.sendall(messages)

    def read() -> None:
        with contextlib.suppress(OSError):
            while flooding.recv(1 << 20):
                pass

    async def speak() -> float:
        samples, started = read_clip(SHORT), time.monotonic()
        async with aiohttp.ClientSession() as http, http.ws_connect(f"ws://{host}:{port}/stream") as stream:
            await stream.send_bytes(samples.astype("<i2").tobytes())
            await stream.send_str('{"end": true}')
            events = [json.loads(message.data) async for message in stream]
        texts = [event["text"] for event in events if event["type"] == "final"]
        assert " ".join(texts).strip() == TEXTS[SHORT]
        return time.monotonic() - started

    threads = [threading.Thread(target=run) for run in (send, read)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    try:
        assert asyncio.run(speak()) < 6
    finally:
        flooding.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        flooding.shutdown(socket.SHUT_RD)  # ends the reading thread
        flooding.close()
        for thread in threads:
            thread.join()
    wait_until(lambda: count_sessions(*address) == 0, 10)
