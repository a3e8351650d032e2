"""Columns of text: a million strings as one array of bytes with offsets.

As Python objects, they would need three times the memory, and take seconds to send to a worker process.
"""

import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np

ENCODING, ERRORS = "utf-8", "surrogatepass"  # JSON may contain single surrogates
BLOCK_ROWS = 8192  # rows that are Python objects at a time


class Strings(Sequence[str]):
    """Strings, stored as UTF-8 end to end; a row becomes an object when it is read."""

    __slots__ = ("_content", "_ends")

    def __init__(self, values: Iterable[str] = ()):
        self._content = bytearray()
        self._ends = array("q")
        for value in values:
            self.append(value)

    @classmethod
    def concatenate(cls, parts: Sequence["Strings"]) -> "Strings":
        """Return one column of the rows of several."""
        if len(parts) == 1:
            return parts[0]
        column = cls()
        for part in parts:
            column._ends.frombytes((part.offsets()[1:] + len(column._content)).tobytes())
            column._content += part._content
        return column

    def append(self, value: str) -> None:
        """Append a row."""
        self._content += value.encode(ENCODING, ERRORS)
        self._ends.append(len(self._content))

    def contains(self, text: str) -> bool:
        """Tell whether any row contains a text; also true for one that spans the end of a row and the start of the next."""
        return text.encode(ENCODING, ERRORS) in self._content

    def offsets(self) -> np.ndarray:
        """Return the byte at which each row starts, and the end of the last: [N + 1] int64."""
        offsets = np.zeros(len(self._ends) + 1, np.int64)
        offsets[1:] = np.frombuffer(self._ends, np.int64) if self._ends else 0
        return offsets

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> "Strings": ...
    def __getitem__(self, row):
        if isinstance(row, slice):
            return self.take(np.arange(len(self))[row])
        index = range(len(self))[row]  # negative rows count from the end; rows outside raise IndexError
        start = self._ends[index - 1] if index else 0
        return self._content[start : self._ends[index]].decode(ENCODING, ERRORS)

    def __iter__(self) -> Iterator[str]:
        start, content = 0, self._content
        for end in self._ends:
            yield content[start:end].decode(ENCODING, ERRORS)
            start = end

    def take(self, rows: np.ndarray) -> "Strings":
        """Return these rows [n], in this order."""
        column, offsets = Strings(), self.offsets()
        rows = np.asarray(rows, np.int64)
        starts, ends = offsets[:-1][rows], offsets[1:][rows]
        column._ends.frombytes(np.cumsum(ends - starts).tobytes())
        content = memoryview(self._content)
        for first in range(0, len(rows), BLOCK_ROWS):
            part = slice(first, first + BLOCK_ROWS)
            pieces = zip(starts[part].tolist(), ends[part].tolist(), strict=True)
            column._content += b"".join([content[start:end] for start, end in pieces])
        return column

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Strings):
            return self._content == other._content and self._ends == other._ends
        if isinstance(other, Sequence) and not isinstance(other, str):
            return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]  # it is mutable

    def __repr__(self) -> str:
        return f"Strings({len(self)} rows)"

    def __reduce__(self) -> tuple:
        return _restored, (bytes(self._content), self._ends.tobytes())


def _restored(content: bytes, ends: bytes) -> Strings:
    column = Strings()
    column._content += content
    column._ends.frombytes(ends)
    return column


class Objects(Sequence[dict]):
    """Dictionaries, stored as JSON; each access to a row makes a new object."""

    __slots__ = ("_json",)

    def __init__(self, values: Iterable[dict] = ()):
        self._json = Strings()
        for value in values:
            self.append(value)

    @classmethod
    def concatenate(cls, parts: Sequence["Objects"]) -> "Objects":
        """Return one column of the rows of several."""
        column = cls()
        column._json = Strings.concatenate([part._json for part in parts])
        return column

    def append(self, value: dict) -> None:
        """Append a row."""
        self._json.append(json.dumps(value) if value else "")

    def __len__(self) -> int:
        return len(self._json)

    def __getitem__(self, row):
        if isinstance(row, slice):
            return self.take(np.arange(len(self))[row])
        text = self._json[row]
        return json.loads(text) if text else {}

    def take(self, rows: np.ndarray) -> "Objects":
        """Return these rows [n], in this order."""
        column = Objects()
        column._json = self._json.take(rows)
        return column


def json_list_chunks(values: Iterable[str]) -> Iterator[bytes]:
    """Yield the bytes of `json.dumps(list(values))` in pieces."""
    yield b"["
    part: list[str] = []
    first = True
    for value in values:
        part.append(value)
        if len(part) == BLOCK_ROWS:
            yield _inside(part, first)
            part, first = [], False
    yield (_inside(part, first) if part else b"") + b"]"


def _inside(part: list[str], first: bool) -> bytes:
    return (b"" if first else b", ") + json.dumps(part)[1:-1].encode()
