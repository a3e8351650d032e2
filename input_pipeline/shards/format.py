"""Shards: many clips in one ArrayRecord file, each with its text and metadata.

A packed corpus consists of the shards `NAME-00000-of-00032.array_record` and so on; of `NAME.jsonl`, a manifest whose
`audio_filepath` is a reference such as `NAME-00003-of-00032.array_record#17:1114136+81920` (shard, number of the record,
offset and size of its bytes in the file); and of `NAME.shards.json`, the index, with size and SHA-256 of each shard.
`python -m input_pipeline.pack` writes them.

A record is b"DS2R", the CRC-32 of everything behind it, the length of the metadata (both 4 bytes, little-endian), the
metadata (the manifest's line as JSON), and the unchanged audio file.
"""

import contextlib
import functools
import json
import os
import re
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from input_pipeline.storage import object_store

SUFFIX = ".array_record"
ORIGINAL_KEY = "packed_from"  # in a packed manifest's lines: the path before packing
MAX_OPEN = 64  # shards that a process keeps open
BLOCK, BLOCK_HEADER = 1 << 16, 24  # Riegeli, the file format of ArrayRecord, starts each block of 64 KiB with a header
_REFERENCE = re.compile(r"(?P<shard>.+\.array_record)#(?P<record>\d+)(?::(?P<begin>\d+)\+(?P<size>\d+))?")
_NUMBERED = re.compile(r"-\d{5}-of-\d{5}\.array_record$")
_MAGIC = b"DS2R"


class ShardError(ValueError):
    """A shard, index or record that cannot be read; the message names it and says what to do."""


class Reference(NamedTuple):
    """A record of a shard, with the offset and size of its bytes; size is 0 if they are not stated."""

    shard: str
    record: int
    begin: int = 0
    size: int = 0


class ShardInfo(NamedTuple):
    """What the index states about a shard."""

    bytes: int
    sha256: str
    records: int


def array_record() -> Any:
    """Import the library that reads and writes shards. Raises ShardError if it is not installed."""
    try:
        from array_record.python import array_record_module
    except ModuleNotFoundError as error:
        raise ShardError(f"shards need the package {error.name}: pip install 'ds2-jax[train]'") from error
    return array_record_module


def parse_reference(path: str) -> Reference | None:
    """Parse a reference to a record; return None for the path of a file."""
    if SUFFIX not in path:
        return None
    match = _REFERENCE.fullmatch(path)
    if match is None:
        return None
    return Reference(match["shard"], int(match["record"]), int(match["begin"] or 0), int(match["size"] or 0))


def shard_name(name: str, number: int, count: int) -> str:
    """Return the file name of a shard: train-00003-of-00032.array_record."""
    return f"{name}-{number:05d}-of-{count:05d}{SUFFIX}"


def index_path(shard: str) -> str:
    """Return the path of the index beside a shard, '' if the name is not that of a numbered shard."""
    index, numbered = _NUMBERED.subn(".shards.json", shard)
    return index if numbered else ""


