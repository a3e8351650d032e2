"""What to do about errors of the file system, which say only what failed."""

import errno
import os

FULL = (errno.ENOSPC, errno.EDQUOT)
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR)


def describe(error: OSError, path: str | os.PathLike) -> str:
    """Describe an error while writing a path: what is wrong, where, what to do."""
    if error.errno in FULL:
        return f"{os.fspath(path)}: the disk is full; free some space and run the same command again"
    return f"{os.fspath(path)}: cannot be written ({error.strerror or error}); choose a folder that can be"


def advice(error: Exception, option: str) -> str:
    """Return what to append to an error's message: `option` names the folder to write; '' for other errors."""
    number = error.errno if isinstance(error, OSError) else None
    if number in FULL:
        return "; free some space and run the same command again"
    return f"; choose a folder that can be written with {option}" if number in UNWRITABLE else ""
