"""What the benchmarks share: timing, memory and the description of the machine."""

import importlib.metadata
import platform
import resource
import time
from collections.abc import Callable
from pathlib import Path

from input_pipeline.cores import usable_cores

VERSIONS_OF = ("jax", "jaxlib", "flax", "optax", "numpy")


def timed(call: Callable, times: int) -> list[float]:
    """Return the seconds of each of so many calls, waiting for what they compute."""
    import jax

    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - start)
    return seconds


def versions() -> dict[str, str]:
    """Return the installed versions of what the figures depend on."""
    return {name: importlib.metadata.version(name) for name in VERSIONS_OF}


def devices() -> str:
    """Name the devices that JAX computes on."""
    import jax

    return f"{jax.device_count()} x {jax.devices()[0].device_kind}"


def machine() -> str:
    """Name the processor and how many cores of it this process may use."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    family = next((line.split(":")[1].strip() for line in lines if line.startswith("cpu family")), "")
    return f"{usable_cores()} cores of {model}" + (f" (family {family})" if family else "")


def forget_peak_memory() -> None:
    """Let `peak_memory_mb` count from here on, where the system can (Linux)."""
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5")


def peak_memory_mb() -> float:
    """Return the most memory, in MB, that was resident since `forget_peak_memory`, or since the start."""
    return _memory_mb("VmHWM:")


def resident_memory_mb() -> float:
    """Return the memory, in MB, that is resident now (where the system does not tell: that was, at most)."""
    return _memory_mb("VmRSS:")


def _memory_mb(field: str) -> float:
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split(field)[1].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # bytes on macOS


def temporary_bytes(compiled) -> int:
    """Return the memory that a compiled program needs besides its arguments and results."""
    memory = compiled.memory_analysis()
    assert memory is not None, "this backend does not tell"
    return memory.temp_size_in_bytes
