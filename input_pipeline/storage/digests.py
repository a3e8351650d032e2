"""SHA-256 digests stored beside files in the format of `sha256sum`, so that damage is found before a file is used.

A folder lists its files in SHA256SUMS. A file that stands alone has its digest in FILE.sha256.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from input_pipeline.storage import whole_file

LISTING = "SHA256SUMS"
SUFFIX = ".sha256"  # of the listing of a single file
CHUNK_BYTES = 1 << 20
_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


class DamagedFileError(ValueError):
    """A file that is missing or differs from its digest; the message names it and says what to do."""


def digest(file: Any) -> str:
    """Return the SHA-256 of a file, a local path or an etils path. Raises OSError."""
    value = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(CHUNK_BYTES):
            value.update(block)
    return value.hexdigest()


def read(listing: Any) -> dict[str, str]:
    """Return the digests of a listing by the names of their files; empty without one. Raises DamagedFileError."""
    if not listing.exists():
        return {}
    matches = [_LINE.fullmatch(line) for line in _text(listing).splitlines()]
    if not all(matches) or not matches:
        raise DamagedFileError(f"{listing} is damaged: copy its folder again, or remove it to do without digests")
    return {match[2]: match[1] for match in matches if match}


def _text(listing: Any) -> str:
    try:
        return listing.read_bytes().decode()
    except (OSError, UnicodeDecodeError):
        return "?"


def write(listing: Any, values: Mapping[str, str]) -> None:
    """Write a listing whole or not at all; without values, remove it. Raises OSError."""
    if not values:
        listing.unlink(missing_ok=True)
        return
    whole_file.write_text(listing, "".join(f"{value}  {name}\n" for name, value in sorted(values.items())))


def of_files(folder: Any, names: Iterable[str]) -> dict[str, str]:
    """Return the digests of these files of a folder. Raises OSError."""
    return {name: digest(folder / name) for name in names}


def check(folder: Any, values: Mapping[str, str]) -> None:
    """Compare files of a folder with their digests. Raises DamagedFileError naming the first one that differs."""
    for name, expected in values.items():
        file = folder / name
        try:
            actual = digest(file)
        except OSError as error:
            reason = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
            raise DamagedFileError(f"{file} {reason}, but has a digest: copy it again") from error
        if actual != expected:
            raise DamagedFileError(f"{file} is damaged: its SHA-256 is not the stored one")


def write_for(file: Path) -> None:
    """Write the digest of a file that stands alone beside it. Raises OSError."""
    write(file.with_name(file.name + SUFFIX), {file.name: digest(file)})


def stored_for(file: Path) -> str | None:
    """Return the stored digest of a file, from FILE.sha256 or its folder's SHA256SUMS. Raises DamagedFileError."""
    for listing in (file.with_name(file.name + SUFFIX), file.with_name(LISTING)):
        if value := read(listing).get(file.name):
            return value
    return None
