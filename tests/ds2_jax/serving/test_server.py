"""The server as a process: refusals at the start, access, monitoring, limits, stopping."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import aiohttp
import numpy as np
import pytest
import soundfile
from aiohttp.test_utils import make_mocked_request

from ds2_jax.serving.app import _is_own_name
from ds2_jax.serving.metrics import Metrics
from ds2_jax.serving.settings import Address
from tests.runs import ROOT, Program, free_port, run_main, slow, wait_until
from tests.servers import MODEL, server, wait_until_healthy

CLIP = ROOT / "tests" / "clips" / "cen1-mtos-b.flac"
TOKEN = "a token"


@pytest.fixture(scope="module")
def guarded():
    """Host and port of a server with a token and two sessions, for pages of one other host."""
    with server("--config.serve.sessions=2", f"--token={TOKEN}", "--origin=https://pages.test") as address:
        yield address


def get(address: tuple[str, int], path: str, **headers: str) -> tuple[int, str, dict[str, str]]:
    """Return status, text and headers of a response."""
    host, port = address
    request = urllib.request.Request(f"http://{host}:{port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, response.read().decode(), dict(response.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), dict(error.headers)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--port=99999"], "--port=99999: use 1 to 65535"),
        slow(["--tls_cert=a.pem"], "--tls_cert and --tls_key belong together"),
        (["--tls_cert=a.pem", "--tls_key=b.pem"], "--tls_cert=a.pem and --tls_key=b.pem cannot be used"),
        (["--token=x", "--host=0.0.0.0", "--wyoming_port=1"], "--token cannot protect --wyoming_port"),
        slow(["--config.serve.sessions=99"], "config.serve.sessions is 99: use 1 to 64"),
        slow(["--config.stream.chunk_ms=-3"], "config.stream.chunk_ms is -3.0"),
        (["--config.decode.engine=ctc_beam_decoder"], "decodes complete utterances only"),
        slow(["--config.restore=nowhere"], "the model 'nowhere' does not exist"),
    ],
)
def test_what_cannot_be_served_is_refused_at_the_start(flags, message):
    result = run_main("--mode=serve", f"--config.restore={MODEL}", "--config.serve.sessions=1", *flags)
    assert result.returncode == 1
    assert message in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr


def test_a_port_in_use_is_named(guarded):
    flags = [f"--config.restore={MODEL}", "--config.serve.sessions=1", f"--port={guarded[1]}"]
    result = run_main("--mode=serve", *flags)
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    assert last.startswith(f"error: 127.0.0.1:{guarded[1]} cannot be used (")
    assert last.endswith("choose another --port or --host")


@pytest.mark.parametrize("path", ["/", "/metrics", "/stream", "/v1/models", "/v1/realtime", "/nowhere"])
def test_every_route_but_healthz_asks_for_the_token(guarded, path):
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Cookie": "ds2_token=wrong"}):
        assert get(guarded, path, **headers)[0] == 401
    assert get(guarded, f"{path}?token=wrong")[0] == 401
    assert get(guarded, "/healthz")[0] == 200


def test_the_token_is_taken_from_header_address_and_cookie(guarded):
    assert get(guarded, "/v1/models", Authorization=f"Bearer {TOKEN}")[0] == 200
    status, page, headers = get(guarded, "/?token=a%20token")
    assert (status, "<title>" in page) == (200, True)
    cookie = headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert get(guarded, "/metrics", Cookie=cookie.partition(";")[0])[0] == 200


def test_pages_of_other_hosts_are_refused_but_for_the_one_that_is_allowed(guarded):
    token = {"Authorization": f"Bearer {TOKEN}"}
    status, text, _ = get(guarded, "/v1/models", Origin="https://evil.test", **token)
    assert (status, "pages of https://evil.test may not use this server" in text) == (403, True)
    assert get(guarded, "/v1/models", Origin=f"http://{guarded[0]}:{guarded[1]}", **token)[0] == 200
    status, _, headers = get(guarded, "/v1/models", Origin="https://pages.test", **token)
    assert (status, headers["Access-Control-Allow-Origin"]) == (200, "https://pages.test")


def test_a_page_that_is_allowed_may_send_what_headers_it_likes(guarded):
    host, port = guarded
    asked = {"Origin": "https://pages.test", "Access-Control-Request-Headers": "authorization, x-stainless-os"}
    url = f"http://{host}:{port}/v1/audio/transcriptions"
    request = urllib.request.Request(url, headers=asked, method="OPTIONS")
    with urllib.request.urlopen(request, timeout=30) as response:
        assert response.status == 204
        assert response.headers["Access-Control-Allow-Headers"] == "authorization, x-stainless-os"
    assert (
        get(guarded, "/healthz", Origin="https://pages.test")[2]["Access-Control-Allow-Origin"] == "https://pages.test"
    )
    assert "Access-Control-Allow-Origin" not in get(guarded, "/healthz", Origin="https://evil.test")[2]


def test_a_token_that_is_not_utf_8_is_wrong(guarded):
    """As bytes, which urllib would not send."""
    with socket.create_connection(guarded) as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer \xff\xe9\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("127.0.0.1:8086", True),
        ("localhost", True),
        ("[::1]:1", True),
        (None, True),
        ("evil.test:8086", False),
        ("127.0.0.1.evil.test", False),
    ],
)
def test_a_server_without_a_token_answers_to_names_of_this_machine(name, allowed):
    """So that no page of another host reaches it by giving its own name this machine's address."""
    request = make_mocked_request("GET", "/", headers={} if name is None else {"Host": name})
    assert _is_own_name(request, Address()) == allowed
    assert _is_own_name(request, Address(token=TOKEN))
    assert _is_own_name(request, Address(host="0.0.0.0"))
    assert _is_own_name(request, Address(origin=f"https://{name}"))