def read_index(path: str) -> dict[str, ShardInfo]:
    """Read an index: each shard's entry by file name. Raises ShardError, OSError."""
    content = object_store.read(path) if object_store.is_remote(path) else _read_file(path)
    try:
        entries = json.loads(content)["shards"]
        return {name: ShardInfo(int(e["bytes"]), str(e["sha256"]), int(e["records"])) for name, e in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ShardError(
            f"{path} is not an index of shards ({error!r}); copy it again, or pack the corpus again"
        ) from error


def _read_file(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def encode_record(metadata: Mapping, audio: bytes) -> bytes:
    """Encode metadata and the content of an audio file as a record."""
    described = json.dumps(metadata, ensure_ascii=False).encode("utf-8", "surrogatepass")
    checked = (len(described).to_bytes(4, "little"), described, audio)
    checksum = functools.reduce(lambda crc, part: zlib.crc32(part, crc), checked, 0)
    return b"".join((_MAGIC, checksum.to_bytes(4, "little"), *checked))


def check_record(record: bytes, name: str) -> None:
    """Raise ShardError where a record is damaged or has another format; `name` is for the message."""
    if record[:4] != _MAGIC:
        raise ShardError(f"{name} is not a record of python -m input_pipeline.pack; pack the corpus again")
    if zlib.crc32(memoryview(record)[8:]) != int.from_bytes(record[4:8], "little"):
        raise ShardError(f"{name} is damaged: its checksum is wrong; copy the shard again")


def decode_record(record: bytes, name: str) -> tuple[dict, bytes]:
    """Return metadata and audio of a record. Raises ShardError."""
    check_record(record, name)
    length, body = int.from_bytes(record[8:12], "little"), memoryview(record)[12:]
    return json.loads(bytes(body[:length]).decode("utf-8", "surrogatepass")), bytes(body[length:])


def strip_block_headers(content: bytes, begin: int) -> bytes:
    """Return the bytes of a shard from offset `begin` on without the headers of its blocks."""
    first = -begin % BLOCK  # bytes up to the next block
    later = range(first, len(content), BLOCK)
    return b"".join((content[:first], *(content[at + BLOCK_HEADER : at + BLOCK] for at in later)))


class OpenShard:
    """A local shard, open for reading by any number of threads."""

    def __init__(self, path: str, pinned: int | None = None):
        """Open a shard; the descriptor `pinned` is closed with it. Raises ShardError."""
        self.path, self._pinned = path, pinned
        if not os.path.isfile(path):
            raise ShardError(f"{path} does not exist; copy the shards beside their manifest")
        # By default, the reader reads ahead, as is right for whole files.
        self._reader = array_record().ArrayRecordReader(path, "readahead_buffer_size:0,max_parallelism:0")
        if not self._reader.ok():
            raise ShardError(_why_unreadable(path))
        self.records = self._reader.num_records()

    def __del__(self):
        """Close the descriptor."""
        if self._pinned is not None:
            os.close(self._pinned)

    def read(self, record: int) -> bytes:
        """Return a record. Raises ShardError."""
        if record >= self.records:
            raise ShardError(
                f"{self.path} has {self.records} records, and no number {record}: it is not the shard that the manifest "
                "belongs to; copy both again"
            )
        try:
            return self._reader.read([record])[0]
        except RuntimeError as error:
            raise ShardError(f"{self.path}: record {record} is damaged ({error}); copy the shard again") from error


class OpenShards:
    """The open shards of a process, by path; beyond `limit`, the least recently used one is closed. Thread-safe."""

    def __init__(self, limit: int = MAX_OPEN):
        self._limit = limit
        self._open: OrderedDict[str, OpenShard] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, path: str, pin: Callable[[str], int] | None = None) -> OpenShard:
        """Return a shard, opened and pinned if necessary. Raises ShardError, and OSError of `pin`."""
        with self._lock:
            if path in self._open:
                self._open.move_to_end(path)
                return self._open[path]
        opened = OpenShard(path, pin(path) if pin else None)  # outside the lock: other threads read meanwhile
        with self._lock:
            self._open[path] = opened
            while len(self._open) > self._limit:
                self._open.popitem(last=False)  # closed once no thread reads it any more
        return opened

    def discard(self, path: str) -> None:
        """Close a shard if it is open."""
        with self._lock:
            self._open.pop(path, None)


def _why_unreadable(path: str) -> str:
    """Describe why a shard cannot be opened."""
    size, expected = os.path.getsize(path), None
    with contextlib.suppress(OSError, ShardError, KeyError):
        expected = read_index(index_path(path))[os.path.basename(path)].bytes
    if expected is not None and size < expected:
        return f"{path} ends early: {size:,} of {expected:,} bytes; copy it again"
    if not os.access(path, os.R_OK):
        return f"{path} may not be read; change its permissions"
    return f"{path} is not a complete ArrayRecord file ({size:,} bytes); copy it again"


def records(path: str) -> Iterator[tuple[dict, bytes]]:
    """Yield metadata and audio of each record of a local shard, without a manifest. Raises ShardError."""
    shard = OpenShard(path)
    for number in range(shard.records):
        yield decode_record(shard.read(number), f"{path}#{number}")
