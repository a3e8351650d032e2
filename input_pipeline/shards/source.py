"""Read clips that are not files: records of shards, here or in an object store, and single objects of a store.

A record of a remote shard comes from the shard's copy in the cache where there is one, else as a range of bytes from
the store. `resolve_all` gets what a batch needs at once; `filling` brings whole shards here meanwhile.
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
from input_pipeline.shards.cache import Filling, ShardCache
from input_pipeline.shards.format import (
    OpenShards,
    Reference,
    ShardError,
    ShardInfo,
    decode_record,
    index_of,
    parse_reference,
    read_index,
    without_block_headers,
)
from input_pipeline.storage import object_store

REQUESTS = 32  # to a store at a time

logger = logging.getLogger("input_pipeline")


class Clip(io.BytesIO):
    """The content of an audio file, with a name for messages."""

    def __init__(self, content: bytes, name: str):
        super().__init__(content)
        self.name = name


def resolve(path: str) -> str | Clip:
    """Return the content of a record or an object, and the path of a file as it is. Raises ShardError, OSError."""
    reference = parse_reference(path)
    if reference is None:
        return Clip(object_store.read(path), path) if object_store.is_remote(path) else path
    if not object_store.is_remote(path):
        record = _open_shards.get(reference.shard).read(reference.record)
    else:
        record = _from_cache(reference) or _from_store(reference)
    return Clip(decode_record(record, path)[1], path)


def resolve_all(paths: Iterable[str]) -> dict[str, str | Clip | Exception]:
    """Resolve paths, those in a store many at a time; where that fails, the error stands in place of the content."""

    def attempt(path: str) -> str | Clip | Exception:
        try:
            return resolve(path)
        except (OSError, ValueError) as error:
            return error

    distinct = list(dict.fromkeys(paths))
    run = _requests().map if any(map(object_store.is_remote, distinct)) else map
    return dict(zip(distinct, run(attempt, distinct), strict=True))


def filling(clips: Strings, rows: Iterable[int] | None = None) -> AbstractContextManager:
    """Bring the shards that clips lie in into the cache, while the context lasts; of all clips, or in an order of rows.

    The rows are looked at by the threads that fetch, as far as they get. Raises ValueError where the environment says
    something impossible.
    """
    if not clips.holds("://") or not _cache().limit_bytes:
        return contextlib.nullcontext()
    return Filling(_cache(), _shards_of(clips if rows is None else map(clips.__getitem__, rows)))


def _shards_of(paths: Iterable[str]) -> Iterator[tuple[str, ShardInfo]]:
    """Yield each remote shard where it is first needed, if its index knows it."""
    seen = set()
    for path in paths:
        shard = path.rpartition("#")[0]
        if shard and shard not in seen and object_store.is_remote(shard):
            seen.add(shard)
            info = _info(shard)
            if info is not None:
                yield shard, info


def _from_cache(reference: Reference) -> bytes | None:
    """Return a record of a remote shard from its copy here; None where there is none, or it is damaged."""
    info = _info(reference.shard)
    if info is None:
        return None
    place = str(_cache().place(info))
    try:
        return _open_shards.get(place, shard_cache.hold).read(reference.record)
    except OSError:
        return None
    except ShardError as error:
        logger.warning("%s; the copy is removed", error)
        _open_shards.forget(place)
        with contextlib.suppress(OSError):
            os.unlink(place)
        return None


def _from_store(reference: Reference) -> bytes:
    if not reference.size:
        raise ShardError(f"{reference.shard}#{reference.record} names no bytes; pack the corpus anew")
    content = object_store.read(reference.shard, reference.begin, reference.size)
    return without_block_headers(content, reference.begin)


def _info(shard: str) -> ShardInfo | None:
    path = index_of(shard)
    with _reading_index:
        index = _index(path) if path else {}
    return index.get(shard.rpartition("/")[2])


@functools.cache
def _index(path: str) -> Mapping[str, ShardInfo]:
    try:
        return read_index(path)
    except (OSError, ValueError) as error:
        logger.warning("%s; its shards are not kept on this machine, records are read one by one from the store", error)
        return {}


@functools.cache
def _cache() -> ShardCache:
    return ShardCache.of_environment()


@functools.cache
def _requests() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(REQUESTS, "store")


def forget() -> None:
    """Close what is open and read environment and indexes anew when they are needed next."""
    global _open_shards
    _open_shards = OpenShards()
    _index.cache_clear()
    _cache.cache_clear()


_open_shards = OpenShards()
_reading_index = threading.Lock()
