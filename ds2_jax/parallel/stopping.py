"""When to save and when to stop: wishes of single processes, fulfilled by all of them at the same step.

A signal may reach one process only, and clocks differ; but all write a checkpoint together, and whoever leaves a collective
alone hangs the others. So each process hands in its wishes with every step, the devices add them up, and the sum is read
some steps later, when it is there: nobody waits for it.
"""

import collections
import logging
import signal

import jax
import numpy as np

from ds2_jax.parallel import processes, sharding

logger = logging.getLogger("ds2_jax")

LAG = 2  # steps from a wish to its fulfilment, where there are several processes


class Stopped(Exception):
    """All processes stop, since one of them got a signal; after step `step` where training did."""

    def __init__(self, number: int, step: int | None = None):
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.signal, self.step = number, step


class Interrupted(KeyboardInterrupt):
    """A second signal came before what the first one asked for was done: the program ends at once."""

    def __init__(self, number: int):
        super().__init__(f"a second signal, {signal.Signals(number).name}: ended at once, without a checkpoint")
        self.signal = number


class Stopping:
    """Listens to SIGTERM and SIGINT while it is entered; a second one ends the program at once.

    Attribute stop: the signal that all agreed to stop for, 0 until then (SIGTERM if any process got one, else SIGINT).
    """

    def __init__(self, mesh: jax.sharding.Mesh):
        self.stop = 0
        self._received = 0
        self._pending: collections.deque[jax.Array] = collections.deque()
        self._rows = sharding.row_sharding(mesh)
        self._local_devices = mesh.size // processes.count()
        self._sum = jax.jit(lambda wishes: wishes.sum(0), out_shardings=sharding.replicated(mesh))

    def __enter__(self) -> "Stopping":
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame) -> None:
        del frame
        if self._received:
            raise Interrupted(number)
        self._received = number
        logger.warning("%s: what has to be saved is saved, then this ends", signal.Signals(number).name)

    def agree(self, *, save: bool = False) -> bool:
        """Hand in this process's wishes; return whether all save now, and set `stop`. All call it equally often.

        save: a checkpoint is wanted (of process 0; of the others it is not asked).
        """
        if processes.count() == 1:
            self.stop = self._received
            return save
        mine = [save and processes.rank() == 0, self._received == signal.SIGTERM, self._received == signal.SIGINT]
        wishes = np.zeros((self._local_devices, len(mine)), np.int32)
        wishes[0] = mine
        self._pending.append(self._sum(jax.make_array_from_process_local_data(self._rows, wishes)))
        if len(self._pending) <= LAG:
            return False
        wanted, terminate, interrupt = np.asarray(self._pending.popleft())
        self.stop = self.stop or (signal.SIGTERM if terminate else signal.SIGINT if interrupt else 0)
        if wanted:
            self._pending.clear()  # the same wish, handed in again since
        return bool(wanted)

    def raise_if_stopped(self) -> None:
        """Raise Stopped where all are to stop: for loops with nothing to save."""
        self.agree()
        if self.stop:
            raise Stopped(self.stop)

    def raise_if_signalled(self) -> None:
        """Raise Stopped where any process got a signal so far: all wait here for all, so not for loops of steps."""
        received = [int(number) for number in processes.exchange(str(int(self._received)))]
        if any(received):
            raise Stopped(signal.SIGTERM if signal.SIGTERM in received else signal.SIGINT)
