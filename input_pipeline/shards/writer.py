"""Write shards: records one after the other, and where each of them lies in the file.

ArrayRecord tells no byte ranges, which whoever reads single records from an object store needs. They are found in the
finished file (Riegeli's format: blocks of 64 KiB, each with a header of 24 bytes; between these a chain of chunks, each
with a header of 40 bytes; one record a chunk, not compressed), and each record is read back through its range.
"""

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from input_pipeline.shards.format import (
    BLOCK,
    BLOCK_HEADER,
    ShardError,
    ShardInfo,
    array_record,
    check_record,
    encode_record,
    without_block_headers,
)
from input_pipeline.storage import whole_file

CHUNK_HEADER = 40  # its bytes 8 to 15 are the size of the data behind it, byte 24 the kind
HASHED_AT_ONCE = 1 << 20
_ROOM = BLOCK - BLOCK_HEADER


class ShardWriter:
    """Writes one shard beside its name, which it gets in `finish`; leaving the context without that removes it."""

    def __init__(self, path: Path):
        self.path = path
        self.sizes: list[int] = []  # of the records
        self._unfinished = path.with_name(f".{path.name}.tmp")
        self._unfinished.touch()  # the writer below does not say that it cannot
        self._writer = array_record().ArrayRecordWriter(str(self._unfinished), "group_size:1,uncompressed")

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, *_) -> None:
        if self._writer.is_open():
            with contextlib.suppress(RuntimeError):  # what is told is why the record before could not be written
                self._writer.close()
        self._unfinished.unlink(missing_ok=True)

    def write(self, metadata: Mapping, audio: bytes) -> None:
        """Add a record. Raises OSError."""
        record = encode_record(metadata, audio)
        try:
            self._writer.write(record)
        except RuntimeError as error:
            raise _as_os_error(error, self.path) from error
        self.sizes.append(len(record))

    def finish(self) -> tuple[ShardInfo, list[tuple[int, int]]]:
        """Close, read back and name the shard; return what its index says, and begin and bytes of each record's range.

        Raises OSError, ShardError where it does not read as it was written.
        """
        try:
            self._writer.close()
        except RuntimeError as error:
            raise _as_os_error(error, self.path) from error
        ranges = list(_find_records(self._unfinished, self.sizes))
        info = ShardInfo(self._unfinished.stat().st_size, _read_back(self._unfinished, ranges), len(self.sizes))
        whole_file.commit(self._unfinished, self.path)
        return info, ranges


def _as_os_error(error: RuntimeError, path: Path) -> OSError:
    """Make the writer's errors, which are text, those of the system again."""
    text = str(error)
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EACCES):
        if os.strerror(number) in text:
            return OSError(number, os.strerror(number), str(path))
    return OSError(f"{path} cannot be written: {text}")


def _find_records(path: Path, sizes: list[int]) -> Iterator[tuple[int, int]]:
    """Yield the bytes of each record, from where and how many, block headers within included."""
    place = 0  # in the file without its block headers
    with open(path, "rb") as file:
        for size in sizes:
            kind = b""
            while kind != b"r":  # other chunks: signature, metadata, padding
                header = _read(file, place, CHUNK_HEADER)
                kind = header[24:25]
                end = place + CHUNK_HEADER + int.from_bytes(header[8:16], "little")
                if not kind or (kind == b"r" and end - size < place + CHUNK_HEADER):
                    raise ShardError(
                        f"{path}: its chunks are not where they should be; this release of array_record differs"
                    )
                place = end
            begin = _in_file(end - size)  # the record is the last of its chunk
            yield begin, _in_file(end - 1) + 1 - begin


def _in_file(place: int) -> int:
    return place // _ROOM * BLOCK + BLOCK_HEADER + place % _ROOM


def _read(file, place: int, size: int) -> bytes:
    begin = _in_file(place)
    file.seek(begin)
    return without_block_headers(file.read(size + BLOCK_HEADER), begin)[:size]


def _read_back(path: Path, ranges: list[tuple[int, int]]) -> str:
    """Check each record of a finished shard; return the SHA-256 of the file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for number, (begin, size) in enumerate(ranges):
            between = begin - file.tell()
            content = file.read(between + size)
            digest.update(content)
            check_record(without_block_headers(content[between:], begin), f"{path}#{number}")
        while content := file.read(HASHED_AT_ONCE):
            digest.update(content)
    return digest.hexdigest()
