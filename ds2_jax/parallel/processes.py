"""Run several processes as one program: start, checks that all agree, exchange of values, and a common end.

Every function also works for a single process, where it does nothing or returns its own value. Small values are exchanged
through JAX's coordination service (hosted by process 0), large ones through the devices.
"""

import contextlib
import hashlib
import json
import logging
import os
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import jax
import numpy as np
from jax._src import distributed as runtime  # JAX has no public access to the client

from ds2_jax.parallel import coordinator, discovery, watch, wire
from ds2_jax.parallel.discovery import ProcessInfo
from ds2_jax.parallel.watch import Watch

START_S = 300  # limit for all processes to connect; DS2_START_S overrides it
JAX_TIMEOUT_S = 100  # without a heartbeat, after which JAX aborts; watch.LOST_S is shorter and reports the lost process
WAIT_MS = 24 * 3600 * 1000  # limit of a barrier; the watch ends this process earlier if another one is lost
CHUNK_BYTES = 4 << 20  # most that a process sends at once
CONNECTION_ERRORS = (  # parts of the messages of JAX and its libraries
    "Gloo",
    "NCCL",
    "UNAVAILABLE",
    "DEADLINE_EXCEEDED",
    "coordination service",
    "Connection reset",
    "Broken pipe",
)
FILES = ("config.augment.file", "config.features.stats", "config.vocabulary")  # compared by content, not by path
SOURCES = ("ds2_jax", "input_pipeline", "decoding")

logger = logging.getLogger("ds2_jax")

T = TypeVar("T")


class _Run:
    """State of the run in this process; one for the whole program."""

    connected = False  # to the other processes
    watch: Watch | None = None
    names: tuple[str, ...] = ("this process",)
    exchanges = 0  # so far; the number makes the name of each exchange unique


def rank() -> int:
    """Return the number of this process, from 0, without initialising devices."""
    return runtime.global_state.process_id if _client() is not None else 0


def count() -> int:
    """Return the number of processes, without initialising devices."""
    return runtime.global_state.num_processes if _client() is not None else 1


def _client() -> Any:
    """Return the connection to JAX's coordination service; None for a single process."""
    return runtime.global_state.client


def name(process: int) -> str:
    """Return the name of a process for messages: its number and machine."""
    return _Run.names[process]


def prefix() -> str:
    """Return the prefix of this process's log lines; '' for a single process."""
    return f"[{rank()}/{count()}] " if count() > 1 else ""


def join(flags: Mapping[str, str]) -> None:
    """Connect to the other processes, if any (ds2_jax/parallel/discovery.py), before the first use of a device.

    flags: those of main.py, '' if not given. Raises ValueError if the number of processes or devices differs from
    `expect_processes` or `expect_devices`.
    """
    expect_processes, expect_devices = (
        discovery.expected_count(f"expect_{what}", flags) for what in ("processes", "devices")
    )
    info = discovery.discover(flags, on_tpu=_on_tpu())
    if info is not None:
        _connect(info)
    if expect_processes and count() != expect_processes:
        raise ValueError(
            f"{expect_processes} processes were expected, but {count()} connected: start them with one launcher "
            "(docs/distributed.md), or correct --expect_processes"
        )
    if expect_devices and jax.device_count() != expect_devices:
        local = ", ".join(str(device) for device in jax.local_devices())
        raise ValueError(
            f"{expect_devices} devices were expected, but JAX found {jax.device_count()} (here: {local}): request the "
            "missing ones from the launcher, check this machine's with `python -m ds2_jax.cli.check_device`, or correct "
            "--expect_devices"
        )


def _on_tpu() -> bool:
    from jax._src.cloud_tpu_init import running_in_cloud_tpu_vm  # set as jax is imported

    return running_in_cloud_tpu_vm and os.environ.get("JAX_PLATFORMS", "tpu").startswith("tpu")


