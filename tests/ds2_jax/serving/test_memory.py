"""Freed blocks go back to the system; run in a process of its own, as both settings last."""

import subprocess
import sys

import pytest

PROGRAM = """
import gc, os
from benchmarks.measure import resident_memory_mb
from ds2_jax.serving import memory

if {fixed}:
    memory.return_large_blocks()
memory.ignore_what_stays()
assert gc.get_freeze_count() > 1000
bytearray(20_000_000)  # freed at once: by default, glibc then takes 8 MB from its heap
kept = []
for _ in range(10):
    message = bytearray(b"x") * 8_000_000
    kept.append(bytearray(200_000))  # a smaller block between them
    kept.append(message)
del kept[1::2], message
print(resident_memory_mb(os.getpid()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_gaps_of_large_messages_are_returned():
    default, fixed = (
        float(
            subprocess.run(
                [sys.executable, "-c", PROGRAM.format(fixed=fixed)], check=True, capture_output=True, text=True
            ).stdout
        )
        for fixed in (False, True)
    )
    assert fixed < default - 20
