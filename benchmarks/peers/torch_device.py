"""Precision, time and memory of PyTorch's programs on a CPU or a GPU."""

import contextlib
import ctypes
import statistics
import time
from pathlib import Path

import torch

PRECISIONS = ("float32", "tf32", "bfloat16", "autocast")  # autocast: bfloat16 where PyTorch's autocast chooses it
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}  # the second counts all threads


def prepare(device: str, precision: str) -> None:
    """Let products use TF32 or not, and let cuDNN search for the fastest convolutions."""
    allowed = precision != "float32"
    torch.backends.cuda.matmul.allow_tf32 = allowed  # PyTorch's default allows it in cuDNN only
    torch.backends.cudnn.allow_tf32 = allowed
    torch.backends.cudnn.benchmark = device == "cuda"
    torch.manual_seed(0)


def dtype_of(precision: str) -> torch.dtype:
    """Return the type of parameters and inputs."""
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def autocast(device: str, precision: str):
    """Return the context of a forward pass."""
    if precision != "autocast":
        return contextlib.nullcontext()
    return torch.autocast(device, torch.bfloat16)


def synchronise(device: str) -> None:
    """Wait for the device."""
    if device == "cuda":
        torch.cuda.synchronize()


def timed(call, times: int, device: str = "cpu", clock: str = "wall") -> list[float]:
    """Return the seconds of each of `times` calls, including the computation that they start on the device."""
    now = CLOCKS[clock]
    seconds = []
    for _ in range(times):
        synchronise(device)
        start = now()
        call()
        synchronise(device)
        seconds.append(now() - start)
    return seconds


def median_s(call, device: str, warm_ups: int = 3, budget_s: float = 0.5) -> float:
    """Return the median seconds of 5 to 20 calls, as many as fit into the budget."""
    once = min(timed(call, warm_ups, device))
    return statistics.median(timed(call, max(5, min(20, int(budget_s / max(once, 1e-6)))), device))


def reset_peak(device: str) -> None:
    """Forget the peak that `peak_mb` reports, and give freed memory back to the system."""
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    elif Path("/proc/self/clear_refs").exists():
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")


def peak_mb(device: str) -> float:
    """Return the peak of the GPU's allocated memory, or of the process's resident memory, since `reset_peak`, in MB."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
