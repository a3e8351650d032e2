"""A folder that keeps shards of object stores on this machine: bounded, shared by processes, filled ahead of use.

The folder is $DS2_CACHE (~/.cache/ds2_jax/shards), its bound $DS2_CACHE_GB (100; 0: nothing is kept). A shard is named
by its digest and size. While it is fetched it is `NAME.part`, locked by who fetches it; it gets its name when its SHA-256
is right. Room is made by removing what was used longest ago, never what a process holds open (a lock on the file) nor
what was used since this process began: a corpus larger than the cache would else be fetched again in each epoch, for
nothing. What has no room is read from the store, record by record.
"""

import contextlib
import hashlib
import logging
import os
import re
import shutil
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from input_pipeline.shards.format import ShardError, ShardInfo
from input_pipeline.storage import lock, object_store

FOLDER_VARIABLE, LIMIT_VARIABLE = "DS2_CACHE", "DS2_CACHE_GB"
DEFAULT_LIMIT_GB = 100.0
LEFT_FREE_BYTES = 256 << 20  # of the disk
DOWNLOADS = 4  # shards that are fetched at a time
FAILURES = 3  # in a row, before no more shards are fetched
JOIN_S = 5.0  # to wait for threads that stop; a store that does not answer holds nobody up
HASHED_AT_ONCE = 1 << 20
_KEPT = re.compile(r"[0-9a-f]{24}-(\d+)\.array_record(\.part)?")

logger = logging.getLogger("input_pipeline")


class CacheFull(Exception):
    """There is no room for a shard, and nothing that may be removed for it."""


class _Entry(NamedTuple):
    path: Path
    bytes: int  # that it takes, or will take
    used: float


class ShardCache:
    """Shards on this machine, at most so many bytes of them."""

    def __init__(self, folder: Path, limit_bytes: int):
        self.folder, self.limit_bytes = folder, limit_bytes
        self._began = time.time()
        self._refused: set[str] = set()  # digests of shards that were not what their index says

    @classmethod
    def of_environment(cls) -> "ShardCache":
        """Make the cache that the environment names. Raises ValueError for a bound that is no number."""
        folder = os.environ.get(FOLDER_VARIABLE) or "~/.cache/ds2_jax/shards"
        limit = os.environ.get(LIMIT_VARIABLE) or str(DEFAULT_LIMIT_GB)
        try:
            limit_bytes = int(float(limit) * 1e9)
            if limit_bytes < 0:
                raise ValueError
        except (ValueError, OverflowError):
            raise ValueError(f"{LIMIT_VARIABLE} is {limit!r}: give gigabytes as a number, 0 to keep nothing") from None
        return cls(Path(folder).expanduser(), limit_bytes)

    def place(self, info: ShardInfo) -> Path:
        """Return where a shard is kept, if it is."""
        return self.folder / f"{info.sha256[:24]}-{info.bytes}.array_record"

    def fetch(self, url: str, info: ShardInfo, stop: threading.Event | None = None) -> bool:
        """Bring a shard here; False where another process is at it, or it was wrong before.

        Raises CacheFull; object_store.Stopped; ShardError where the object is not the shard of the index; OSError.
        """
        place = self.place(info)
        if place.exists():
            return True
        if info.sha256 in self._refused:
            return False
        self.folder.mkdir(parents=True, exist_ok=True)
        part = place.with_name(f"{place.name}.part")
        with contextlib.ExitStack() as stack:
            with self._locked():  # reserved together with the look at what is there
                if not part.exists():
                    self._make_room(info.bytes)
                held = stack.enter_context(open(part, "ab"))
                if not lock.lock_file(held.fileno()):
                    return False
            if place.exists() or not lock.is_current(held.fileno(), part):  # it was finished, or removed, in between
                return place.exists()
            object_store.download(url, part, info.bytes, stop)
            if _digest(part) != info.sha256:
                part.unlink()
                self._refused.add(info.sha256)
                raise ShardError(
                    f"{url} is not the shard that its index describes: SHA-256 is another; upload the corpus again"
                )
            os.replace(part, place)
        return True

    def _make_room(self, needed: int) -> None:
        """Remove what was used longest ago until there is room. Raises CacheFull."""
        entries = sorted(self._entries(), key=lambda entry: entry.used)
        used = sum(entry.bytes for entry in entries)
        if needed > self.limit_bytes:
            raise CacheFull(
                f"a shard of {needed / 1e9:.3g} GB is larger than the cache, {self.limit_bytes / 1e9:.3g} GB"
            )
        for entry in entries:
            if used + needed <= self.limit_bytes and self._disk_has(needed):
                return
            if entry.used < self._began and _remove_unused(entry.path):
                used -= entry.bytes
        if used + needed > self.limit_bytes:
            raise CacheFull(f"the cache holds {used / 1e9:.3g} of {self.limit_bytes / 1e9:.3g} GB, all of it in use")
        if not self._disk_has(needed):
            raise CacheFull(f"the disk of {self.folder} is full")

    def _disk_has(self, needed: int) -> bool:
        return shutil.disk_usage(self.folder).free >= needed + LEFT_FREE_BYTES

    def _entries(self) -> Iterator[_Entry]:
        for entry in os.scandir(self.folder):
            found = _KEPT.fullmatch(entry.name)
            if found:
                with contextlib.suppress(FileNotFoundError):  # it was given its name, or removed, meanwhile
                    yield _Entry(Path(entry.path), int(found[1]), entry.stat().st_mtime)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with open(self.folder / ".lock", "ab") as file:
            lock.lock_file(file.fileno(), wait=True)
            yield


