"""Keeps the memory of a server flat."""

import ctypes
import gc
import sys

M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
LARGE_BYTES = 1 << 20


def return_large_blocks() -> None:
    """Let glibc return blocks of LARGE_BYTES to the system when they are freed.

    By default, it raises this limit when such a block is freed, up to 32 MB; uploads and large messages then leave gaps
    between the blocks of live sessions.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)


def ignore_what_stays() -> None:
    """Let garbage collections ignore the objects there are: they become short, and find cycles of connections sooner."""
    gc.collect()
    gc.freeze()
