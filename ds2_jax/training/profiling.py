"""Record a profiler trace of a few training steps, for TensorBoard or Perfetto."""

import logging
import os

import jax

STEPS = 3  # number of steps in a trace

logger = logging.getLogger("ds2_jax")


class Profiler:
    """Traces STEPS steps after step `first` into the folder `profile` of the workdir; 0 disables it.

    Use as a context: leaving it ends a trace that is still running.
    """

    def __init__(self, first: int, workdir: str):
        self._first, self._folder = first, os.path.join(workdir, "profile")
        self._running = False

    def __enter__(self) -> "Profiler":
        return self

    def __exit__(self, *_):
        self._stop()

    def begin(self, step: int) -> None:
        """Start or stop the trace as needed. Call this before each step, with the number of steps done so far."""
        if self._first and step == self._first:
            jax.profiler.start_trace(self._folder)
            self._running = True
        elif step >= self._first + STEPS:
            self._stop()

    def _stop(self) -> None:
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
            logger.info("wrote the profiler trace of the steps after step %d to %s", self._first, self._folder)
