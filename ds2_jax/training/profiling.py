"""A profiler trace of some steps of a training, for TensorBoard or Perfetto."""

import logging
import os

import jax

STEPS = 3  # traced

logger = logging.getLogger("ds2_jax")


class Profiler:
    """Traces the steps from `first` on (0: none) into the workdir's `profile`; use as a context, which ends the trace."""

    def __init__(self, first: int, workdir: str):
        self._first, self._folder = first, os.path.join(workdir, "profile")
        self._running = False

    def __enter__(self) -> "Profiler":
        return self

    def __exit__(self, *_):
        self._stop()

    def begin(self, step: int) -> None:
        """Start or stop, before `step` (steps done so far) is followed by the next one."""
        if self._first and step == self._first:
            jax.profiler.start_trace(self._folder)
            self._running = True
        elif step >= self._first + STEPS:
            self._stop()

    def _stop(self) -> None:
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
            logger.info("profiler trace from step %d on in %s", self._first, self._folder)
