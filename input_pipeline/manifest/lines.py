"""The lines of a manifest file, local or in an object store, as JSON objects; what is not a manifest is named."""

import json
import os
from collections.abc import Iterable, Iterator

from input_pipeline.storage import json_line, object_store
from input_pipeline.storage.file_kind import (
    HEAD_BYTES,
    RECORDS,
    WESTERN,
    FileKind,
    describe_conversion,
    kind_of,
    open_binary,
    peek_kind,
)

KEYS = ("audio_filepath", "duration", "text")
MAX_QUOTED = 80  # characters of an invalid line or value in a message
READABLE = ("json lines", "text", "empty", "binary")  # binary, text: the message names the line


class ManifestError(ValueError):
    """A manifest that cannot be used; the message names file and line and says what to do."""


def records(path: str | os.PathLike) -> Iterator[dict]:
    """Yield the records of a manifest, unchanged. Raises ManifestError."""
    name = os.path.expanduser(os.fspath(path))
    for number, raw in numbered(raw_lines(name)):
        yield parse_line(raw, f"{name}:{number}")


def numbered(lines: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield number and content of the lines that are not blank."""
    for number, raw in enumerate(lines, start=1):
        # Editors on Windows start a file with a byte order mark, which json.loads rejects.
        raw = raw.removeprefix(b"\xef\xbb\xbf").strip() if number == 1 else raw.strip()
        if raw:
            yield number, raw


def raw_lines(name: str) -> Iterator[bytes]:
    """Yield the lines of a manifest file. Raises ManifestError, also for a file of another kind."""
    try:
        if object_store.is_remote(name):
            size = object_store.size_of(name)
            kind = kind_of(object_store.read(name, 0, min(size, HEAD_BYTES)), whole=size <= HEAD_BYTES)
            _check_kind(name, kind)
            yield from object_store.lines(name)
            return
        with open_binary(name) as file:
            kind = peek_kind(file)
            _check_kind(name, kind)
            yield from file.read().split(b"\r") if kind.carriage_returns else file
    except object_store.ObjectStoreError as error:
        raise ManifestError(f"manifest {error}") from error
    except FileNotFoundError as error:
        raise ManifestError(f"manifest {name} does not exist; check the path") from error
    except OSError as error:
        raise ManifestError(f"manifest {name} cannot be read: {error.strerror}; name a file you may read") from error


def _check_kind(name: str, kind: FileKind) -> None:
    """Raise ManifestError for a file that is not JSON lines, with the command that converts it."""
    lines = kind.form in READABLE and kind.encoding in ("utf-8-sig", WESTERN)  # for the latter, lines are named
    if lines and not kind.compression:
        return
    if kind.form in RECORDS:
        raise ManifestError(
            f"{name} is {kind}, not a manifest of one JSON object per line in UTF-8; convert it: {describe_conversion(name)}"
        )
    raise ManifestError(
        f"{name} is {kind}, not a manifest; name a file with one JSON object per line, with the keys {', '.join(KEYS)}"
    )


def parse_line(raw: bytes, where: str) -> dict:
    """Return the object of a line. Raises ManifestError, also for a key with two values."""
    try:
        record = json_line.decode(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ManifestError(
            f"{where}: not UTF-8 ({error.reason}); save the file as UTF-8 (Western European text: iconv -f WINDOWS-1252 "
            "-t UTF-8 FILE > NEW)"
        ) from error
    except json_line.RepeatedKeyError as error:
        raise ManifestError(f"{where}: {error}; remove one of them") from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise ManifestError(
            f"{where}: not JSON ({error}): {quote(raw.decode())}; correct or remove the line"
        ) from error
    if not isinstance(record, dict):
        raise ManifestError(f"{where}: a {type(record).__name__} instead of a JSON object; correct or remove the line")
    return record


def quote(value: object) -> str:
    """Return a value for a message, cut if it is long."""
    quoted = repr(value)
    return quoted if len(quoted) <= MAX_QUOTED else quoted[: MAX_QUOTED - 3] + "..."
