"""Memory of this machine, or of the cgroup that limits it: how much there is, and how much a training needs of it.

The system ends a process that takes more without a word, so a training that cannot fit is refused before.
"""

import ctypes
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from ds2_jax.parallel import processes
from ds2_jax.training import memory
from input_pipeline import cgroup
from input_pipeline.batches.loader import LoadSettings

COMPILER_BYTES = 400_000_000  # that compiling one step takes for a while; 430 MB were measured for the recipe tiny
WORKER_BYTES = 100_000_000  # of a worker process, without its batches
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Need:
    """Bytes of this machine's memory that a training needs at once, by what needs them."""

    parts: dict[str, int]

    @property
    def spare(self) -> int:
        """Bytes that are left of the limit; negative if it does not fit."""
        return limit_bytes() - sum(self.parts.values())

    def __str__(self) -> str:
        parts = " + ".join(f"{size / 1e6:,.0f} ({name})" for name, size in self.parts.items() if size)
        where = "this machine" if cgroup.memory_limit() is None else "this container, pod or job"
        return f"{parts} = {sum(self.parts.values()) / 1e6:,.0f} MB of the {limit_bytes() / 1e6:,.0f} MB of {where}"


def limit_bytes() -> int:
    """Return how many bytes this process and those beside it may use: those of its cgroup, or of the machine."""
    machine = os.sysconf("SC_PHYS_PAGES") * PAGE_BYTES
    return min(machine, cgroup.memory_limit() or machine)


def resident_bytes() -> int:
    """Return the bytes that this process holds and the system cannot take back; 0 where that is unknown."""
    status = Path("/proc/self/status")
    text = status.read_text() if status.is_file() else ""
    return sum(1024 * int(size) for size in re.findall(r"^Rss(?:Anon|Shmem):\s+(\d+) kB", text, re.MULTILINE))


def release() -> None:
    """Return freed memory to the system: after compiling, glibc keeps several hundred megabytes."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def to_compile(load: LoadSettings) -> Need:
    """Return what a training needs before its step is known."""
    return Need({"this process": resident_bytes(), "compiling": COMPILER_BYTES, **_workers(load)})


def to_run(compiled: Any, batch: dict[str, jax.ShapeDtypeStruct], load: LoadSettings) -> Need:
    """Return what a training needs with a compiled step for batches of these shapes, which all processes load together."""
    on_cpu = jax.local_devices()[0].platform == "cpu"
    buffers = (memory.needed_bytes(compiled) or 0) * jax.local_device_count() if on_cpu else 0
    loaded = sum(array.size * array.dtype.itemsize for array in batch.values()) * load.held // processes.count()
    parts = {"this process": resident_bytes(), "buffers of the step": buffers, "batches loaded ahead": loaded}
    return Need({**parts, **_workers(load)})


def _workers(load: LoadSettings) -> dict[str, int]:
    return {"worker processes": load.workers * WORKER_BYTES}
