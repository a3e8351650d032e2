"""How many processes or threads the machine has room for."""

import os


def usable_cores() -> int:
    """Count the cores that this process may use, fewer than the machine's in a batch job."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