def test_a_session_too_many_is_refused_with_its_reason_and_counted(guarded):
    host, port = guarded
    url = f"ws://{host}:{port}/stream?token=a%20token"

    async def open_three() -> tuple[int, str]:
        async with aiohttp.ClientSession() as http, http.ws_connect(url) as first, http.ws_connect(url) as second:
            for socket in (first, second):
                assert (await socket.receive_json())["type"] == "ready"
            async with http.ws_connect(url) as third:
                message = await third.receive()
                return message.data, str(message.extra)

    code, reason = asyncio.run(open_three())
    assert (code, reason) == (1013, "all 2 sessions are in use: try again later")
    text = get(guarded, "/metrics", Authorization=f"Bearer {TOKEN}")[1]
    assert "\nds2_refused_total 1\n" in text


def test_figures_are_in_the_format_of_prometheus():
    metrics = Metrics(sessions=3)
    for delay in (0.1, 0.2, 0.3):
        metrics.partial.observe(delay)
    metrics.partial.observe(None)
    lines = metrics.format(active=2).splitlines()
    assert "ds2_sessions 2" in lines
    assert "ds2_sessions_total 3" in lines
    assert 'ds2_partial_delay_seconds{quantile="0.5"} 0.200000' in lines
    assert "ds2_partial_delay_seconds_sum 0.600000" in lines
    assert "ds2_partial_delay_seconds_count 3" in lines
    assert "ds2_final_delay_seconds_count 0" in lines
    assert all(line.startswith("# ") or len(line.split()) == 2 for line in lines)


@pytest.mark.parametrize("number", [signal.SIGTERM, slow(signal.SIGINT)])
def test_open_sessions_may_finish_after_a_signal(number, tmp_path):
    """The client goes on speaking after the signal, and gets its final result."""
    port, samples = free_port(), soundfile.read(CLIP, dtype="int16")[0]
    command = [sys.executable, str(ROOT / "main.py"), "--mode=serve", f"--config.restore={MODEL}"]
    command += [f"--port={port}", "--config.serve.sessions=1"]
    with Program(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        wait_until_healthy(port, process)

        async def speak() -> list[str]:
            texts = []
            async with aiohttp.ClientSession() as http, http.ws_connect(f"ws://127.0.0.1:{port}/stream") as socket:
                for number_, piece in enumerate(np.array_split(samples, 20)):
                    if number_ == 10:
                        process.send_signal(number)
                    await socket.send_bytes(piece.astype("<i2").tobytes())
                    await asyncio.sleep(0.05)
                await socket.send_str('{"end": true}')
                async for message in socket:
                    event = json.loads(message.data)
                    texts += [event["text"]] if event["type"] == "final" else []
            return texts

        texts = asyncio.run(speak())
        start = time.monotonic()
        out, _ = process.communicate(timeout=30)
    assert " ".join(texts).strip() == "s m i t h"
    assert process.returncode == 0
    assert time.monotonic() - start < 10
    assert "Traceback" not in out
    assert "session: page, 2.1 s of audio at 16000 Hz" in out
    assert "s m i t h" not in out  # the log has no content


def test_a_file_that_is_being_sent_is_transcribed_after_a_signal(tmp_path):
    """Later than connections are ended that do nothing, as after a signal while a file of a minute is transcribed."""
    port = free_port()
    command = [sys.executable, str(ROOT / "main.py"), "--mode=serve", f"--config.restore={MODEL}"]
    command += [f"--port={port}", "--config.serve.sessions=1"]
    with Program(command, cwd=ROOT) as process:
        wait_until_healthy(port, process)

        async def pieces():
            yield b'--xyz\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
            await asyncio.sleep(0.5)
            process.send_signal(signal.SIGTERM)
            await asyncio.sleep(2)
            yield CLIP.read_bytes() + b"\r\n--xyz--\r\n"

        async def send() -> str:
            url = f"http://127.0.0.1:{port}/v1/audio/transcriptions"
            headers = {"Content-Type": "multipart/form-data; boundary=xyz"}
            async with aiohttp.ClientSession() as http, http.post(url, data=pieces(), headers=headers) as response:
                return (await response.json())["text"]

        assert asyncio.run(send()) == "s m i t h"
        assert process.wait(10) == 0


def test_open_sessions_that_do_not_finish_are_closed(tmp_path):
    port = free_port()
    command = [sys.executable, str(ROOT / "main.py"), "--mode=serve", f"--config.restore={MODEL}"]
    command += [f"--port={port}", "--config.serve.sessions=1", "--config.serve.stop_s=1"]
    with Program(command, cwd=ROOT) as process:
        wait_until_healthy(port, process)

        async def wait() -> int | None:
            async with aiohttp.ClientSession() as http, http.ws_connect(f"ws://127.0.0.1:{port}/stream") as socket:
                await socket.receive()
                process.send_signal(signal.SIGTERM)
                message = await socket.receive(timeout=10)
                return message.data

        assert asyncio.run(wait()) == aiohttp.WSCloseCode.GOING_AWAY
        assert process.wait(20) == 0


@pytest.mark.slow
def test_a_client_that_does_not_read_is_cut_off():
    """It asks for messages without reading them, until no buffer takes more."""
    with server("--config.serve.sessions=1") as (host, port):

        async def ask() -> None:
            _, writer = await asyncio.open_connection(host, port, limit=1024)
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(
                f"GET /stream HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
            )
            text = b'{"progress": true}'
            message = bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text
            while True:
                writer.write(message * 1000)
                await asyncio.wait_for(writer.drain(), 60)

        with pytest.raises(ConnectionError):
            asyncio.run(ask())
        wait_until(lambda: "\nds2_sessions 0\n" in get((host, port), "/metrics")[1], 10)
