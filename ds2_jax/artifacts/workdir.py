"""A run's folder: on a disk that all machines share, or in Google's store (gs://bucket/run).

In a store lie the checkpoints, written there by all processes, and copies of the small files, which process 0 writes to a
folder of its own machine.
"""

import os
import shutil
import tempfile
import time
import uuid
from pathlib import Path

from ds2_jax.parallel import processes
from input_pipeline.storage import lock, object_store

SHARED_S = 20  # for a network file system to show a new file everywhere
KEPT = ("metrics.jsonl", "run.json")  # that a later start adds to
LOCK = ".lock"  # held while a run writes here; says whose it is


class WorkdirInUse(OSError):
    """Another run writes to the folder."""


class Workdir:
    """The folder to write small files to, `local`, while it is entered; `push` copies them to a store, if there is one.

    alone: no other run may write there meanwhile (in folders only: a store has no locks). Raises OSError with what to do
    where the run's folder cannot be written, WorkdirInUse where another run does.
    """

    def __init__(self, path: str, *, alone: bool = False):
        self.path = path
        self._alone = alone
        self._remote = object_store.is_remote(path)
        self.local = tempfile.mkdtemp(prefix="ds2_jax_") if self._remote else path
        self._pushed: dict[str, tuple[int, int]] = {}  # size and time of change
        self._lock: int | None = None

    def __enter__(self) -> "Workdir":
        if not self._remote:
            _make_folder(self.path)
            self._lock = _lock(self.path) if self._alone and processes.rank() == 0 else None
        elif processes.rank() == 0:
            for name in KEPT:
                if object_store.exists(self._url(name)):
                    Path(self.local, name).write_bytes(object_store.read(self._url(name)))
        return self

    def __exit__(self, *_):
        if self._remote:
            self.push()
            shutil.rmtree(self.local, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)

    def push(self) -> None:
        """Copy what changed to the store; of a local folder, nothing has to be done."""
        if not self._remote or processes.rank() != 0:
            return
        for file in sorted(Path(self.local).rglob("*")):
            name, state = file.relative_to(self.local).as_posix(), (file.stat().st_size, file.stat().st_mtime_ns)
            if file.is_file() and self._pushed.get(name) != state:
                object_store.upload(file, self._url(name))
                self._pushed[name] = state

    def _url(self, name: str) -> str:
        return object_store.join(self.path, name)


def make_workdir(path: str) -> Workdir:
    """Return the folder of a training; all processes call it together.

    Raises ValueError where there is none or it is of an unknown kind, OSError where it cannot be written, or where not all
    processes see the same.
    """
    if not path:
        raise ValueError("--workdir is empty: name the folder for checkpoints and curves, --workdir=runs/my_run")
    if object_store.is_remote(path) and not path.startswith("gs://"):
        raise ValueError(
            f"--workdir={path}: checkpoints can be written to gs:// and to folders; mount other stores as a folder "
            "(docs/distributed.md)"
        )
    workdir = Workdir(path, alone=True)
    if not object_store.is_remote(path):
        _make_folder(path)
        _require_shared(path)
    return workdir


def _make_folder(path: str) -> None:
    probe = Path(path, f".writable-{processes.rank()}-{os.getpid()}")
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise OSError(f"--workdir={path} cannot be written ({error.strerror}); name a folder that can") from error


def _lock(path: str) -> int:
    """Lock a folder until the returned descriptor is closed. Raises WorkdirInUse."""
    try:
        return lock.acquire(Path(path, LOCK))
    except lock.LockedError as error:
        raise WorkdirInUse(
            f"--workdir={path} is in use by {error.owner}: wait until it has ended, or name another folder; if that "
            f"machine is gone for good, remove {path}/{LOCK}"
        ) from None


def _require_shared(path: str) -> None:
    """Raise where not all processes see the same folder: all of them write the checkpoints."""
    if processes.count() == 1:
        return
    token = Path(path, f".shared-{processes.broadcast(lambda: uuid.uuid4().hex)}")
    if processes.rank() == 0:
        token.write_text("")
    processes.barrier()
    deadline = time.monotonic() + SHARED_S
    while not (seen := token.exists()) and time.monotonic() < deadline:
        time.sleep(0.5)
        os.listdir(path)  # some network file systems look again then
    blind = [rank for rank, answer in enumerate(processes.exchange(str(seen))) if answer != "True"]
    if processes.rank() == 0:
        token.unlink()
    if blind:
        raise OSError(
            f"--workdir={path} is not the same folder for {processes.name(blind[0])} and process 0: name one that all "
            "machines share"
        )
