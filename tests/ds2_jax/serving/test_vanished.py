"""Clients that vanish without a word, as when a cable is pulled: in a network of its own, whose interface goes down."""

import json
import subprocess
import sys

import pytest

from tests.runs import ROOT

OWN_NETWORK = subprocess.run(["unshare", "-rn", "true"], capture_output=True).returncode == 0

SCRIPT = """
import asyncio, fcntl, json, socket, struct, subprocess, sys, time
import aiohttp
from pathlib import Path
from tests.ds2_jax.serving.speech import logged_server

SIOCSIFFLAGS, IFF_UP, IFF_RUNNING = 0x8914, 1, 64
PCM = {"rate": 16000, "width": 2, "channels": 1}

def set_interface(flags):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh", b"lo", flags))

async def check(http, log):
    async with aiohttp.ClientSession() as client:
        vosk = await client.ws_connect(f"http://127.0.0.1:{http}/")
        await vosk.send_bytes(bytes(100))
        await vosk.receive(60)
        wyoming = socket.create_connection(("127.0.0.1", 10300))
        wyoming.sendall(json.dumps({"type": "audio-start", "data": PCM}).encode() + bytes([10]))
        wyoming.recv(100)
        demo = socket.create_connection(("127.0.0.1", 10301))
        demo.sendall(struct.pack(">i", 64_000) + bytes(100))
        time.sleep(0.5)
        set_interface(0)
        started, freed = time.monotonic(), {}
        while len(freed) < 3 and time.monotonic() - started < 20:
            for name in ("vosk", "wyoming", "demo"):
                if f"session: {name}" in log.read_text():
                    freed.setdefault(name, round(time.monotonic() - started, 1))
            time.sleep(0.1)
        set_interface(IFF_UP | IFF_RUNNING)
        print(json.dumps(freed))
        vosk._response.connection.transport.abort()
        wyoming.close()
        demo.close()

set_interface(IFF_UP | IFF_RUNNING)
log = Path(sys.argv[1])
with logged_server(log, "--wyoming_port=10300", "--demo_port=10301") as (_, http):
    asyncio.run(check(http, log))
"""


@pytest.mark.slow
@pytest.mark.skipif(not OWN_NETWORK, reason="needs unshare -rn")
def test_clients_that_vanish_are_freed_within_10_seconds(tmp_path):
    command = ["unshare", "-rn", sys.executable, "-c", SCRIPT, str(tmp_path / "log")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    [freed] = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert set(freed) == {"vosk", "wyoming", "demo"}, freed
    assert max(freed.values()) <= 10, freed
