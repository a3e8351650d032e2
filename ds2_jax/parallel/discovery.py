"""Where this process stands among those that work together, read from flags and the environment; nothing is started.

In this order: flags of main.py and DS2_COORDINATOR, DS2_NUM_PROCESSES, DS2_PROCESS_ID (what is not named comes from the
launcher below), Slurm, Open MPI, a TPU pod, Kubernetes; else the process is alone.
"""

import glob
import importlib.util
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

NAMED = ("coordinator", "num_processes", "process_id")  # flags; their variables are DS2_COORDINATOR and so on
# Of each launcher: how many processes there are, and which this one is.
SLURM = ("SLURM_NTASKS", "SLURM_PROCID")
OPEN_MPI = ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK")
INDEXED_JOB = "JOB_COMPLETION_INDEX"  # set by Kubernetes, also in a JobSet


@dataclass(frozen=True)
class Place:
    """This process among the others; None where JAX finds it itself."""

    found_in: str  # what told, for messages
    coordinator: str | None = None  # host:port where process 0 listens
    processes: int | None = None
    process: int | None = None
    devices: tuple[int, ...] | None = None  # of this machine's GPUs, those of this process; None: all


def find(
    flags: Mapping[str, str], environment: Mapping[str, str] = os.environ, *, on_tpu: bool = False
) -> Place | None:
    """Return this process's place, None where it is alone.

    flags: coordinator, num_processes, process_id, '' where not given. Raises ValueError naming what is missing or wrong.
    """
    named = {name: _read(name, flags, environment) for name in NAMED}
    if any(named.values()):
        return _explicit(named, environment)
    if environment.get("SLURM_STEP_NODELIST") and number(environment, SLURM[0]) > 1:
        return _launched("Slurm", SLURM, environment)
    if number(environment, OPEN_MPI[0]) > 1:
        if not environment.get("OMPI_MCA_orte_hnp_uri"):  # of Open MPI up to 4; JAX reads the address from it
            raise ValueError(
                "this Open MPI does not tell where process 0 is: name it, --coordinator=HOST:PORT (or DS2_COORDINATOR)"
            )
        return _launched("Open MPI", OPEN_MPI, environment)
    if on_tpu and _is_pod(environment):  # also where Kubernetes started it
        return Place("TPU pod")
    if INDEXED_JOB in environment and environment.get("KUBERNETES_SERVICE_HOST"):
        return _indexed_job(environment)
    return None


def expected(name: str, flags: Mapping[str, str], environment: Mapping[str, str] = os.environ) -> int:
    """Return the number of processes or devices that has to be there ('expect_processes', 'expect_devices'); 0: any."""
    return _parse(f"--{name} (or {_variable(name)})", _read(name, flags, environment) or "0")


def _variable(name: str) -> str:
    return f"DS2_{name.upper()}"


def _read(name: str, flags: Mapping[str, str], environment: Mapping[str, str]) -> str:
    return flags.get(name) or environment.get(_variable(name), "")


def _launched(launcher: str, variables: tuple[str, str], environment: Mapping[str, str]) -> Place:
    for variable in variables:
        if not environment.get(variable):
            raise ValueError(f"{launcher} started this, but {variable} is not set: do not remove its variables")
    processes, process = (number(environment, variable) for variable in variables)
    _check_rank(process, processes, variables[1], variables[0])
    return Place(launcher, None, processes, process, _own_devices(environment))


def _explicit(named: Mapping[str, str], environment: Mapping[str, str]) -> Place | None:
    """Use what was named, and a launcher's numbers for what was not."""
    found, values = ["flags or DS2_* variables"], dict(named)
    for launcher, (size, rank) in (("Slurm", SLURM), ("Open MPI", OPEN_MPI), ("Kubernetes", ("", INDEXED_JOB))):
        for name, variable in (("num_processes", size), ("process_id", rank)):
            if not values[name] and environment.get(variable):
                values[name] = environment[variable]
                found.append(launcher)
    if values["num_processes"] == "1":
        return None
    for name in NAMED:
        if not values[name]:
            raise ValueError(
                f"--{name} (or {_variable(name)}) is not set; several processes need all of {', '.join(NAMED)}"
            )
    processes, process = (_parse(f"--{name}", values[name]) for name in ("num_processes", "process_id"))
    if processes < 1:
        raise ValueError(f"--num_processes is {processes}: use 1 or more")
    _check_rank(process, processes, "--process_id", "--num_processes")
    port = values["coordinator"].rpartition(":")[2]
    if not re.fullmatch(r".+:\d+", values["coordinator"]) or not 0 < int(port) < 1 << 16:
        raise ValueError(
            f"--coordinator is {values['coordinator']!r}: write HOST:PORT, where process 0 listens, the port from 1 to 65535"
        )
    devices = _own_devices(environment)
    return Place(", ".join(dict.fromkeys(found)), values["coordinator"], processes, process, devices)


