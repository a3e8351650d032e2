"""Read clips that are not files: records of shards, local or in an object store, and single objects of a store.

A record of a remote shard is read from the local copy of the shard if the cache has one, else from the store as a range
of bytes. `resolve_all` reads what a batch needs; `prefetch` meanwhile downloads whole shards into the cache.
"""

import contextlib
import functools
import io
import logging
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

from input_pipeline.columns import Strings
from input_pipeline.shards import cache as shard_cache
from input_pipeline.shards.cache import Prefetcher, ShardCache
from input_pipeline.shards.format import (
    OpenShards,
    Reference,
    ShardError,
    ShardInfo,
    decode_record,
    index_path,
    parse_reference,
    read_index,
    strip_block_headers,
)
from input_pipeline.storage import object_store

REQUESTS = 32  # to a store at the same time

logger = logging.getLogger("input_pipeline")


class Clip(io.BytesIO):
    """The content of an audio file, with a name for messages."""

    def __init__(self, content: bytes, name: str):
        super().__init__(content)
        self.name = name


def resolve(path: str) -> str | Clip:
    """Return the content of a record or an object; return the path of a file unchanged. Raises ShardError, OSError."""
    reference = parse_reference(path)
    if reference is None:
        return Clip(object_store.read(path), path) if object_store.is_remote(path) else path
    if not object_store.is_remote(path):
        record = _open_shards.get(reference.shard).read(reference.record)
    else:
        record = _read_cached(reference) or _read_remote(reference)
    return Clip(decode_record(record, path)[1], path)


def resolve_all(paths: Iterable[str]) -> dict[str, str | Clip | Exception]:
    """Resolve paths, those in a store many at a time; a path that cannot be resolved gets its exception as the value."""

    def attempt(path: str) -> str | Clip | Exception:
        try:
            return resolve(path)
        except (OSError, ValueError) as error:
            return error

    distinct = list(dict.fromkeys(paths))
    run = _request_threads().map if any(map(object_store.is_remote, distinct)) else map
    return dict(zip(distinct, run(attempt, distinct), strict=True))


def prefetch(clips: Strings, rows: Iterable[int] | None = None) -> AbstractContextManager:
    """Download the shards of these clips into the cache while the context lasts, in the order of `rows` (default: all).

    `rows` is consumed by the downloading threads as they proceed. Raises ValueError for an invalid environment variable.
    """
    if not clips.contains("://") or not _cache().limit_bytes:
        return contextlib.nullcontext()
    return Prefetcher(_cache(), _shards_of(clips if rows is None else map(clips.__getitem__, rows)))


def reset() -> None:
    """Close open shards; read indexes and environment variables again when they are next needed."""
    global _open_shards
    _open_shards = OpenShards()
    _index.cache_clear()
    _cache.cache_clear()


def _shards_of(paths: Iterable[str]) -> Iterator[tuple[str, ShardInfo]]:
    """Yield each remote shard that has an index entry, in the order of first use."""
    seen = set()
    for path in paths:
        shard = path.rpartition("#")[0]
        if shard and shard not in seen and object_store.is_remote(shard):
            seen.add(shard)
            info = _shard_info(shard)
            if info is not None:
                yield shard, info


def _read_cached(reference: Reference) -> bytes | None:
    """Return a record of a remote shard from its local copy; None if there is none or it is damaged."""
    info = _shard_info(reference.shard)
    if info is None:
        return None
    path = str(_cache().path_of(info))
    try:
        return _open_shards.get(path, shard_cache.pin).read(reference.record)
    except OSError:
        return None
    except ShardError as error:
        logger.warning("%s; the local copy is removed", error)
        _open_shards.discard(path)
        with contextlib.suppress(OSError):
            os.unlink(path)
        return None


def _read_remote(reference: Reference) -> bytes:
    if not reference.size:
        raise ShardError(f"{reference.shard}#{reference.record} states no byte range; pack the corpus again")
    content = object_store.read(reference.shard, reference.begin, reference.size)
    return strip_block_headers(content, reference.begin)


def _shard_info(shard: str) -> ShardInfo | None:
    path = index_path(shard)
    with _index_lock:
        index = _index(path) if path else {}
    return index.get(shard.rpartition("/")[2])


@functools.cache
def _index(path: str) -> Mapping[str, ShardInfo]:
    try:
        return read_index(path)
    except (OSError, ValueError) as error:
        logger.warning("%s; its shards are not cached, records are read from the store one by one", error)
        return {}


@functools.cache
def _cache() -> ShardCache:
    return ShardCache.from_environment()


@functools.cache
def _request_threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(REQUESTS, "store")


_open_shards = OpenShards()
_index_lock = threading.Lock()
