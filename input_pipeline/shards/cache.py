"""A local cache of remote shards: bounded, shared by processes, filled before the shards are needed.

Its folder is $DS2_CACHE (default ~/.cache/ds2_jax/shards), its limit $DS2_CACHE_GB (default 100; 0 caches nothing). A
shard is named by its digest and size. A download goes to `NAME.part`, which the downloading process locks, and is renamed
once its SHA-256 is verified. To make room, the least recently used shards are removed, except those that a process has
open (and locks), and those used since this process started: going round a corpus larger than the cache, they are the
next ones needed. Shards that find no room are read from the store, record by record.
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
from input_pipeline.storage import lock, object_store, whole_file

FOLDER_VARIABLE, LIMIT_VARIABLE = "DS2_CACHE", "DS2_CACHE_GB"
DEFAULT_LIMIT_GB = 100.0
RESERVED_BYTES = 256 << 20  # of the disk, never filled
DOWNLOADS = 4  # at the same time
FAILURES = 3  # in a row, after which prefetching ends
JOIN_S = 5.0  # wait at most this long for threads at the end: a store that does not answer must not delay it
HASH_BLOCK = 1 << 20  # bytes hashed at a time
_CACHED_NAME = re.compile(r"[0-9a-f]{24}-(\d+)\.array_record(\.part)?")

logger = logging.getLogger("input_pipeline")


class CacheFull(Exception):
    """There is no room for a shard, and nothing that may be removed."""


class _Entry(NamedTuple):
    path: Path
    bytes: int  # on the disk when complete
    used: float  # time of the last use


class ShardCache:
    """Local copies of remote shards, `limit_bytes` of them at most."""

    def __init__(self, folder: Path, limit_bytes: int):
        self.folder, self.limit_bytes = folder, limit_bytes
        self._start = time.time()
        self._rejected: set[str] = set()  # digests of shards whose content did not match

    @classmethod
    def from_environment(cls) -> "ShardCache":
        """Return the cache that the environment variables describe. Raises ValueError for an invalid limit."""
        folder = os.environ.get(FOLDER_VARIABLE) or "~/.cache/ds2_jax/shards"
        limit = os.environ.get(LIMIT_VARIABLE) or str(DEFAULT_LIMIT_GB)
        try:
            limit_bytes = int(float(limit) * 1e9)
            if limit_bytes < 0:
                raise ValueError
        except (ValueError, OverflowError):
            raise ValueError(f"{LIMIT_VARIABLE} is {limit!r}: give a number of gigabytes, 0 for no cache") from None
        return cls(Path(folder).expanduser(), limit_bytes)

    def path_of(self, info: ShardInfo) -> Path:
        """Return the path that a shard has in the cache once it is there."""
        return self.folder / f"{info.sha256[:24]}-{info.bytes}.array_record"

    def fetch(self, url: str, info: ShardInfo, stop: threading.Event | None = None) -> bool:
        """Download a shard; return False if another process is downloading it, or its content was wrong before.

        Raises CacheFull; object_store.Stopped; ShardError where the content does not match the index; OSError.
        """
        path = self.path_of(info)
        if path.exists():
            return True
        if info.sha256 in self._rejected:
            return False
        self.folder.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.part")
        with contextlib.ExitStack() as stack:
            with self._locked():  # measured and reserved in one step
                if not part.exists():
                    self._make_room(info.bytes)
                reserved = stack.enter_context(whole_file.open_in_place(part, "ab"))
                if not lock.lock_file(reserved.fileno()):
                    return False
            if path.exists() or not lock.is_current(reserved.fileno(), part):  # completed or removed meanwhile
                return path.exists()
            object_store.download(url, part, info.bytes, stop)
            if _digest(part) != info.sha256:
                part.unlink()
                self._rejected.add(info.sha256)
                raise ShardError(
                    f"{url} is not the shard that its index describes: the SHA-256 differs; upload the corpus again"
                )
            os.replace(part, path)
        return True

    def _make_room(self, needed: int) -> None:
        """Remove the least recently used shards until a new one fits. Raises CacheFull."""
        entries = sorted(self._entries(), key=lambda entry: entry.used)
        used = sum(entry.bytes for entry in entries)
        if needed > self.limit_bytes:
            raise CacheFull(
                f"a shard of {needed / 1e9:.3g} GB is larger than the cache, {self.limit_bytes / 1e9:.3g} GB"
            )
        for entry in entries:
            if used + needed <= self.limit_bytes and self._disk_has(needed):
                return
            if entry.used < self._start and _remove_unpinned(entry.path):
                used -= entry.bytes
        if used + needed > self.limit_bytes:
            raise CacheFull(f"the cache has {used / 1e9:.3g} of {self.limit_bytes / 1e9:.3g} GB, all of it in use")
        if not self._disk_has(needed):
            raise CacheFull(f"the disk of {self.folder} is full")

    def _disk_has(self, needed: int) -> bool:
        return shutil.disk_usage(self.folder).free >= needed + RESERVED_BYTES

    def _entries(self) -> Iterator[_Entry]:
        for entry in os.scandir(self.folder):
            match = _CACHED_NAME.fullmatch(entry.name)
            if match:
                with contextlib.suppress(FileNotFoundError):  # renamed or removed meanwhile
                    yield _Entry(Path(entry.path), int(match[1]), entry.stat().st_mtime)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with whole_file.open_in_place(self.folder / ".lock", "ab") as file:
            lock.lock_file(file.fileno(), wait=True)
            yield


def pin(path: str) -> int:
    """Mark a cached shard as used now, and keep it until the returned descriptor is closed. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    lock.lock_file(descriptor, shared=True, wait=True)
    with contextlib.suppress(OSError):  # a cache that this user may only read
        os.utime(descriptor)
    return descriptor


