"""Measure time and memory, and describe the machine, for all benchmarks."""

import importlib.metadata
import platform
import resource
import time
from collections.abc import Callable
from pathlib import Path

from input_pipeline.cores import usable_cores

VERSIONS_OF = ("jax", "jaxlib", "flax", "optax", "numpy")
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}  # the second counts all threads


def timed(call: Callable, times: int, clock: str = "wall") -> list[float]:
    """Return the seconds of each of `times` calls, including the computation that they start on the device."""
    import jax

    now = CLOCKS[clock]
    seconds = []
    for _ in range(times):
        start = now()
        jax.block_until_ready(call())
        seconds.append(now() - start)
    return seconds


def versions() -> dict[str, str]:
    """Return the installed versions of the packages that affect the figures."""
    return {name: importlib.metadata.version(name) for name in VERSIONS_OF}


def devices() -> str:
    """Return the number and kind of the JAX devices."""
    import jax

    return f"{jax.device_count()} x {jax.devices()[0].device_kind}"


def machine() -> str:
    """Return the name of the processor and the number of its cores that this process may use."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    family = next((line.split(":")[1].strip() for line in lines if line.startswith("cpu family")), "")
    return f"{usable_cores()} cores of {model}" + (f" (family {family})" if family else "")


def reset_peak_memory() -> None:
    """Reset the peak that `peak_memory_mb` reports (Linux only)."""
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5")


def peak_memory_mb() -> float:
    """Return the peak resident memory in MB since `reset_peak_memory`, or since the start of the process."""
    return _memory_mb("VmHWM:")


def resident_memory_mb(pid: int | None = None) -> float:
    """Return the resident memory of this process, or of another one, in MB; on systems without /proc, this one's peak."""
    return _memory_mb("VmRSS:", pid)


def _memory_mb(field: str, pid: int | None = None) -> float:
    status = Path(f"/proc/{pid or 'self'}/status")
    if status.exists():
        return int(status.read_text().split(field)[1].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # bytes on macOS


def temporary_bytes(compiled) -> int:
    """Return the bytes that a compiled program needs in addition to its arguments and results."""
    memory = compiled.memory_analysis()
    assert memory is not None, "this backend reports no memory use"
    return memory.temp_size_in_bytes
