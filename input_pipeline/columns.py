"""Columns of text: a million strings as one run of bytes and their offsets.

As Python objects they would take three times the memory, and seconds to be sent to a worker process.
"""

import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np

ENCODING, ERRORS = "utf-8", "surrogatepass"  # JSON can hold halves of surrogate pairs
AT_ONCE = 8192  # rows that are Python objects at a time


class Strings(Sequence[str]):
    """Strings, kept as UTF-8 end to end; rows are made when they are asked for."""

    __slots__ = ("_content", "_ends")

    def __init__(self, values: Iterable[str] = ()):
        self._content = bytearray()
        self._ends = array("q")
        for value in values:
            self.append(value)

    @classmethod
    def joined(cls, parts: Sequence["Strings"]) -> "Strings":
        """Put columns behind each other."""
        if len(parts) == 1:
            return parts[0]
        column = cls()
        for part in parts:
            column._ends.frombytes((part.offsets()[1:] + len(column._content)).tobytes())
            column._content += part._content
        return column

    def append(self, value: str) -> None:
        """Add a row."""
        self._content += value.encode(ENCODING, ERRORS)
        self._ends.append(len(self._content))

    def holds(self, text: str) -> bool:
        """Tell whether any row has this text in it (or two neighbours have, together)."""
        return text.encode(ENCODING, ERRORS) in self._content

    def offsets(self) -> np.ndarray:
        """Byte where each row starts, and the end of the last: [N + 1] int64."""
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
        place = range(len(self))[row]  # negative rows count from the end; others outside raise IndexError
        start = self._ends[place - 1] if place else 0
        return self._content[start : self._ends[place]].decode(ENCODING, ERRORS)

    def __iter__(self) -> Iterator[str]:
        start, content = 0, self._content
        for end in self._ends:
            yield content[start:end].decode(ENCODING, ERRORS)
            start = end

    def take(self, rows: np.ndarray) -> "Strings":
        """Keep these rows [n], in this order."""
        column, offsets = Strings(), self.offsets()
        rows = np.asarray(rows, np.int64)
        starts, ends = offsets[:-1][rows], offsets[1:][rows]
        column._ends.frombytes(np.cumsum(ends - starts).tobytes())
        content = memoryview(self._content)
        for first in range(0, len(rows), AT_ONCE):
            part = slice(first, first + AT_ONCE)
            pieces = zip(starts[part].tolist(), ends[part].tolist(), strict=True)
            column._content += b"".join([content[start:end] for start, end in pieces])
        return column

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Strings):
            return self._content == other._content and self._ends == other._ends
        if isinstance(other, Sequence) and not isinstance(other, str):
            return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]  # it can be appended to

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
    """Dictionaries, kept as JSON; a row is made anew each time it is asked for."""

    __slots__ = ("_json",)

    def __init__(self, values: Iterable[dict] = ()):
        self._json = Strings()
        for value in values:
            self.append(value)

    @classmethod
    def joined(cls, parts: Sequence["Objects"]) -> "Objects":
        """Put columns behind each other."""
        column = cls()
        column._json = Strings.joined([part._json for part in parts])
        return column

    def append(self, value: dict) -> None:
        """Add a row."""
        self._json.append(json.dumps(value) if value else "")

    def __len__(self) -> int:
        return len(self._json)

    def __getitem__(self, row):
        if isinstance(row, slice):
            return self.take(np.arange(len(self))[row])
        text = self._json[row]
        return json.loads(text) if text else {}

    def take(self, rows: np.ndarray) -> "Objects":
        """Keep these rows [n], in this order."""
        column = Objects()
        column._json = self._json.take(rows)
        return column


def json_list_chunks(values: Iterable[str]) -> Iterator[bytes]:
    """Yield the bytes of `json.dumps(list(values))` piece by piece."""
    yield b"["
    part: list[str] = []
    first = True
    for value in values:
        part.append(value)
        if len(part) == AT_ONCE:
            yield _inside(part, first)
            part, first = [], False
    yield (_inside(part, first) if part else b"") + b"]"


def _inside(part: list[str], first: bool) -> bytes:
    return (b"" if first else b", ") + json.dumps(part)[1:-1].encode()