def _remove_unpinned(path: Path) -> bool:
    """Remove a shard; return False if a process has it open or is downloading it."""
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
        while content := file.read(HASH_BLOCK):
            digest.update(content)
    return digest.hexdigest()


class Prefetcher:
    """Threads that download shards into a cache in the given order; leaving the context stops them."""

    def __init__(self, cache: ShardCache, shards: Iterable[tuple[str, ShardInfo]], downloads: int = DOWNLOADS):
        self._cache, self._shards = cache, iter(shards)
        self._shards_lock, self._ended = threading.Lock(), False
        self._stop, self._failures = threading.Event(), 0
        self._threads = [threading.Thread(target=self._work, daemon=True, name="shards") for _ in range(downloads)]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> "Prefetcher":
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()  # incomplete downloads are resumed another time
        deadline = time.monotonic() + JOIN_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def wait(self) -> None:
        """Wait until all shards are downloaded, or no more can be."""
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (shard := self._next_shard()) is not None:
            try:
                self._cache.fetch(*shard, self._stop)
                self._failures = 0
            except object_store.Stopped:
                return
            except ShardError as error:
                logger.warning("%s", error)
            except CacheFull as full:
                self._end(str(full))
            except object_store.ObjectStoreError as error:
                self._failures += 1
                if self._failures >= FAILURES:
                    self._end(str(error))
            except OSError as error:
                self._end(f"the cache's folder {self._cache.folder} cannot be written: {error.strerror or error}")

    def _next_shard(self) -> tuple[str, ShardInfo] | None:
        """Return the next shard; None if there is none, or downloading has ended."""
        with self._shards_lock:
            if self._ended or self._stop.is_set():
                return None
            try:
                return next(self._shards, None)
            except (OSError, ValueError) as error:  # an index that cannot be read
                self._ended = True
                logger.warning("%s; records are read from the store one by one", error)
                return None

    def _end(self, reason: str) -> None:
        """Start no more downloads and log once why; those in progress go on."""
        with self._shards_lock:
            if not self._ended and not self._stop.is_set():
                self._ended = True
                logger.warning(
                    "%s; records of other shards are read from the store one by one (%s sets the folder, %s its size)",
                    reason,
                    FOLDER_VARIABLE,
                    LIMIT_VARIABLE,
                )
