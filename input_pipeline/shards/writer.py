"""Write shards, and find the byte range of each record, by which it can be read from an object store.

ArrayRecord does not report byte ranges. They are found in the finished file, whose format is Riegeli's: blocks of 64 KiB,
each with a header of 24 bytes, and in what remains a chain of chunks, each with a header of 40 bytes and, as written
here, one uncompressed record. Each record is then read back through its range.
"""

import contextlib
import errno
import hashlib
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from input_pipeline.shards.format import (
    BLOCK,
    BLOCK_HEADER,
    ShardError,
    ShardInfo,
    array_record,
    check_record,
    encode_record,
    strip_block_headers,
)
from input_pipeline.storage import whole_file

CHUNK_HEADER = 40  # bytes 8 to 15 are the size of the data behind it, byte 24 is the kind of chunk
HASH_BLOCK = 1 << 20  # bytes hashed at a time
_BLOCK_DATA = BLOCK - BLOCK_HEADER


class ShardWriter:
    """Write one shard, under a temporary name until `finish`; leaving the context without that removes it.

    Raises OSError.
    """

    def __init__(self, path: Path):
        self.path = path
        self.sizes: list[int] = []  # of the records
        self._temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        self._temporary.touch(exist_ok=False)  # the library's writer does not report that it cannot
        self._writer = array_record().ArrayRecordWriter(str(self._temporary), "group_size:1,uncompressed")

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, *_) -> None:
        if self._writer.is_open():
            with contextlib.suppress(RuntimeError):  # the error of the record before is the one to report
                self._writer.close()
        self._temporary.unlink(missing_ok=True)

    def write(self, metadata: Mapping, audio: bytes) -> None:
        """Append a record. Raises OSError."""
        record = encode_record(metadata, audio)
        try:
            self._writer.write(record)
        except RuntimeError as error:
            raise _as_os_error(error, self.path) from error
        self.sizes.append(len(record))

    def finish(self) -> tuple[ShardInfo, list[tuple[int, int]]]:
        """Complete, verify and rename the shard; return its index entry, and offset and size of each record's bytes.

        Raises OSError, and ShardError where a record does not read back as it was written.
        """
        try:
            self._writer.close()
        except RuntimeError as error:
            raise _as_os_error(error, self.path) from error
        ranges = list(_find_records(self._temporary, self.sizes))
        info = ShardInfo(self._temporary.stat().st_size, _read_back(self._temporary, ranges), len(self.sizes))
        whole_file.commit(self._temporary, self.path)
        return info, ranges


def _as_os_error(error: RuntimeError, path: Path) -> OSError:
    """Turn an error of the library's writer, which is text, into the system's error that caused it."""
    text = str(error)
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EACCES):
        if os.strerror(number) in text:
            return OSError(number, os.strerror(number), str(path))
    return OSError(f"{path} cannot be written: {text}")


def _find_records(path: Path, sizes: list[int]) -> Iterator[tuple[int, int]]:
    """Yield offset and size of each record's bytes in the file, including the block headers among them."""
    position = 0  # in the file without its block headers
    with open(path, "rb") as file:
        for size in sizes:
            kind = b""
            while kind != b"r":  # other chunks: signature, metadata, padding
                header = _read(file, position, CHUNK_HEADER)
                kind = header[24:25]
                end = position + CHUNK_HEADER + int.from_bytes(header[8:16], "little")
                if not kind or (kind == b"r" and end - size < position + CHUNK_HEADER):
                    raise ShardError(
                        f"{path}: no chunk at the expected offset; this version of array_record writes another format"
                    )
                position = end
            begin = _file_offset(end - size)  # the record is at the end of its chunk
            yield begin, _file_offset(end - 1) + 1 - begin


def _file_offset(position: int) -> int:
    return position // _BLOCK_DATA * BLOCK + BLOCK_HEADER + position % _BLOCK_DATA


def _read(file: BinaryIO, position: int, size: int) -> bytes:
    begin = _file_offset(position)
    file.seek(begin)
    return strip_block_headers(file.read(size + BLOCK_HEADER), begin)[:size]


def _read_back(path: Path, ranges: list[tuple[int, int]]) -> str:
    """Verify each record of a finished shard; return the SHA-256 of the file. Raises ShardError."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for number, (begin, size) in enumerate(ranges):
            gap = begin - file.tell()
            content = file.read(gap + size)
            digest.update(content)
            check_record(strip_block_headers(content[gap:], begin), f"{path}#{number}")
        while content := file.read(HASH_BLOCK):
            digest.update(content)
    return digest.hexdigest()
