"""The WebSocket of the page: clients that go at once, audio that is none; the page itself is tested in a browser."""

import asyncio
import base64
import os
import socket
import struct
import time
from collections.abc import Iterator

import aiohttp
import numpy as np
import pytest

from tests.ds2_jax.serving.speech import count_sessions, logged_server
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
