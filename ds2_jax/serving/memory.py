"""Keeps the memory of a server flat."""

import asyncio
import ctypes
import gc
import sys

EVERY_S = 10.0


async def return_freed() -> None:
    """Return freed memory to the system now and then: glibc keeps the gaps that large messages leave between live blocks.

    A fixed limit for large blocks (M_MMAP_THRESHOLD) would leave no gaps, but take 8 % of the time of the network, whose
    buffers would be new ones each time.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    while trim is not None:
        await asyncio.sleep(EVERY_S)
        await asyncio.to_thread(trim, 0)


def ignore_what_stays() -> None:
    """Let garbage collections ignore the objects there are: they become short, and find cycles of connections sooner."""
    gc.collect()
    gc.freeze()
