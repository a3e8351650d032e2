"""Clients that misbehave, many at once: the server stays, its memory is flat, and good clients get the text they get alone.

python -m tests.ds2_jax.serving.test_abuse --minutes=10 --clients=50
"""

import argparse
import asyncio
import collections
import contextlib
import json
import random
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import numpy as np
import pytest
import soundfile

from benchmarks.measure import resident_memory_mb
from tests.runs import ROOT, Program, free_port
from tests.servers import MODEL, wait_until_healthy

CLIPS = [ROOT / "tests" / "clips" / name for name in ("cen1-fmjc-b.flac", "cen1-fjdn-b.flac", "cen1-mtos-b.flac")]
WARM_UP = 0.25  # share of the time after which memory must be flat
GROWTH = 0.01
SESSIONS = 32
ATTEMPT_S = 20.0


@dataclass
class Load:
    """A server under attack: its ports, what good clients are expected to get, and what happened."""

    http: int
    wyoming: int
    demo: int
    speech: list[bytes]
    expected: list[str] = field(default_factory=list)
    counts: collections.Counter = field(default_factory=collections.Counter)
    wrong: list[str] = field(default_factory=list)

    def url(self, path: str) -> str:
        return f"ws://127.0.0.1:{self.http}{path}"


async def transcribe(load: Load, client: aiohttp.ClientSession, number: int) -> str:
    """Send a clip in pieces and return all final texts. Raises aiohttp.ClientError if the server is full."""
    pcm, texts = load.speech[number], []
    async with client.ws_connect(load.url("/stream?rate=16000")) as ws:
        if (await ws.receive()).type != aiohttp.WSMsgType.TEXT:
            raise aiohttp.ClientError("refused")
        for start in range(0, len(pcm), 3200):
            await ws.send_bytes(pcm[start : start + 3200])
            await asyncio.sleep(0.02)
        await ws.send_str('{"end": true}')
        async for message in ws:
            event = json.loads(message.data)
            if event["type"] == "final":
                texts.append(event["text"])
    return " ".join(texts).strip()


async def behave(load: Load, client: aiohttp.ClientSession) -> None:
    number = random.randrange(len(CLIPS))
    try:
        text = await transcribe(load, client, number)
    except aiohttp.ClientError:
        load.counts["refused"] += 1
        await asyncio.sleep(0.5)
        return
    load.counts["right" if text == load.expected[number] else "wrong"] += 1
    if text != load.expected[number]:
        load.wrong.append(f"{text!r} instead of {load.expected[number]!r}")


async def vanish(load: Load, client: aiohttp.ClientSession) -> None:
    """Leave in the middle, without closing the WebSocket."""
    path = random.choice(["/stream?rate=16000", "/", "/v1/realtime?intent=transcription"])
    async with client.ws_connect(load.url(path)) as ws:
        for _ in range(random.randrange(20)):
            await ws.send_bytes(random.randbytes(random.choice([0, 1, 640, 3201])))
        transport = ws._conn.transport if ws._conn else None
        if transport is not None:
            transport.abort()


async def send_wrong_text(load: Load, client: aiohttp.ClientSession) -> None:
    path = random.choice(["/stream", "/", "/v1/realtime?intent=transcription"])
    text = random.choice(["{", "[]", "null", '{"commit": {}}', '{"type": 5}', '{"config": 1}', "\x00" * 99, "[" * 5000])
    async with client.ws_connect(load.url(path)) as ws:
        await ws.send_str(text)
        with contextlib.suppress(TimeoutError):
            await ws.receive(timeout=1)


async def send_a_gigantic_message(load: Load, client: aiohttp.ClientSession) -> None:
    path = random.choice(["/stream", "/", "/v1/realtime?intent=transcription"])
    async with client.ws_connect(load.url(path)) as ws:
        await ws.send_bytes(bytes(8 << 20))
        with contextlib.suppress(TimeoutError):
            await ws.receive(timeout=1)


async def ask_for_a_wrong_rate(load: Load, client: aiohttp.ClientSession) -> None:
    rate = random.choice(["0", "-1", "1e3", "abc", "999999999999", "nan", "7"])
    async with client.ws_connect(load.url(f"/stream?rate={rate}&format={random.choice(['int16', 'mp3'])}")) as ws:
        await ws.send_bytes(bytes(320))
        with contextlib.suppress(TimeoutError):
            await ws.receive(timeout=1)


async def post_garbage(load: Load, client: aiohttp.ClientSession) -> None:
    data = aiohttp.FormData()
    data.add_field("file", random.randbytes(random.choice([0, 100, 100_000])), filename="a.wav")
    data.add_field("model", "m")
    url = f"http://127.0.0.1:{load.http}/v1/audio/transcriptions"
    async with client.post(url, data=data) as response:
        assert response.status in (400, 503), response.status


