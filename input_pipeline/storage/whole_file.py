"""Write a file whole or not at all: under a hidden temporary name first, which then replaces the target.

A process that is killed leaves the target as it was, and its temporary file behind.
"""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast


@contextlib.contextmanager
def open_binary(target: str | os.PathLike) -> Iterator[BinaryIO]:
    """Open a binary file that replaces `target` when the block ends; after an exception, `target` is as it was.

    Readers see either the old content or the new, also after a crash or a power failure. Raises OSError naming `target`.
    """
    with _replacing(Path(target)) as path, open(path, "xb") as file:
        yield file


@contextlib.contextmanager
def open_text(target: str | os.PathLike, *, errors: str | None = None, newline: str | None = None) -> Iterator[TextIO]:
    """Open a UTF-8 text file as `open_binary` does; `errors` and `newline` are those of the built-in `open`."""
    with _replacing(Path(target)) as path, open(path, "x", encoding="utf-8", errors=errors, newline=newline) as file:
        yield file


@contextlib.contextmanager
def temporary_path(target: str | os.PathLike) -> Iterator[Path]:
    """Yield an unused path with the suffix of `target`, for programs that open files themselves, as `open_binary` does."""
    with _replacing(Path(target), Path(target).suffix) as path:
        yield path


def write_text(target: Any, text: str) -> None:
    """Write a text file as `open_text` does, also to an etils path in a store, which writes objects whole. Raises OSError."""
    if "://" in str(target):
        target.write_text(text)
        return
    with open_text(str(target)) as file:
        file.write(text)


def open_in_place(path: str | os.PathLike, mode: str) -> BinaryIO:
    """Open a binary file that keeps its name while it grows, such as a partial download. Raises OSError, also for a link.

    Whoever else may write to the folder could have put the link there, to another file.
    """
    return cast(BinaryIO, open(path, mode, opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o666)))


def commit(path: Path, target: Path) -> None:
    """Rename a finished file to `target` once its content is on the disk. Raises OSError."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())  # else a power failure could leave the new name with no content
    os.replace(path, target)


@contextlib.contextmanager
def _replacing(target: Path, suffix: str = "") -> Iterator[Path]:
    path = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp{suffix}")
    try:
        yield path
        commit(path, target)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(path)):
            raise
        # The error of a full disk names no file; others name the temporary file, which means nothing to the user.
        raise OSError(error.errno, error.strerror, str(target)) from error
    finally:
        with contextlib.suppress(OSError):  # the first error is the one to report
            path.unlink(missing_ok=True)