def _connect(info: ProcessInfo) -> None:
    """Start JAX's distributed runtime and the watch over the other processes."""
    seconds = discovery.read_integer(os.environ, "DS2_START_S") or START_S
    rank_or_unknown, size = ("?" if value is None else value for value in (info.process, info.processes))
    line_prefix = f"[{rank_or_unknown}/{size}]"
    bind_address = os.environ.get("JAX_COORDINATOR_BIND_ADDRESS")
    if info.process == 0 and info.coordinator:
        coordinator.require_free_port(info.coordinator)
        bind_address = bind_address or coordinator.choose_bind_address(info.coordinator)
    if info.process != 0:  # one progress bar is enough; tqdm reads this when it is imported
        os.environ.setdefault("TQDM_DISABLE", "1")
    print(
        f"{line_prefix} {socket.gethostname()}, process {os.getpid()}: connecting to the others at {_address(info)}",
        file=sys.stderr,
        flush=True,
    )
    if info.process == 0 and bind_address is None:
        print(
            f"{line_prefix} the coordination service listens on all network interfaces, because {_address(info)} is not an "
            "address of this machine: whoever reaches it can disturb the run (docs/distributed.md)",
            file=sys.stderr,
            flush=True,
        )
    unresolved = coordinator.describe_unresolved(info.coordinator or "")
    if unresolved:  # in a starting cluster, the name may become available
        print(f"{line_prefix} {unresolved}: retrying for {seconds} s (DS2_START_S)", file=sys.stderr, flush=True)

    def explain() -> None:
        if _Run.watch is not None:
            _Run.watch.explain_abort()
        elif not _Run.connected:
            watch.exit_now(watch.RETRY, _describe_failed_start(info, seconds), rank(), count())

    watch.on_abort(explain)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", False)  # ds2_jax/parallel/stopping.py handles SIGTERM
    explicit = info.coordinator is not None
    jax.distributed.initialize(
        coordinator_address=info.coordinator,
        coordinator_bind_address=bind_address,
        num_processes=info.processes,
        process_id=info.process,
        local_device_ids=info.devices,
        cluster_detection_method="deactivate" if explicit else None,
        initialization_timeout=seconds,
        heartbeat_timeout_seconds=JAX_TIMEOUT_S,
    )
    _Run.connected = True
    if count() == 1:
        return
    _Run.names = tuple(f"process {r} ({host})" for r, host in enumerate(exchange(socket.gethostname())))
    _Run.watch = Watch(_client(), rank(), list(_Run.names), str(runtime.global_state.coordinator_address))
    jax.devices()  # exchanges the processes' devices; all wait for all, so it is done here


def _address(info: ProcessInfo) -> str:
    return info.coordinator or f"the address that {info.source} provides"


def _describe_failed_start(info: ProcessInfo, seconds: int) -> str:
    """Return a message for processes that did not all connect."""
    unresolved = coordinator.describe_unresolved(info.coordinator or "")
    if unresolved:
        return unresolved
    return (
        f"the {info.processes or ''} processes did not all connect at {_address(info)} within {seconds} s (DS2_START_S): a "
        "process whose log lacks the line 'connecting to the others' did not start; if all have it, compare the numbers "
        "and addresses in these lines"
    )


def require_same_start(settings: Mapping[str, Any]) -> None:
    """Log the numbers of processes, machines and devices; raise ValueError if the processes were started differently.

    settings: nested; must be the same in all processes, like the program's version and the number of devices.
    """
    if count() == 1:
        return
    require_same(lambda: code_version() | _describe_settings(flatten_settings(settings)))
    devices = exchange(str(jax.local_device_count()))
    if len(set(devices)) > 1:
        _refuse_differences("devices", [{"devices": number} for number in devices])
    machines = len({name.partition(" (")[2] for name in _Run.names})
    kinds = Counter(device.device_kind for device in jax.devices())
    listed = ", ".join(f"{number} x {kind}" for kind, number in kinds.items())
    logger.info("%d processes on %d machine(s), %d devices: %s", count(), machines, jax.device_count(), listed)


