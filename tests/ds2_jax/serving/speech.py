"""Clips of the repository, and a server whose log is read, for tests of protocols; wrong messages."""

import contextlib
import json
import os
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from hypothesis import strategies as st

from tests.conftest import CLIPS
from tests.servers import server

RATE_HZ = 16_000
TEXTS = {
    row["audio_filepath"]: row["text"] for row in map(json.loads, (CLIPS / "manifest.jsonl").read_text().splitlines())
}
VALUES: list[Any] = [
    None,
    True,
    0,
    1,
    -1,
    2.5,
    16000,
    10**30,
    1e999,
    float("nan"),
    "",
    "16000.0",
    "é",
    "\ud800",
    [],
    {},
    [[1]],
]
LONG, SHORT = "cen1-msjr-b.flac", "cen1-mtos-b.flac"  # 3.7 s and 2.1 s


def read_clip(name: str, rate_hz: int = RATE_HZ) -> np.ndarray:
    """Return the samples [N] int16 of a clip at a rate."""
    samples, own_hz = soundfile.read(CLIPS / name, dtype="int16")
    return soxr.resample(samples, own_hz, rate_hz, "VHQ")


@contextlib.contextmanager
def logged_server(log: Path, *flags: str) -> Iterator[tuple[str, int]]:
    """Start a server for four sessions, whose log, with that of all libraries, must have no exception; yield its host and port."""
    saved = os.dup(2)
    with log.open("wb") as file, contextlib.ExitStack() as stack:
        sys.stderr.flush()
        try:
            os.dup2(file.fileno(), 2)  # the server inherits it
            address = stack.enter_context(server("--config.serve.sessions=4", "--verbosity=-1", *flags))
        finally:
            os.dup2(saved, 2)
            os.close(saved)
        yield address
    text = log.read_text()
    assert "decoding: " in text  # it is the log
    assert "Traceback" not in text, text
    assert "exception" not in text.lower(), text


def count_sessions(host: str, port: int) -> int:
    """Return the number of open sessions, which the server reports at /metrics."""
    with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=10) as response:
        lines = response.read().decode().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("ds2_sessions ")))


def wrong_objects(*names: str) -> st.SearchStrategy[str]:
    """Generate JSON objects with these names and values of all kinds, also nested ones."""
    values = st.sampled_from(VALUES) | st.dictionaries(st.sampled_from(names), st.sampled_from(VALUES), max_size=4)
    return st.dictionaries(st.sampled_from(names), values, max_size=4).map(json.dumps)
