"""Where the samples of a WAV, AIFF or AU file are, by its header and by its size.

A recorder writes the size of the samples when it closes the file: if it was killed, the header states 0 or an early size.
Formats: Multimedia Programming Interface and Data Specifications 1.0 (RIFF); Audio Interchange File Format 1.3.
"""

import io
from typing import BinaryIO, Literal, NamedTuple

NO_SIZE = 0x7FFF0000  # programs that write to a pipe state a size from here on, as they do not know it
_LARGEST = 0xFFFFFFFF
_SLACK_SHARE, _SLACK_BYTES = 0.01, 512  # of bytes behind the samples that belong to no chunk, such as tags
_TAGS = (b"TAG", b"ID3", b"APE")
_LOOK = 1 << 16  # bytes looked at to tell padding from samples
_Order = Literal["little", "big"]
_AU: dict[bytes, _Order] = {b".snd": "big", b"dns.": "little"}


class Layout(NamedTuple):
    """The samples of one file among those joined end to end."""

    start: int  # of the file
    end: int
    begin: int  # of the samples
    size_at: int  # where their size is stated
    stated: int  # bytes of samples by the header
    present: int  # bytes of samples by the size of the file and the chunks behind them
    order: _Order
    extra: int  # bytes that the stated size includes besides the samples

    @property
    def is_longer(self) -> bool:
        """Whether there are more samples than the header states."""
        return self.present > self.stated

    def patch(self) -> tuple[int, bytes]:
        """Return the place of the size, and the bytes that state the true one."""
        return self.size_at - self.start, min(self.present + self.extra, _LARGEST).to_bytes(4, self.order)


def layouts(file: BinaryIO) -> list[Layout]:
    """Return the layout of a WAV, AIFF or AU file, or of each if several were joined; [] for other files, or without samples."""
    size, start, found = file.seek(0, io.SEEK_END), 0, []
    while start < size:
        layout = _layout(file, start, size)
        if layout is None:
            break
        found.append(layout)
        start = layout.end
    return found


def _layout(file: BinaryIO, start: int, size: int) -> Layout | None:
    head = _read(file, start, 12)
    if head[:4] in _AU:
        return _au_layout(file, start, size)
    kinds: dict[bytes, tuple[bytes, int, _Order]] = {
        b"RIFFWAVE": (b"data", 0, "little"),
        b"FORMAIFF": (b"SSND", 8, "big"),
    }
    kinds[b"FORMAIFC"] = kinds[b"FORMAIFF"]
    samples, extra, order = kinds.get(head[:4] + head[8:], (b"", 0, "little"))
    position = start + 12
    while samples and position + 8 <= size:
        chunk = _read(file, position, 8)
        stated, begin = int.from_bytes(chunk[4:], order), position + 8 + extra
        if chunk[:4] == samples:
            stated = max(0, stated - extra)
            rest, end = _behind(file, begin + stated, size, order)
            present = stated
            if begin + stated > size:
                present, end = max(0, size - begin), size
            elif _is_samples(_read(file, rest, min(end - rest, _LOOK)), end - rest, stated):
                present = end - begin
            return Layout(start, end, begin, position + 4, stated, present, order, extra)
        position += 8 + stated + stated % 2
    return None


def _au_layout(file: BinaryIO, start: int, size: int) -> Layout | None:
    """Return the layout of an AU file, whose samples go on to its end."""
    head = _read(file, start, 12)
    order, size_at = _AU[head[:4]], start + 8
    begin, stated = start + int.from_bytes(head[4:8], order), int.from_bytes(head[8:], order)
    if len(head) < 12 or begin >= size:
        return None
    rest, present = begin + stated, min(stated, size - begin)
    if rest < size and _is_samples(_read(file, rest, min(size - rest, _LOOK)), size - rest, stated):
        present = size - begin
    return Layout(start, size, begin, size_at, stated, present, order, 0)


def _behind(file: BinaryIO, position: int, size: int, order: _Order) -> tuple[int, int]:
    """Return where the chunks that follow end, and where the next file begins (or the size)."""
    while position + 8 <= size:
        for padded in (position + position % 2, position):
            chunk = _read(file, padded, 8)
            length = int.from_bytes(chunk[4:], order)
            if chunk[:4] in (b"RIFF", b"FORM") and _read(file, padded + 8, 4) in (b"WAVE", b"AIFF", b"AIFC"):
                return padded, padded
            if len(chunk) == 8 and all(32 <= byte < 127 for byte in chunk[:4]) and padded + 8 + length <= size:
                position = padded + 8 + length
                break
        else:
            break
    return min(position, size), size


def _is_samples(content: bytes, size: int, stated: int) -> bool:
    """Tell whether what belongs to no chunk is audio: too long for a tag, and not zeros to fill up a block."""
    return size > max(_SLACK_BYTES, _SLACK_SHARE * stated) and not content.startswith(_TAGS) and any(content)


def _read(file: BinaryIO, position: int, size: int) -> bytes:
    file.seek(position)
    return file.read(size)


class View(io.RawIOBase):
    """A part of a file, with some of its bytes replaced; the file itself stays as it is."""

    def __init__(self, file: BinaryIO, start: int, end: int, place: int = 0, replacement: bytes = b""):
        self._file, self._start, self._size = file, start, end - start
        self._place, self._replacement, self._position = place, replacement, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer) -> int:
        wanted = max(0, min(len(buffer), self._size - self._position))
        content = bytearray(_read(self._file, self._start + self._position, wanted))
        for index, byte in enumerate(self._replacement, start=self._place - self._position):
            if 0 <= index < len(content):
                content[index] = byte
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)
