"""A server as users start it, for tests: main.py --mode=serve in a process of its own."""

import contextlib
import os
import signal
import sys
import time
import urllib.request
from collections.abc import Iterator

from tests.runs import ROOT, Program, free_port

MODEL = str(ROOT / "models" / "an4")


@contextlib.contextmanager
def server(*flags: str, model: str = MODEL) -> Iterator[tuple[str, int]]:
    """Start a server on a free port; yield its host and port, and end it with SIGTERM."""
    port = free_port()
    command = [
        sys.executable,
        str(ROOT / "main.py"),
        "--mode=serve",
        f"--config.restore={model}",
        f"--port={port}",
        *flags,
    ]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    with Program(command, cwd=ROOT, env=environment) as process:
        wait_until_healthy(port, process)
        yield "127.0.0.1", port
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def wait_until_healthy(port: int, process: Program, scheme: str = "http") -> None:
    """Wait until a server answers on /healthz; fail if its process ends."""
    deadline = time.monotonic() + 200
    while True:
        assert process.poll() is None, "the server has ended"
        assert time.monotonic() < deadline, "the server did not start within 200 s"
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{scheme}://127.0.0.1:{port}/healthz", timeout=5).close()
            return
        time.sleep(0.2)
