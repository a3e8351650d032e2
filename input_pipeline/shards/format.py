"""Shards: many clips in one ArrayRecord file, each with its text and metadata.

A packed corpus is `NAME-00000-of-00032.array_record` and so on; `NAME.jsonl`, a manifest whose `audio_filepath` is a
reference such as `NAME-00003-of-00032.array_record#17:1114136+81920` (shard, record, its bytes in the file: from where,
how many); and `NAME.shards.json`, with size and SHA-256 of each shard. `python -m input_pipeline.pack` writes them.

A record is b"DS2R", the CRC-32 of all that follows, the length of the metadata (both 4 bytes, little-endian), the
metadata (the manifest's line, JSON), and the audio file as it was.
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
ORIGINAL_KEY = "packed_from"  # in a packed manifest's lines: the path in the manifest that was packed
OPEN_AT_MOST = 64  # shards that a process holds open
BLOCK, BLOCK_HEADER = 1 << 16, 24  # Riegeli, the file format below ArrayRecord, puts a header before each 64 KiB
_REFERENCE = re.compile(r"(?P<shard>.+\.array_record)#(?P<record>\d+)(?::(?P<begin>\d+)\+(?P<size>\d+))?")
_NUMBERED = re.compile(r"-\d{5}-of-\d{5}\.array_record$")
_MAGIC = b"DS2R"


class ShardError(ValueError):
    """A shard or a record that cannot be read; the message names it and what to do."""


class Reference(NamedTuple):
    """Where a clip lies; size is 0 where the bytes are not named."""

    shard: str
    record: int
    begin: int = 0
    size: int = 0


class ShardInfo(NamedTuple):
    """What `NAME.shards.json` says of a shard."""

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
    """Read a reference to a record; None for the path of a file."""
    if SUFFIX not in path:
        return None
    found = _REFERENCE.fullmatch(path)
    if found is None:
        return None
    return Reference(found["shard"], int(found["record"]), int(found["begin"] or 0), int(found["size"] or 0))


def shard_name(name: str, number: int, count: int) -> str:
    """Name a shard: train-00003-of-00032.array_record."""
    return f"{name}-{number:05d}-of-{count:05d}{SUFFIX}"


def index_of(shard: str) -> str:
    """Return the path of the index beside a shard, '' where its name is not that of a numbered shard."""
    index, numbered = _NUMBERED.subn(".shards.json", shard)
    return index if numbered else ""


def read_index(path: str) -> dict[str, ShardInfo]:
    """Read `NAME.shards.json`: what is known of each shard, by its file name. Raises ShardError or OSError."""
    content = object_store.read(path) if object_store.is_remote(path) else _read_file(path)
    try:
        entries = json.loads(content)["shards"]
        return {name: ShardInfo(int(e["bytes"]), str(e["sha256"]), int(e["records"])) for name, e in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ShardError(f"{path} is no index of shards ({error!r}); copy it again, or pack the corpus anew") from error


def _read_file(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def encode_record(metadata: Mapping, audio: bytes) -> bytes:
    """Join metadata and the content of an audio file."""
    described = json.dumps(metadata, ensure_ascii=False).encode("utf-8", "surrogatepass")
    checked = (len(described).to_bytes(4, "little"), described, audio)
    checksum = functools.reduce(lambda crc, part: zlib.crc32(part, crc), checked, 0)
    return b"".join((_MAGIC, checksum.to_bytes(4, "little"), *checked))


def check_record(record: bytes, name: str) -> None:
    """Raise ShardError where a record, whose name is for messages, is damaged or none of ours."""
    if record[:4] != _MAGIC:
        raise ShardError(f"{name} is no record of python -m input_pipeline.pack; pack the corpus anew")
    if zlib.crc32(memoryview(record)[8:]) != int.from_bytes(record[4:8], "little"):
        raise ShardError(f"{name} is damaged: its checksum is another; copy the shard again")


def decode_record(record: bytes, name: str) -> tuple[dict, bytes]:
    """Return metadata and audio of a record. Raises ShardError where it is damaged."""
    check_record(record, name)
    length, body = int.from_bytes(record[8:12], "little"), memoryview(record)[12:]
    return json.loads(bytes(body[:length]).decode("utf-8", "surrogatepass")), bytes(body[length:])


def without_block_headers(content: bytes, begin: int) -> bytes:
    """Return the record in a range of a shard's bytes that starts at `begin`: the headers of blocks are left out."""
    first = -begin % BLOCK  # bytes before the next block
    later = range(first, len(content), BLOCK)
    return b"".join((content[:first], *(content[at + BLOCK_HEADER : at + BLOCK] for at in later)))


class OpenShard:
    """A local shard, open for reading by any number of threads."""

    def __init__(self, path: str, held: int | None = None):
        """Open a shard; `held` is a descriptor that is kept open as long."""
        self.path, self._held = path, held
        if not os.path.isfile(path):
            raise ShardError(f"{path} does not exist; copy the shards beside their manifest")
        # By default the reader reads ahead, for whole files.
        self._reader = array_record().ArrayRecordReader(path, "readahead_buffer_size:0,max_parallelism:0")
        if not self._reader.ok():
            raise ShardError(_why_unreadable(path))
        self.records = self._reader.num_records()

    def __del__(self):
        """Let go of the descriptor."""
        if self._held is not None:
            os.close(self._held)

    def read(self, record: int) -> bytes:
        """Return a record. Raises ShardError."""
        if record >= self.records:
            raise ShardError(
                f"{self.path} holds {self.records} records, there is none of number {record}: it is not the shard that "
                "the manifest was written with; copy both again"
            )
        try:
            return self._reader.read([record])[0]
        except RuntimeError as error:
            raise ShardError(f"{self.path}: record {record} is damaged ({error}); copy the shard again") from error


class OpenShards:
    """Open shards by path, the least recently used one given up at a limit; for threads, and never sent to a process."""

    def __init__(self, at_most: int = OPEN_AT_MOST):
        self._at_most = at_most
        self._open: OrderedDict[str, OpenShard] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, path: str, hold: Callable[[str], int] | None = None) -> OpenShard:
        """Return a shard, opened (and held) where it is not. Raises ShardError, or OSError of `hold`."""
        with self._lock:
            if path in self._open:
                self._open.move_to_end(path)
                return self._open[path]
        opened = OpenShard(path, hold(path) if hold else None)  # not under the lock: other threads read meanwhile
        with self._lock:
            self._open[path] = opened
            while len(self._open) > self._at_most:
                self._open.popitem(last=False)  # closed when the last thread that reads it is done
        return opened

    def forget(self, path: str) -> None:
        """Give up one shard, if it is open."""
        with self._lock:
            self._open.pop(path, None)


def _why_unreadable(path: str) -> str:
    """Say why a shard cannot be opened, going by the size it should have."""
    size, wanted = os.path.getsize(path), None
    with contextlib.suppress(OSError, ShardError, KeyError):
        wanted = read_index(index_of(path))[os.path.basename(path)].bytes
    if wanted is not None and size < wanted:
        return f"{path} ends early: {size:,} of {wanted:,} bytes; copy it again"
    if not os.access(path, os.R_OK):
        return f"{path} may not be read; change its permissions"
    return f"{path} is no whole ArrayRecord file ({size:,} bytes); copy it again"


def records(path: str) -> Iterator[tuple[dict, bytes]]:
    """Yield metadata and audio of each record of a local shard: it needs no manifest. Raises ShardError."""
    shard = OpenShard(path)
    for number in range(shard.records):
        yield decode_record(shard.read(number), f"{path}#{number}")
