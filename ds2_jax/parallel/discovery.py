"""Discover from flags and the environment how this process was launched with others; nothing is started here.

Checked in this order; the first match wins: flags of main.py and DS2_COORDINATOR, DS2_NUM_PROCESSES, DS2_PROCESS_ID
(missing values come from the launchers below), Slurm, Open MPI, a TPU pod, Kubernetes. Otherwise the process is alone.
"""

import glob
import importlib.util
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

FLAGS = ("coordinator", "num_processes", "process_id")  # their variables are DS2_COORDINATOR and so on
# Variables of each launcher: number of processes, rank of this one.
SLURM = ("SLURM_NTASKS", "SLURM_PROCID")
OPEN_MPI = ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK")
INDEXED_JOB = "JOB_COMPLETION_INDEX"  # set by Kubernetes, also in a JobSet


@dataclass(frozen=True)
class ProcessInfo:
    """Rank, number of processes and coordinator of this process; None for values that JAX determines itself."""

    source: str  # of these values, for messages
    coordinator: str | None = None  # host:port at which process 0 listens
    processes: int | None = None
    process: int | None = None
    devices: tuple[int, ...] | None = None  # indices of this process's GPUs on this machine; None: all


def discover(
    flags: Mapping[str, str], environment: Mapping[str, str] = os.environ, *, on_tpu: bool = False
) -> ProcessInfo | None:
    """Return what is known about this process in a run of several; None if it is alone.

    flags: coordinator, num_processes, process_id, '' if not given. Raises ValueError naming the missing or wrong value.
    """
    given = {name: _read(name, flags, environment) for name in FLAGS}
    if any(given.values()):
        return _from_flags(given, environment)
    if environment.get("SLURM_STEP_NODELIST") and read_integer(environment, SLURM[0]) > 1:
        return _from_launcher("Slurm", SLURM, environment)
    if read_integer(environment, OPEN_MPI[0]) > 1:
        if not environment.get("OMPI_MCA_orte_hnp_uri"):  # set by Open MPI up to 4; JAX reads the address from it
            raise ValueError(
                "this version of Open MPI does not provide the address of process 0: set --coordinator=HOST:PORT "
                "(or DS2_COORDINATOR)"
            )
        return _from_launcher("Open MPI", OPEN_MPI, environment)
    if on_tpu and _is_pod(environment):  # before Kubernetes, which may have started it
        return ProcessInfo("TPU pod")
    if INDEXED_JOB in environment and environment.get("KUBERNETES_SERVICE_HOST"):
        return _from_indexed_job(environment)
    return None


def expected_count(name: str, flags: Mapping[str, str], environment: Mapping[str, str] = os.environ) -> int:
    """Return the required number of processes or devices ('expect_processes', 'expect_devices'); 0: any number."""
    return _parse_integer(f"--{name} (or {_variable(name)})", _read(name, flags, environment) or "0")


def _variable(name: str) -> str:
    return f"DS2_{name.upper()}"


def _read(name: str, flags: Mapping[str, str], environment: Mapping[str, str]) -> str:
    return flags.get(name) or environment.get(_variable(name), "")


def _from_launcher(launcher: str, variables: tuple[str, str], environment: Mapping[str, str]) -> ProcessInfo:
    for variable in variables:
        if not environment.get(variable):
            raise ValueError(
                f"{launcher} started this process, but {variable} is not set: keep the variables that {launcher} sets"
            )
    processes, process = (read_integer(environment, variable) for variable in variables)
    _check_rank(process, processes, variables[1], variables[0])
    return ProcessInfo(launcher, None, processes, process, _select_gpus(environment))


def _from_flags(given: Mapping[str, str], environment: Mapping[str, str]) -> ProcessInfo | None:
    """Use the given values, and a launcher's numbers for the missing ones."""
    sources, values = ["flags or DS2_* variables"], dict(given)
    for launcher, (size, rank) in (("Slurm", SLURM), ("Open MPI", OPEN_MPI), ("Kubernetes", ("", INDEXED_JOB))):
        for name, variable in (("num_processes", size), ("process_id", rank)):
            if not values[name] and environment.get(variable):
                values[name] = environment[variable]
                sources.append(launcher)
    if values["num_processes"] == "1":
        return None
    for name in FLAGS:
        if not values[name]:
            raise ValueError(
                f"--{name} (or {_variable(name)}) is not set: a run of several processes needs all of {', '.join(FLAGS)}"
            )
    processes, process = (_parse_integer(f"--{name}", values[name]) for name in ("num_processes", "process_id"))
    if processes < 1:
        raise ValueError(f"--num_processes is {processes}: use 1 or more")
    _check_rank(process, processes, "--process_id", "--num_processes")
    port = values["coordinator"].rpartition(":")[2]
    if not re.fullmatch(r".+:\d+", values["coordinator"]) or not 0 < int(port) < 1 << 16:
        raise ValueError(
            f"--coordinator is {values['coordinator']!r}: use HOST:PORT, the address at which process 0 listens, with a "
            "port from 1 to 65535"
        )
    devices = _select_gpus(environment)
    return ProcessInfo(", ".join(dict.fromkeys(sources)), values["coordinator"], processes, process, devices)


