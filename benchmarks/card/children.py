"""Start the processes that measure, start them again when they crash, and end them in time."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.card.journal import RESTART

ROOT = Path(__file__).resolve().parents[2]
STARTS = 6  # most starts of a process
FRACTION_OF_THE_CARD = "0.9"  # that JAX may use, not allocated in advance: PyTorch shares the card


class Child:
    """A module that runs in its own process group; it waits for a line on its standard input before it uses the card."""

    def __init__(self, module: str, options: list[str], until: float, python: str = sys.executable):
        self._command = [python, "-m", module, *options, f"--until={until}"]
        self._until, self._starts = until, 0
        self._start()

    def _start(self) -> None:
        self._starts += 1
        self._process = subprocess.Popen(
            self._command, cwd=ROOT, env=_environment(), stdin=subprocess.PIPE, start_new_session=True
        )

    def run(self, limit_s: float = float("inf")) -> int:
        """Give the card to the process, and return its exit status when it has ended or its time is up (then it is killed).

        A process that crashed or asked for it is started again.
        """
        end = min(self._until, time.time() + limit_s)
        while True:
            assert self._process.stdin is not None
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.communicate(b"go\n", timeout=max(end - time.time(), 0))
            self.end()
            status = self._process.wait()
            crashed = status == RESTART or status < 0
            if not crashed or self._starts == STARTS or time.time() >= end:
                if status:
                    print(f"{self._command[2]}: ended with status {status}", flush=True)
                return status
            self._start()

    def end(self) -> None:
        """Kill the process and those that it started."""
        with contextlib.suppress(ProcessLookupError):  # the group lives as long as one of its processes
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def _environment() -> dict[str, str]:
    """Return the environment: the card is shared by processes, and programs survive a crash in a cache of this run."""
    defaults = {
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "XLA_PYTHON_CLIENT_MEM_FRACTION": FRACTION_OF_THE_CARD,
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }
    cache = {
        "JAX_COMPILATION_CACHE_DIR": os.path.join(tempfile.gettempdir(), f"ds2_card_{os.getpid()}"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return defaults | dict(os.environ) | cache | {"PYTHONUNBUFFERED": "1"}
