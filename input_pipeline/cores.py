"""How many cores there are to work on."""

import math
import os

from input_pipeline import cgroup

THREADS = (
    "PJRT_NPROC",
    "OPENBLAS_NUM_THREADS",
    "OMP_NUM_THREADS",
)  # variables that XLA and BLAS read as they are loaded


def usable_cores() -> int:
    """Return the number of cores that this process may use; a batch job or a container may have fewer than the machine."""
    quota = cgroup.core_quota()
    return _bound_cores() if quota is None else max(1, min(_bound_cores(), math.ceil(quota)))


def limit_libraries() -> None:
    """Let XLA and BLAS start no more threads than there are usable cores; call it before they are loaded.

    They look at the cores that the process is bound to, not at the quota of its cgroup. Variables that are set stay.
    """
    if usable_cores() < _bound_cores():
        for name in THREADS:
            os.environ.setdefault(name, str(usable_cores()))


def _bound_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
