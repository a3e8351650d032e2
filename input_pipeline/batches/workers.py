"""Worker processes of grain: they end with the process that started them, and how one ended is explained."""

import contextlib
import errno
import functools
import multiprocessing
import os
import re
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

SHARED_MEMORY = "/dev/shm"
_EXIT_CODE = re.compile(r"Worker process was terminated unexpectedly with exit code (-?\d+)")


class WorkerError(OSError):
    """Worker processes that cannot do their work; the message says what to do."""


class WorkerKilledError(WorkerError):
    """A worker process that another process, or the system for lack of memory, has killed: the next start may succeed."""


@dataclass(frozen=True)
class EndsWithParent:
    """A function for worker processes that lets them end when their parent has, even if it was killed."""

    function: Callable[[Any], Any]

    def __call__(self, argument: Any) -> Any:
        """Call the function."""
        _watch_parent()
        return self.function(argument)


@functools.cache
def _watch_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is None:  # this is no worker
        return

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, name="parent", daemon=True).start()


@contextlib.contextmanager
def explain_lost_workers() -> Iterator[None]:
    """Turn what grain raises when a worker process ends into WorkerError."""
    try:
        yield
    except RuntimeError as error:
        match = _EXIT_CODE.search(str(error))
        if match is None:
            raise
        raise describe_end(int(match[1])) from error
    except OSError as error:
        if error.errno != errno.ENOSPC or error.filename is not None:
            raise
        raise describe_end(-signal.SIGBUS) from error


def describe_end(code: int) -> WorkerError:
    """Return the error for a worker that ended with this exit code, negative for a signal."""
    if code == -signal.SIGBUS:  # the only sign of a full tmpfs
        return WorkerError(
            f"a worker process of config.data.workers ended, because {SHARED_MEMORY} is too small for its batches "
            f"({_size_of_shared_memory()}): enlarge it (docker run --shm-size=8g; Kubernetes: an emptyDir of medium Memory "
            "there), or load in threads, --config.data.workers=0"
        )
    if code < 0:
        return WorkerKilledError(
            f"a worker process of config.data.workers was ended by {signal.Signals(-code).name}, perhaps for lack of memory: "
            "run the same command again; if it happens again, lower config.data.workers or config.data.prefetch"
        )
    return WorkerError(
        f"a worker process of config.data.workers ended with code {code}; what it reported is above; "
        "--config.data.workers=0 loads in this process"
    )


def _size_of_shared_memory() -> str:
    try:
        usage = shutil.disk_usage(SHARED_MEMORY)
    except OSError:
        return "it does not exist"
    return f"{usage.total / 2**20:,.0f} MiB, of which {usage.free / 2**20:,.0f} MiB are free"