def hold(path: str) -> int:
    """Mark a kept shard as used now, and as in use until the returned descriptor is closed. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    lock.lock_file(descriptor, shared=True, wait=True)
    with contextlib.suppress(OSError):  # a cache of somebody else's, which can only be read
        os.utime(descriptor)
    return descriptor


def _remove_unused(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            if not lock.lock_file(file.fileno()):
                return False
            path.unlink()
    except FileNotFoundError:
        pass
    return True


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while content := file.read(HASHED_AT_ONCE):
            digest.update(content)
    return digest.hexdigest()


class Filling:
    """Threads that bring shards into a cache, in the order that they are named in; close it to stop them."""

    def __init__(self, cache: ShardCache, shards: Iterable[tuple[str, ShardInfo]], downloads: int = DOWNLOADS):
        self._cache, self._shards = cache, iter(shards)
        self._taking, self._enough = threading.Lock(), False
        self._stop, self._failures = threading.Event(), 0
        self._threads = [threading.Thread(target=self._work, daemon=True, name="shards") for _ in range(downloads)]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> "Filling":
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()  # what is half there is gone on with another time
        until = time.monotonic() + JOIN_S
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def wait(self) -> None:
        """Wait until there is nothing left to do."""
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (shard := self._take()) is not None:
            try:
                self._cache.fetch(*shard, self._stop)
                self._failures = 0
            except object_store.Stopped:
                return
            except ShardError as error:
                logger.warning("%s", error)
            except CacheFull as full:
                self._give_up(str(full))
            except object_store.ObjectStoreError as error:
                self._failures += 1
                if self._failures >= FAILURES:
                    self._give_up(str(error))
            except OSError as error:
                self._give_up(f"the shards' folder {self._cache.folder} cannot be written: {error.strerror or error}")

    def _take(self) -> tuple[str, ShardInfo] | None:
        """Return the next shard; None where there is none or no more are wanted."""
        with self._taking:
            if self._enough or self._stop.is_set():
                return None
            try:
                return next(self._shards, None)
            except (OSError, ValueError) as error:  # an index that cannot be read
                self._enough = True
                logger.warning("%s; records are read one by one from the store", error)
                return None

    def _give_up(self, reason: str) -> None:
        """Say once why no more shards are fetched; those that other threads are at are."""
        with self._taking:
            if not self._enough and not self._stop.is_set():
                self._enough = True
                logger.warning(
                    "%s; records of other shards are read one by one from the store (%s names the folder, %s its size)",
                    reason,
                    FOLDER_VARIABLE,
                    LIMIT_VARIABLE,
                )
