"""Locks of the system on what is being written. Needs nothing else of its room."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def alone(target: Path) -> Iterator[bool]:
    """Keep other processes from making `target` too while the block lasts; yield whether one had to be waited for.

    The lock is the system's, on `<target>.lock`, whose folder is made: it ends with its process, however that ends.
    """
    lock, waited = target.with_name(target.name + ".lock"), False
    while True:
        lock.parent.mkdir(parents=True, exist_ok=True)  # whoever was waited for may have removed it
        with lock.open("a+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                who = file.read().decode(errors="replace") or "another process"
                print(f"{target}: {who} is at work on it; waiting for its end (or interrupt here)", flush=True)
                waited = True
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError:
                pass  # a file system without locks
            if not (lock.exists() and os.path.samestat(os.fstat(file.fileno()), lock.stat())):
                continue  # whoever had it has removed it
            with contextlib.suppress(OSError):  # a full disk is told where it matters
                os.ftruncate(file.fileno(), 0)
                os.write(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}".encode())
            try:
                yield waited
            finally:
                lock.unlink(missing_ok=True)
            return
