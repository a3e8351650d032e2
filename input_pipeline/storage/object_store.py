"""Objects in a store (s3://bucket/..., gs://bucket/...), through fsspec: read whole or in ranges, download, upload.

S3 needs `pip install s3fs`, Google's store `pip install gcsfs`. These find credentials in the environment, in their
configuration files or in the machine's role; AWS_ENDPOINT_URL names another S3-compatible server.
"""

import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from input_pipeline.storage import whole_file

PIECE_BYTES = 8 << 20  # of a download: at most this much is fetched again after a broken connection
ATTEMPTS = 3  # at a store that has not answered yet: the address may be wrong
PATIENT_ATTEMPTS = 8  # at one that has, over more than a minute: a short network failure should not end a training
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
UNSUPPORTED = ("ftp", "sftp", "ssh", "smb")  # fsspec has them, but needs more than an address
Result = TypeVar("Result")

logger = logging.getLogger("input_pipeline")


class ObjectStoreError(OSError):
    """An object that cannot be read or written; the message says why and what to do."""


class Missing(ObjectStoreError):
    """The object or its bucket does not exist."""


class Stopped(Exception):
    """The caller asked a download to stop."""


def is_remote(path: str | os.PathLike) -> bool:
    """Tell whether a path is an object's address."""
    return "://" in os.fspath(path)


def check_address(path: str) -> None:
    """Raise ObjectStoreError for `s3:/bucket`, which would be a local folder of that name."""
    protocol, colon, rest = path.partition(":")
    if colon and protocol in INSTALL and not rest.startswith("//"):
        raise ObjectStoreError(f"{path} lacks a slash: write {protocol}://{rest.lstrip('/')}")


def read(url: str, begin: int = 0, size: int | None = None) -> bytes:
    """Return an object's content, or `size` bytes of it starting at `begin`; a broken transfer is repeated.

    Raises ObjectStoreError, also where the object has fewer bytes.
    """
    if size is None:
        return _retry(lambda: _file_system(url).cat_file(url), url)
    content = _retry(lambda: _file_system(url).cat_file(url, start=begin, end=begin + size), url)
    if len(content) < size:
        raise ObjectStoreError(
            f"{url} ends early: {begin + len(content):,} bytes, where {begin + size:,} are needed; upload it again"
        )
    return content


def size_of(url: str) -> int:
    """Return the size of an object in bytes. Raises ObjectStoreError, Missing where there is no such object."""

    def ask() -> int:
        file_system = _file_system(url)
        file_system.invalidate_cache()  # else it may answer from an earlier listing
        return int(file_system.info(url)["size"])

    return _retry(ask, url)


def exists(url: str) -> bool:
    """Tell whether an object exists. Raises ObjectStoreError where the store cannot be asked."""
    try:
        size_of(url)
    except Missing:
        return False
    return True


def lines(url: str) -> Iterator[bytes]:
    """Yield the lines of an object without their line ends. Raises ObjectStoreError."""
    size, rest = size_of(url), b""
    for begin in range(0, size, PIECE_BYTES):
        *complete, rest = (rest + read(url, begin, min(PIECE_BYTES, size - begin))).split(b"\n")
        yield from complete
    if rest:
        yield rest


def download(url: str, part: Path, size: int, stop: threading.Event | None = None) -> None:
    """Append to a partial file what it lacks of an object of known size.

    What has arrived is kept for the next attempt. Raises ObjectStoreError; OSError of the local disk; Stopped.
    """
    with whole_file.open_in_place(part, "ab") as file:
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
    """Store a local file as an object, which is visible only when it is complete. Raises ObjectStoreError."""
    _retry(lambda: _file_system(url).put_file(str(path), url), url)
    size, stored = path.stat().st_size, size_of(url)
    if stored != size:
        raise ObjectStoreError(f"{url} has {stored:,} bytes after the upload instead of {size:,}; upload it again")


def join(folder: str, name: str) -> str:
    """Append a name to a folder, local or in a store."""
    return f"{folder.rstrip('/')}/{name}" if is_remote(folder) else os.path.join(folder, name)


def _file_system(url: str) -> Any:
    """Return fsspec's file system for an address; fsspec makes one for each process. Raises ObjectStoreError."""
    protocol = url.partition("://")[0]
    try:
        import fsspec  # takes a tenth of a second, and comes with each store's package

        if protocol in UNSUPPORTED:
            raise ValueError(protocol)
        return fsspec.filesystem(protocol)
    except ImportError as error:
        package = INSTALL.get(protocol, f"fsspec's package for {protocol}://")
        raise ObjectStoreError(f"{url} needs {package}: pip install {package}") from error
    except ValueError as error:
        raise ObjectStoreError(f"{url}: there is no store {protocol}://; use s3:// or gs://") from error


_answered: set[str] = set()  # protocols


def _retry(call: Callable[[], Result], url: str) -> Result:
    """Call a function, again after a pause if the connection failed. Raises ObjectStoreError."""
    protocol = url.partition("://")[0]
    attempts = PATIENT_ATTEMPTS if protocol in _answered else ATTEMPTS
    for attempt in range(1, attempts + 1):
        try:
            result = call()
            _answered.add(protocol)
            return result
        except ObjectStoreError:
            raise
        except Exception as error:  # each store has exceptions of its own
            if permanent := _permanent_fault(error, url):
                raise permanent from error
            if attempt == attempts:
                raise ObjectStoreError(
                    f"{url}: the store cannot be reached ({error}); check network and address, then run again"
                ) from error
            if attempt == ATTEMPTS:
                logger.warning("%s: the store does not answer (%s); trying again for a minute", url, error)
            time.sleep(min(FIRST_PAUSE_S * 2 ** (attempt - 1), LONGEST_PAUSE_S))
    raise AssertionError("the last attempt returns or raises")


def _permanent_fault(error: Exception, url: str) -> ObjectStoreError | None:
    """Describe an error that another attempt would meet again; None for a failed connection."""
    if isinstance(error, FileNotFoundError):
        return Missing(f"{url} does not exist ({error}); check bucket and path")
    if isinstance(error, PermissionError):
        return ObjectStoreError(f"{url}: access denied ({error}); check credentials and permissions")
    if isinstance(error, OSError) and error.errno == errno.EINVAL:  # S3: the range begins behind the object's end
        return ObjectStoreError(f"{url} ends before the requested bytes; upload it again")
    kind = type(error).__name__
    if "Credential" in kind or "Token" in kind or "RefreshError" in kind:
        return ObjectStoreError(f"{url}: no credentials ({error}); log in to the store first")
    if "Validation" in kind:
        return ObjectStoreError(f"{url} is not a valid address ({error}); write s3://bucket/path")
    return None