def _from_indexed_job(environment: Mapping[str, str]) -> ProcessInfo | None:
    """Describe a pod of a Kubernetes indexed job; JAX asks the API for the rest if the package kubernetes is installed."""
    index = read_integer(environment, INDEXED_JOB)
    if importlib.util.find_spec("kubernetes"):
        return ProcessInfo("Kubernetes")
    if index > 0:
        raise ValueError(
            f"this is pod {index} of an indexed job, but the address of pod 0 is unknown: set DS2_COORDINATOR=HOST:PORT "
            "and DS2_NUM_PROCESSES in the manifest, or pip install kubernetes"
        )
    return None


def _is_pod(environment: Mapping[str, str]) -> bool:
    """Return whether this TPU machine is one of several; if the environment does not say, JAX asks the cloud."""
    hosts = environment.get("TPU_PROCESS_ADDRESSES") or environment.get("TPU_WORKER_HOSTNAMES")
    if hosts is not None:
        return "," in hosts or read_integer(environment, "MEGASCALE_NUM_SLICES") > 1
    return not environment.get("TPU_SKIP_MDS_QUERY")


def _select_gpus(environment: Mapping[str, str]) -> tuple[int, ...] | None:
    """Divide this machine's visible GPUs among its processes; None if there are none or the user assigned them.

    By default, JAX gives a process the GPU with the process's rank on the machine: a process alone on a machine gets the
    first of eight GPUs, and the second process gets none if the launcher shows each process only its own GPU.
    """
    if environment.get("JAX_LOCAL_DEVICE_IDS"):
        return None
    visible = environment.get("CUDA_VISIBLE_DEVICES") or environment.get("ROCR_VISIBLE_DEVICES") or ""
    devices = len([name for name in visible.split(",") if name.strip()])
    devices = devices or read_integer(environment, "SLURM_GPUS_ON_NODE") or len(glob.glob("/dev/nvidia[0-9]*"))
    if not devices:
        return None
    size, rank = _local_size_and_rank(environment)
    if devices == 1:
        return (0,)
    if devices % size:
        raise ValueError(
            f"{devices} GPUs cannot be divided among {size} processes on this machine: start one process per machine or "
            "per GPU, or assign the GPUs with JAX_LOCAL_DEVICE_IDS"
        )
    share = devices // size
    return tuple(range(rank * share, (rank + 1) * share))


def _local_size_and_rank(environment: Mapping[str, str]) -> tuple[int, int]:
    """Return the number of processes on this machine and the rank of this one among them."""
    if environment.get("SLURM_STEP_TASKS_PER_NODE") and environment.get("SLURM_NODEID"):
        counts: list[int] = []
        for part in environment["SLURM_STEP_TASKS_PER_NODE"].split(","):  # e.g. 4(x2),3
            count, _, times = part.partition("(x")
            counts += [int(count)] * int(times.rstrip(")") or 1)
        node = read_integer(environment, "SLURM_NODEID")
        if node >= len(counts):
            raise ValueError(
                f"SLURM_NODEID is {node}, but SLURM_STEP_TASKS_PER_NODE={environment['SLURM_STEP_TASKS_PER_NODE']} lists "
                f"{len(counts)} nodes: keep the variables that Slurm sets"
            )
        return counts[node], read_integer(environment, "SLURM_LOCALID")
    if environment.get("OMPI_COMM_WORLD_LOCAL_SIZE"):
        size, rank = (read_integer(environment, f"OMPI_COMM_WORLD_LOCAL_{name}") for name in ("SIZE", "RANK"))
        return size, rank
    return 1, 0


def _check_rank(process: int, processes: int, rank: str, size: str) -> None:
    if not 0 <= process < processes:
        raise ValueError(f"{rank} is {process}, but {size} is {processes}: use 0 to {processes - 1}")


def read_integer(environment: Mapping[str, str], variable: str) -> int:
    """Return the value of a variable, 0 if it is not set. Raises ValueError naming it."""
    return _parse_integer(variable, environment.get(variable) or "0")


def _parse_integer(name: str, value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise ValueError(f"{name} is {value!r}: use a whole number") from None
