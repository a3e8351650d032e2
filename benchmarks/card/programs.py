"""Compile JAX programs in parallel, in waves of falling importance, and time each while nothing is compiled."""

import concurrent.futures
import functools
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.card.journal import FAILED, Figures, Journal
from benchmarks.measure import timed
from input_pipeline.cores import usable_cores

# What XLA takes into CUDA graphs by default (jaxlib 0.11.2), and loops; `whole` takes also those with slices by the turn.
_IN_GRAPHS = "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,CONDITIONAL,DYNAMIC_SLICE_FUSION,WHILE"
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "while": {"xla_gpu_enable_command_buffer": _IN_GRAPHS},
    "whole": {"xla_gpu_enable_command_buffer": _IN_GRAPHS, "xla_gpu_command_buffer_unroll_loops": True},
}
COMPILE_S = 100  # longest wait for a wave to be compiled
RUN_S, PROFILE_S = 30, 30  # longest measurement, and longest trace, of a program
WARM_UPS = 3

_tracing = threading.Lock()  # patches of libraries, and Python's lock, allow one at a time

Call = Callable[[], Any]


@dataclass(frozen=True)
class Program:
    """A program to compile and time. trace: cached; make_call: (compiled program) -> a call to be timed."""

    name: str
    trace: Callable[[], jax.stages.Lowered]
    make_call: Callable[[jax.stages.Compiled], Call]
    figures: Callable[[float], Figures]  # from the median seconds
    options: str = "plain"
    profile: Callable[[Call], Figures] | None = None  # traces a few calls


def wait_for_card(waves: list[list[Program]]) -> None:
    """Trace programs until a line arrives on the standard input, which says that the card is free."""
    free = threading.Event()

    def wait():
        sys.stdin.readline()
        free.set()

    threading.Thread(target=wait, daemon=True).start()
    for program in (program for wave in waves for program in wave):
        if free.is_set():
            return
        try:
            program.trace()
        except Exception:  # compile_program meets it again, and writes it down
            continue
    free.wait()


def measure_waves(journal: Journal, waves: Iterable[list[Program]]) -> None:
    """Measure waves of programs until the time is up. Ends the process if the device fails."""
    for wave in waves:
        todo = [program for program in wave if not journal.has(program.name)]
        compiled = compile_wave(journal, todo)
        calls = {
            program: measure(journal, program, *compiled.pop(program.name))
            for program in todo
            if program.name in compiled
        }
        for program, call in calls.items():
            if program.profile and call:
                journal.run(f"{program.name} trace", PROFILE_S, functools.partial(program.profile, call))


def measure(journal: Journal, program: Program, compiled: jax.stages.Compiled, compile_s: float) -> Call | None:
    """Measure a program; return its call if it is to be profiled, otherwise its arrays are freed."""
    calls: list[Call] = []

    def figures() -> Figures:
        calls.append(program.make_call(compiled))
        return time_call(program, calls[0], compiled) | {"compile_s": round(compile_s, 1)}

    if not journal.run(program.name, RUN_S, figures) and not device_works():
        journal.restart()
    return calls[0] if calls and program.profile else None


def device_works() -> bool:
    """Return whether the device still computes; after some errors, it does not for the rest of the process."""
    try:
        return float(jnp.arange(3.0).sum()) == 3
    except jax.errors.JaxRuntimeError:
        return False


def compile_wave(journal: Journal, wave: list[Program]) -> dict[str, tuple[jax.stages.Compiled, float]]:
    """Return the compiled programs of a wave by name, and the seconds that each took; failures go to the journal."""
    compiled: dict[str, tuple[jax.stages.Compiled, float]] = {}

    def compile_program(program: Program) -> None:
        try:
            with journal.marked(program.name):
                with _tracing:
                    lowered = program.trace()
                start = time.perf_counter()
                result = lowered.compile(compiler_options=_options(program.options))
                compiled[program.name] = result, time.perf_counter() - start
        except Exception as error:
            journal.add(program.name, {FAILED: f"compilation: {type(error).__name__}: {error}"[:500]})

    pool = concurrent.futures.ThreadPoolExecutor(max(1, usable_cores() - 1))
    futures = [pool.submit(compile_program, program) for program in wave]
    concurrent.futures.wait(futures, timeout=min(COMPILE_S, max(journal.left_s, 0)))
    pool.shutdown(wait=False, cancel_futures=True)
    return compiled


def _options(name: str) -> dict[str, Any] | None:
    return OPTIONS[name] if jax.default_backend() == "gpu" else None


def time_call(program: Program, call: Call, compiled: jax.stages.Compiled) -> Figures:
    """Return median milliseconds of 5 to 20 calls, memory, and the program's own figures."""
    once = min(timed(call, WARM_UPS))
    seconds = statistics.median(timed(call, max(5, min(20, int(0.5 / once)))))
    return {"median_ms": round(1e3 * seconds, 3), **program.figures(seconds), **memory(compiled)}


def memory(compiled: jax.stages.Compiled) -> Figures:
    """Return what a program needs at once, by the compiler, and the peak of the process so far, by the allocator, in MB."""
    sizes = compiled.memory_analysis()
    assert sizes is not None
    needed = sizes.argument_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    figures = {"peak_mb": round((needed + sizes.temp_size_in_bytes) / 1e6)}
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        figures["process_peak_mb"] = round(stats["peak_bytes_in_use"] / 1e6)
    return figures
