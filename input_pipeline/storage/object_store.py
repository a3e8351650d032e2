"""Objects in a store (s3://bucket/..., gs://bucket/...), through fsspec: read, in ranges too, download, upload.

S3 needs `pip install s3fs`, Google's store `pip install gcsfs`. Credentials are found where those look for them: the
environment, their files, the machine's role; AWS_ENDPOINT_URL names another S3-compatible server.
"""

import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

PIECE_BYTES = 8 << 20  # of a download: so much at most is fetched again when the connection breaks
ATTEMPTS = 3  # at a store that has never answered: perhaps its address is wrong
PATIENT_ATTEMPTS = 8  # at one that has: over a minute, for a network that is down should not end a training
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 16.0
INSTALL = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "http": "aiohttp",
    "https": "aiohttp",
}
NO_STORES = ("ftp", "sftp", "ssh", "smb")  # fsspec knows them, but makes nothing of an address alone
Result = TypeVar("Result")

logger = logging.getLogger("input_pipeline")


class ObjectStoreError(OSError):
    """An object that cannot be read or written; the message says why and what to do."""


class Missing(ObjectStoreError):
    """There is no such object or bucket."""


class Stopped(Exception):
    """The caller asked to stop."""


def is_remote(path: str | os.PathLike) -> bool:
    """Tell an object's address from a path."""
    return "://" in os.fspath(path)


def check_address(path: str) -> None:
    """Refuse `s3:/bucket`, which would be a folder of this name here. Raises ObjectStoreError."""
    protocol, colon, rest = path.partition(":")
    if colon and protocol in INSTALL and not rest.startswith("//"):
        raise ObjectStoreError(f"{path} lacks a slash: write {protocol}://{rest.lstrip('/')}")


def read(url: str, begin: int = 0, size: int | None = None) -> bytes:
    """Return an object's content, or `size` bytes of it from `begin` on.

    A transfer that breaks is tried again. Raises ObjectStoreError, also where the object ends before.
    """
    if size is None:
        return _patiently(lambda: _store(url).cat_file(url), url)
    content = _patiently(lambda: _store(url).cat_file(url, start=begin, end=begin + size), url)
    if len(content) < size:
        raise ObjectStoreError(
            f"{url} ends early: {begin + len(content):,} bytes, where {begin + size:,} are needed; upload it again"
        )
    return content


def size_of(url: str) -> int:
    """Return the bytes of an object. Raises ObjectStoreError, Missing where there is none."""

    def ask() -> int:
        store = _store(url)
        store.invalidate_cache()  # else it answers from what it has listed before
        return int(store.info(url)["size"])

    return _patiently(ask, url)


def exists(url: str) -> bool:
    """Tell whether there is such an object. Raises ObjectStoreError where the store cannot be asked."""
    try:
        size_of(url)
    except Missing:
        return False
    return True


def lines(url: str) -> Iterator[bytes]:
    """Yield the lines of an object, without their ends. Raises ObjectStoreError."""
    size, rest = size_of(url), b""
    for begin in range(0, size, PIECE_BYTES):
        *whole, rest = (rest + read(url, begin, min(PIECE_BYTES, size - begin))).split(b"\n")
        yield from whole
    if rest:
        yield rest


def download(url: str, part: Path, size: int, stop: threading.Event | None = None) -> None:
    """Fetch an object of known size to a partial file, from where the file ends.

    What arrived stays for the next attempt. Raises ObjectStoreError, OSError of the local disk, Stopped.
    """
    with open(part, "ab") as file:
        have = file.tell()
        if have > size:
            file.truncate(0)
            have = 0
        while have < size:
            if stop is not None and stop.is_set():
                raise Stopped
            piece = read(url, have, min(PIECE_BYTES, size - have))
            file.write(piece)
            file.flush()
            have += len(piece)
        os.fsync(file.fileno())


def upload(path: Path, url: str) -> None:
    """Store a local file as an object, which stands under its name only when it is whole. Raises ObjectStoreError."""
    _patiently(lambda: _store(url).put_file(str(path), url), url)
    size, stored = path.stat().st_size, size_of(url)
    if stored != size:
        raise ObjectStoreError(f"{url} has {stored:,} bytes after the upload, not {size:,}; upload it again")


def join(folder: str, name: str) -> str:
    """Put a name into a folder, local or in a store."""
    return f"{folder.rstrip('/')}/{name}" if is_remote(folder) else os.path.join(folder, name)


def _store(url: str) -> Any:
    """Return fsspec's file system for an address; made once in a process."""
    protocol = url.partition("://")[0]
    try:
        import fsspec  # takes a tenth of a second, and comes with each store's package

        if protocol in NO_STORES:
            raise ValueError(protocol)
        return fsspec.filesystem(protocol)
    except ImportError as error:
        package = INSTALL.get(protocol, f"fsspec's package for {protocol}://")
        raise ObjectStoreError(f"{url} needs {package}: pip install {package}") from error
    except ValueError as error:
        raise ObjectStoreError(f"{url}: there is no store {protocol}://; use s3:// or gs://") from error


_answered: set[str] = set()  # protocols


def _patiently(call: Callable[[], Result], url: str) -> Result:
    """Call, again after a pause where the connection failed; raise ObjectStoreError for what waiting does not mend."""
    protocol = url.partition("://")[0]
    attempts = PATIENT_ATTEMPTS if protocol in _answered else ATTEMPTS
    for attempt in range(1, attempts + 1):
        try:
            result = call()
            _answered.add(protocol)
            return result
        except ObjectStoreError:
            raise
        except FileNotFoundError as error:
            raise Missing(f"{url} does not exist ({error}); check bucket and path") from error
        except PermissionError as error:
            raise ObjectStoreError(f"{url} may not be used ({error}); check credentials and rights") from error
        except Exception as error:  # each store has exceptions of its own
            if isinstance(error, OSError) and error.errno == errno.EINVAL:  # S3: no byte of the object is in the range
                raise ObjectStoreError(f"{url} ends before the bytes asked for; upload it again") from error
            kind = type(error).__name__
            if "Credential" in kind or "Token" in kind or "RefreshError" in kind:
                raise ObjectStoreError(f"{url}: no credentials ({error}); log in to the store first") from error
            if "Validation" in kind:
                raise ObjectStoreError(f"{url} is no valid address ({error}); write s3://bucket/path") from error
            if attempt == attempts:
                raise ObjectStoreError(
                    f"{url}: the store cannot be reached ({error}); check network and address, then run again"
                ) from error
            if attempt == ATTEMPTS:
                logger.warning("%s: the store does not answer (%s); trying again for a minute", url, error)
            time.sleep(min(FIRST_PAUSE_S * 2 ** (attempt - 1), LONGEST_PAUSE_S))
    raise AssertionError("the last attempt returns or raises")
