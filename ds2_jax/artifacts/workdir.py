"""The folder of a run: on a disk shared by all machines, or in Google Cloud Storage (gs://bucket/run).

In a store, all processes write checkpoints directly; process 0 writes small files to a temporary local folder and copies
them to the store.
"""

import os
import shutil
import tempfile
import time
import uuid
from pathlib import Path

from ds2_jax.parallel import processes
from input_pipeline.storage import lock, object_store
from input_pipeline.storage.paths import require_utf8

SHARED_S = 20  # limit for a network file system to show a new file on all machines
READ = ("metrics.jsonl", "run.json", "config.json")  # files that each start reads
LOCK = ".lock"  # held while a run writes here; contains its owner


class WorkdirInUse(OSError):
    """Another run writes to the folder."""


class Workdir:
    """Context with a folder for small files, `local`; in a store, `push` copies them there.

    exclusive: lock the folder against other runs (local folders only: stores have no locks). Entering raises OSError with
    what to do if the folder cannot be written, and WorkdirInUse if another run uses it.
    """

    def __init__(self, path: str, *, exclusive: bool = False):
        self.path = path
        self._exclusive = exclusive
        self._remote = object_store.is_remote(path)
        self.local = tempfile.mkdtemp(prefix="ds2_jax_") if self._remote else path
        self._pushed: dict[str, tuple[int, int]] = {}  # size and modification time by name
        self._lock: int | None = None

    def __enter__(self) -> "Workdir":
        if not self._remote:
            _make_folder(self.path)
            self._lock = _lock(self.path) if self._exclusive and processes.rank() == 0 else None
        elif processes.rank() == 0:
            for name in READ:
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
        """Copy changed files to the store; does nothing for a local folder."""
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
    """Return the folder of a training; all processes must call it together.

    Raises ValueError if `path` is empty or in an unsupported store, and OSError if the folder cannot be written or is not
    the same for all processes.
    """
    if not path:
        raise ValueError("--workdir is empty: give a folder for checkpoints and curves, --workdir=runs/my_run")
    if object_store.is_remote(path) and not path.startswith("gs://"):
        raise ValueError(
            f"--workdir={path}: checkpoints can only be written to folders and gs://: mount other stores as a folder "
            "(docs/distributed.md)"
        )
    require_utf8(path, "--workdir=")
    workdir = Workdir(path, exclusive=True)
    if not object_store.is_remote(path):
        _make_folder(path)
        _require_shared(path)
    return workdir


def _make_folder(path: str) -> None:
    probe = Path(path, f".writable-{processes.rank()}-{uuid.uuid4().hex}")
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise OSError(f"--workdir={path} cannot be written ({error.strerror}): choose a writable folder") from error


def _lock(path: str) -> int:
    """Lock a folder until the returned descriptor is closed. Raises WorkdirInUse."""
    try:
        return lock.acquire(Path(path, LOCK))
    except lock.LockedError as error:
        raise WorkdirInUse(
            f"--workdir={path} is in use by {error.owner}: wait until it has ended, or choose another folder; if that "
            f"machine no longer exists, remove {path}/{LOCK}"
        ) from None


def _require_shared(path: str) -> None:
    """Raise OSError if the folder is not the same for all processes, which write checkpoints together."""
    if processes.count() == 1:
        return
    token = Path(path, f".shared-{processes.broadcast(lambda: uuid.uuid4().hex)}")
    if processes.rank() == 0:
        token.write_text("")
    processes.barrier()
    deadline = time.monotonic() + SHARED_S
    while not (visible := token.exists()) and time.monotonic() < deadline:
        time.sleep(0.5)
        os.listdir(path)  # makes some network file systems refresh
    others = [rank for rank, answer in enumerate(processes.exchange(str(visible))) if answer != "True"]
    if processes.rank() == 0:
        token.unlink()
    if others:
        raise OSError(
            f"--workdir={path} is not the same folder for {processes.name(others[0])} and process 0: choose a folder that "
            "all machines share"
        )