def _describe_settings(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return settings (by full name) and digests of the files that they refer to, as text to compare."""
    values = {name: repr(value) for name, value in settings.items()} | {"--num_processes": str(count())}
    for name in FILES:
        if settings.get(name) and os.path.isfile(settings[name]):
            values[f"{name} (digest)"] = hashlib.sha256(Path(settings[name]).read_bytes()).hexdigest()[:16]
    return values


def flatten_settings(settings: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Return nested settings by full name, such as `optim.name`."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= flatten_settings(value, f"{path}{name}.") if isinstance(value, Mapping) else {f"{path}{name}": value}
    return flat


def exchange(text: str) -> list[str]:
    """Return the short texts of all processes, by rank. Every process must call it, and waits for all others."""
    if count() == 1:
        return [text]
    client, folder = _client(), _next_name()
    client.key_value_set(f"{folder}/{rank():06d}", text)
    client.wait_at_barrier(folder, WAIT_MS)
    return [value for _, value in sorted(client.key_value_dir_get(f"{folder}/"))]


def barrier() -> None:
    """Wait for all other processes."""
    exchange("")


def _next_name() -> str:
    _Run.exchanges += 1
    return f"ds2/exchange/{_Run.exchanges}"


def require_same(values: Callable[[], Mapping[str, str]]) -> None:
    """Raise ValueError in all processes if their values differ, naming the process, the setting and both values."""
    if count() == 1:
        return
    text = json.dumps(values(), sort_keys=True)
    if len(set(exchange(hashlib.sha256(text.encode()).hexdigest()))) > 1:
        _refuse_differences("values", [json.loads(other) for other in exchange(text)])


def _refuse_differences(what: str, by_rank: list[dict[str, str]]) -> NoReturn:
    texts = [json.dumps(values, sort_keys=True) for values in by_rank]
    most_common = Counter(texts).most_common(1)[0][0]  # of equally frequent ones, that of the lowest rank
    usual = by_rank[texts.index(most_common)]
    deviating = [process for process, values in enumerate(by_rank) if values != usual]
    lines = []
    for name in sorted({name for values in by_rank for name in values}):
        others = [process for process in deviating if by_rank[process].get(name) != usual.get(name)]
        if others:
            names = ", ".join(_Run.names[process] for process in others)
            lines.append(f"{name} is {by_rank[others[0]].get(name)} in {names}, but {usual.get(name)} in the others")
    raise ValueError(
        f"the processes have different {what}: {'; '.join(lines)}. Start all with the same command, code and files"
    )


def code_version() -> dict[str, str]:
    """Return a digest of the source files, and the versions of the libraries that affect the numbers."""
    root = Path(__file__).parents[2]
    digest = hashlib.sha256()
    for name in SOURCES:
        tree = os.walk(root / name, followlinks=True)  # in a checkout, the recipes are behind a link
        for file in sorted(Path(folder, file) for folder, _, files in tree for file in files if file.endswith(".py")):
            digest.update(str(file.relative_to(root)).encode() + file.read_bytes())
    return {"source files (digest)": digest.hexdigest()[:16], "jax": jax.__version__, "numpy": np.__version__}


def broadcast(make: Callable[[], T]) -> T:
    """Return the value that `make` returns in process 0, in all processes. It has to be one that `wire` can encode."""
    if count() == 1:
        return make()
    client, name = _client(), _next_name()
    if rank() == 0:
        value = make()
        client.key_value_set_bytes(name, wire.encode(value))
        return value
    return wire.decode(client.blocking_key_value_get_bytes(name, WAIT_MS))


def gather(value: T, *, classes: Sequence[type] = (), everywhere: bool = True) -> list[T]:
    """Return the values of all processes, of any size, by rank. Every process must call it at the same point.

    classes: the dataclasses among the values (ds2_jax/parallel/wire.py).
    everywhere: if false, only process 0 keeps the values, and the others return [].
    """
    if count() == 1:
        return [value]
    from jax.experimental import multihost_utils

    data = np.frombuffer(wire.encode((rank(), value), classes), np.uint8)
    sizes = multihost_utils.process_allgather(np.array([len(data)])).ravel()
    keeps = everywhere or rank() == 0
    parts: list[list[bytes]] = [[] for _ in sizes] if keeps else []
    for begin in range(0, max(sizes), CHUNK_BYTES):
        left = int(max(sizes)) - begin
        width = min(CHUNK_BYTES, 1 << max(left - 1, 1).bit_length())  # few shapes, since each is compiled
        chunk = np.zeros(width, np.uint8)
        mine = data[begin : begin + width]
        chunk[: len(mine)] = mine
        rows = multihost_utils.process_allgather(chunk)
        if keeps:
            for part, row in zip(parts, rows, strict=True):
                part.append(row.tobytes())
    if not keeps:
        return []
    pairs = [wire.decode(b"".join(part)[:size], classes) for part, size in zip(parts, sizes, strict=True)]
    return [value for _, value in sorted(pairs, key=lambda pair: pair[0])]


def report_progress(activity: str) -> None:
    """Record that this process made progress, and what it does now, for messages of processes that wait for it."""
    if _Run.watch is not None:
        _Run.watch.report_progress(activity)


@contextlib.contextmanager
def expect_progress(stall_s: float) -> Iterator[None]:
    """End this process, reporting the slowest one, if no progress is reported for `stall_s` seconds; 0: no limit."""
    with _Run.watch.expect_progress(stall_s) if _Run.watch is not None else contextlib.nullcontext():
        yield


def abort(code: int, message: str) -> NoReturn:
    """End this process with a message; the other processes end too and report it."""
    if _Run.watch is not None:
        _Run.watch.announce_exit(code, message)
    watch.exit_now(code, message, rank(), count())
    raise AssertionError  # not reached


def explain_broken_connection(error: BaseException) -> None:
    """End this process with the name of the lost process if an error means that a connection broke; else return."""
    if _Run.watch is not None and any(text in str(error) for text in CONNECTION_ERRORS):
        line = str(error).splitlines()[0]
        print(f"{prefix()}a connection broke ({line}): looking for the lost process", file=sys.stderr, flush=True)
        _Run.watch.wait_for_cause()


def finish() -> None:
    """Shut down together with the other processes, after the last collective."""
    if _Run.watch is not None:
        barrier()
        _Run.watch.end()
        jax.distributed.shutdown()