async def send_garbage_bytes(load: Load, client: aiohttp.ClientSession) -> None:
    del client
    port = random.choice([load.http, load.wyoming, load.demo])
    first = {
        load.demo: struct.pack(">i", random.choice([-1, 0, 7, 2**31 - 1, 4000])),
        load.wyoming: random.choice(
            [b'{"type": "audio-chunk", "payload_length": 1000000000000}\n', b"{}\n", b"\n", b""]
        ),
        load.http: random.choice([b"GET / HTTP/9.9\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b""]),
    }[port]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with contextlib.suppress(OSError):
        writer.write(first + random.randbytes(random.randrange(3000)))
        await writer.drain()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(reader.read(100), 1)
    writer.transport.abort()


async def hold_half_open(load: Load, client: aiohttp.ClientSession) -> None:
    del client
    _, writer = await asyncio.open_connection("127.0.0.1", random.choice([load.http, load.wyoming, load.demo]))
    await asyncio.sleep(random.uniform(1, 10))
    writer.transport.abort()


ATTACKS = [
    vanish,
    send_wrong_text,
    send_a_gigantic_message,
    ask_for_a_wrong_rate,
    post_garbage,
    send_garbage_bytes,
    hold_half_open,
]
Act = Callable[[Load, aiohttp.ClientSession], Awaitable[None]]


async def flood(load: Load, until: float) -> None:
    """Connect 1,000 times a second, in bursts of a second, without sending anything."""
    while time.monotonic() < until:
        for _ in range(20):
            held = []
            for _ in range(50):
                probe = socket.socket()
                probe.setblocking(False)
                probe.connect_ex(("127.0.0.1", load.http))
                held.append(probe)
            load.counts["connects"] += len(held)
            await asyncio.sleep(0.05)
            for probe in held:
                probe.close()
        await asyncio.sleep(5)


async def use_all_sessions(load: Load, client: aiohttp.ClientSession) -> None:
    """Speak in all sessions at once: what each needs, mostly the model of its voice detector, is kept for later ones."""
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(SESSIONS):
            ws = await stack.enter_async_context(client.ws_connect(load.url("/stream?rate=16000")))
            await ws.send_bytes(load.speech[0])


async def run(load: Load, clients: int, seconds: float) -> None:
    """Attack for a time: a fifth of the clients behave."""
    async with aiohttp.ClientSession() as http:
        load.expected = [await transcribe(load, http, number) for number in range(len(CLIPS))]
        await use_all_sessions(load, http)
        until = time.monotonic() + seconds

        async def repeat(acts: Sequence[Act]) -> None:
            while time.monotonic() < until:
                act = random.choice(acts)
                try:
                    await asyncio.wait_for(act(load, http), ATTEMPT_S)
                except (aiohttp.ClientError, OSError, TimeoutError):
                    load.counts["cut off"] += 1
                load.counts[act.__name__] += 1
                await asyncio.sleep(random.uniform(0, 0.2))

        good = max(1, clients // 5)
        await asyncio.gather(
            *(repeat([behave]) for _ in range(good)),
            *(repeat(ATTACKS) for _ in range(clients - good)),
            flood(load, until),
        )


def attack(minutes: float, clients: int, log: Path) -> tuple[Load, list[float]]:
    """Attack a server; return what happened, and its memory in MB over time."""
    load = Load(
        free_port(), free_port(), free_port(), [(soundfile.read(clip, dtype="int16")[0]).tobytes() for clip in CLIPS]
    )
    command = [
        sys.executable,
        str(ROOT / "main.py"),
        "--mode=serve",
        f"--config.restore={MODEL}",
        f"--port={load.http}",
    ]
    command += [f"--wyoming_port={load.wyoming}", f"--demo_port={load.demo}", f"--config.serve.sessions={SESSIONS}"]
    memory: list[float] = []
    with log.open("w") as file, Program(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT) as process:
        wait_until_healthy(load.http, process)

        async def watch() -> None:
            attacking = asyncio.create_task(run(load, clients, minutes * 60))
            while not attacking.done():
                memory.append(resident_memory_mb(process.pid))
                await asyncio.sleep(1)
            await attacking

        asyncio.run(watch())
        time.sleep(10)
        metrics = urllib.request.urlopen(f"http://127.0.0.1:{load.http}/metrics", timeout=10).read().decode()
        assert "\nds2_sessions 0\n" in metrics, metrics  # all have been freed
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    return load, memory


def growth(memory: Sequence[float]) -> float:
    """Return by which share memory has grown since the warm-up, as medians of the first and the last third of the time."""
    warm = memory[int(len(memory) * WARM_UP) :]
    third = len(warm) // 3
    return float(np.median(warm[-third:]) / np.median(warm[:third])) - 1


@pytest.mark.slow
def test_a_server_under_attack_serves_good_clients_and_keeps_its_memory(tmp_path):
    load, memory = attack(1.5, 50, tmp_path / "log")
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log, log[-3000:]
    assert not load.wrong
    assert load.counts["right"] > 20
    assert all(load.counts[act.__name__] > 10 for act in ATTACKS)
    assert load.counts["connects"] >= 10_000
    assert growth(memory) < 3 * GROWTH  # 1 % in ten minutes


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=50)
    arguments = parser.parse_args()
    happened, measured = attack(arguments.minutes, arguments.clients, Path("abuse.log"))
    print(dict(happened.counts), happened.wrong[:5])
    print("memory, MB:", [round(mb) for mb in measured[:: max(1, len(measured) // 20)]])
    print(f"growth of the median from the first to the last third after the warm-up: {growth(measured):.1%}")