def _indexed_job(environment: Mapping[str, str]) -> Place | None:
    """An indexed job of Kubernetes: JAX asks the API for the rest, if its Python package is there."""
    index = number(environment, INDEXED_JOB)
    if importlib.util.find_spec("kubernetes"):
        return Place("Kubernetes")
    if index > 0:
        raise ValueError(
            f"this is pod {index} of an indexed job, but nothing says where pod 0 is: set DS2_COORDINATOR=HOST:PORT and "
            "DS2_NUM_PROCESSES in the manifest, or pip install kubernetes"
        )
    return None


def _is_pod(environment: Mapping[str, str]) -> bool:
    """Tell whether this TPU machine is one of several; where the environment does not say, JAX asks the cloud."""
    hosts = environment.get("TPU_PROCESS_ADDRESSES") or environment.get("TPU_WORKER_HOSTNAMES")
    if hosts is not None:
        return "," in hosts or number(environment, "MEGASCALE_NUM_SLICES") > 1
    return not environment.get("TPU_SKIP_MDS_QUERY")


def _own_devices(environment: Mapping[str, str]) -> tuple[int, ...] | None:
    """Share this machine's visible GPUs among its processes; None where none is known of, or the user has said.

    Left to itself, JAX gives a process the GPU of its number on the machine: the first of eight to one that is alone there,
    and none to the second one where the launcher shows each process its own.
    """
    if environment.get("JAX_LOCAL_DEVICE_IDS"):
        return None
    visible = environment.get("CUDA_VISIBLE_DEVICES") or environment.get("ROCR_VISIBLE_DEVICES") or ""
    devices = len([name for name in visible.split(",") if name.strip()])
    devices = devices or number(environment, "SLURM_GPUS_ON_NODE") or len(glob.glob("/dev/nvidia[0-9]*"))
    if not devices:
        return None
    size, rank = _on_this_machine(environment)
    if devices == 1:
        return (0,)
    if devices % size:
        raise ValueError(
            f"{devices} GPUs cannot be shared by {size} processes on this machine: start one a machine, or one a GPU, or "
            "say which are whose with JAX_LOCAL_DEVICE_IDS"
        )
    share = devices // size
    return tuple(range(rank * share, (rank + 1) * share))


def _on_this_machine(environment: Mapping[str, str]) -> tuple[int, int]:
    """How many processes this machine has, and which of them this one is."""
    if environment.get("SLURM_STEP_TASKS_PER_NODE") and environment.get("SLURM_NODEID"):
        counts: list[int] = []
        for part in environment["SLURM_STEP_TASKS_PER_NODE"].split(","):  # e.g. 4(x2),3
            count, _, times = part.partition("(x")
            counts += [int(count)] * int(times.rstrip(")") or 1)
        node = number(environment, "SLURM_NODEID")
        if node >= len(counts):
            raise ValueError(
                f"SLURM_NODEID is {node}, but SLURM_STEP_TASKS_PER_NODE={environment['SLURM_STEP_TASKS_PER_NODE']} is of "
                f"{len(counts)} nodes: do not change Slurm's variables"
            )
        return counts[node], number(environment, "SLURM_LOCALID")
    if environment.get("OMPI_COMM_WORLD_LOCAL_SIZE"):
        return number(environment, "OMPI_COMM_WORLD_LOCAL_SIZE"), number(environment, "OMPI_COMM_WORLD_LOCAL_RANK")
    return 1, 0


def _check_rank(process: int, processes: int, rank: str, size: str) -> None:
    if not 0 <= process < processes:
        raise ValueError(f"{rank} is {process} of {size}={processes}: use 0 to {processes - 1}")


def number(environment: Mapping[str, str], variable: str) -> int:
    """Read a variable, 0 where it is not set. Raises ValueError with its name."""
    return _parse(variable, environment.get(variable) or "0")


def _parse(name: str, value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise ValueError(f"{name} is {value!r}: write a whole number") from None
