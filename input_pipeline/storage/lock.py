"""Locks between processes on one file (flock): released when it is closed, at the latest when its process ends."""

import contextlib
import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from input_pipeline.storage import whole_file

UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # by some network file systems
OWNER_BYTES = 1000


class LockedError(OSError):
    """Another process holds the lock; `owner` says which."""

    def __init__(self, path: Path, owner: str):
        super().__init__(f"{path} is locked by {owner}")
        self.owner = owner


@contextlib.contextmanager
def exclusive(target: Path) -> Iterator[bool]:
    """Keep other processes from making `target` until the block ends; yield whether this one had to wait for another.

    The lock is on `<target>.lock`, in a folder that is made if necessary, and is removed at the end. Does nothing on
    file systems without locks.
    """
    path, waited = target.with_name(target.name + ".lock"), False
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)  # the process before may have removed it
        with whole_file.open_in_place(path, "a+b") as file:
            descriptor = file.fileno()
            if not _lock_where_supported(descriptor):
                print(f"{target}: waiting for {_read_owner(descriptor)}, which is writing it", flush=True)
                waited = True
                _lock_where_supported(descriptor, wait=True)
            if not is_current(descriptor, path):
                continue  # the process before has removed it: another one may hold a new file of this name
            _write_owner(descriptor)
            try:
                yield waited
            finally:
                path.unlink(missing_ok=True)
            return


def acquire(path: Path) -> int:
    """Lock a file, made if necessary, without waiting; return the descriptor that holds the lock until it is closed.

    The file stays. On file systems without locks, nothing is locked. Raises LockedError, OSError.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        if not _lock_where_supported(descriptor):
            raise LockedError(path, _read_owner(descriptor))
        _write_owner(descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def lock_file(descriptor: int, *, shared: bool = False, wait: bool = False) -> bool:
    """Lock an open file until it is closed; return False where it is locked by another process and `wait` is not set.

    Raises OSError, also on file systems without locks.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(descriptor, kind if wait else kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_current(descriptor: int, path: Path) -> bool:
    """Tell whether a path still names an open file, which may have been removed or renamed while it was waited for."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _lock_where_supported(descriptor: int, *, wait: bool = False) -> bool:
    try:
        return lock_file(descriptor, wait=wait)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        return True


def _read_owner(descriptor: int) -> str:
    return os.pread(descriptor, OWNER_BYTES, 0).decode(errors="replace") or "another process"


def _write_owner(descriptor: int) -> None:
    owner = f"process {os.getpid()} on {socket.gethostname()} (since {time.strftime('%F %T')})"
    with contextlib.suppress(OSError):  # on a full disk: the work that follows reports it
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, owner.encode(), 0)
