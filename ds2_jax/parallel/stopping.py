"""Decide when to save and when to stop: any process may request it; all act on the same step.

A signal may reach only one process, and clocks differ; but all processes write a checkpoint together, and one that leaves
a collective alone blocks the others. So each process submits its requests with every step, the devices sum them, and the
sum is read some steps later, when it is available without waiting.
"""

import collections
import logging
import signal

import jax
import numpy as np

from ds2_jax.parallel import processes, sharding

logger = logging.getLogger("ds2_jax")

LAG = 2  # steps from a request to its execution, in runs of several processes


class Stopped(Exception):
    """All processes stop because one received a signal; `step` is the last step of a stopped training, else None."""

    def __init__(self, number: int, step: int | None = None):
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.signal, self.step = number, step


class Interrupted(KeyboardInterrupt):
    """A second signal arrived before the first was handled: the program ends immediately."""

    def __init__(self, number: int):
        super().__init__(f"received a second signal, {signal.Signals(number).name}: ended without a checkpoint")
        self.signal = number


class Stopping:
    """Context that handles SIGTERM and SIGINT; a second signal ends the program immediately.

    Attribute stop: 0, or the signal for which all processes stop (SIGTERM if any received it, else SIGINT).
    """

    def __init__(self, mesh: jax.sharding.Mesh):
        self.stop = 0
        self._received = 0
        self._pending: collections.deque[jax.Array] = collections.deque()
        self._rows = sharding.row_sharding(mesh)
        self._local_devices = mesh.size // processes.count()
        self._sum = jax.jit(lambda requests: requests.sum(0), out_shardings=sharding.replicated(mesh))

    def __enter__(self) -> "Stopping":
        numbers = signal.SIGTERM, signal.SIGINT
        self._previous_handlers = {number: signal.signal(number, self._receive) for number in numbers}
        return self

    def __exit__(self, *_):
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame) -> None:
        del frame
        if self._received:
            raise Interrupted(number)
        self._received = number
        logger.warning("received %s: stopping as soon as unsaved work is saved", signal.Signals(number).name)

    def agree(self, *, save: bool = False) -> bool:
        """Submit this process's requests; return whether all save now, and set `stop`. All must call it equally often.

        save: request a checkpoint; only process 0's request counts.
        """
        if processes.count() == 1:
            self.stop = self._received
            return save
        own = [save and processes.rank() == 0, self._received == signal.SIGTERM, self._received == signal.SIGINT]
        requests = np.zeros((self._local_devices, len(own)), np.int32)
        requests[0] = own
        self._pending.append(self._sum(jax.make_array_from_process_local_data(self._rows, requests)))
        if len(self._pending) <= LAG:
            return False
        saves, terminate, interrupt = np.asarray(self._pending.popleft())
        self.stop = self.stop or (signal.SIGTERM if terminate else signal.SIGINT if interrupt else 0)
        if saves:
            self._pending.clear()  # they repeat the same request
        return bool(saves)

    def raise_if_stopped(self) -> None:
        """Raise Stopped once all processes agree to stop; for loops with nothing to save."""
        self.agree()
        if self.stop:
            raise Stopped(self.stop)

    def raise_if_signalled(self) -> None:
        """Raise Stopped if any process has received a signal; all wait for all, so it is too slow for loops of steps."""
        received = [int(number) for number in processes.exchange(str(int(self._received)))]
        if any(received):
            raise Stopped(signal.SIGTERM if signal.SIGTERM in received else signal.SIGINT)
