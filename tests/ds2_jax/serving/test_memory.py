"""Freed blocks go back to the system; run in a process of its own, as what collections ignore lasts."""

import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, gc, os
from benchmarks.measure import resident_memory_mb
from ds2_jax.serving import memory

memory.ignore_what_stays()
assert gc.get_freeze_count() > 1000
memory.EVERY_S = 0.1
bytearray(20_000_000)  # freed at once: glibc then takes 8 MB from its heap
kept = []
for _ in range(10):
    message = bytearray(b"x") * 8_000_000
    kept.append(bytearray(200_000))  # a smaller block between them
    kept.append(message)
del kept[1::2], message
before_mb = resident_memory_mb(os.getpid())


async def wait():
    task = asyncio.create_task(memory.return_freed())
    await asyncio.sleep(1)
    task.cancel()


asyncio.run(wait())
print(before_mb - resident_memory_mb(os.getpid()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_gaps_of_large_messages_are_returned():
    result = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True)
    assert float(result.stdout) > 20
