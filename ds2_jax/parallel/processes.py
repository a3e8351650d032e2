"""Several processes as one program: their start, what they have to agree on, what they tell each other, and their end.

One process alone does none of it, and every function here works for it, too. Small things go through JAX's coordination
service (kept by process 0), large ones through the devices.
"""

import contextlib
import hashlib
import json
import logging
import os
import pickle
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import jax
import numpy as np
from jax._src import distributed as runtime  # its client is public nowhere else

from ds2_jax.parallel import discovery, watch
from ds2_jax.parallel.discovery import Place
from ds2_jax.parallel.watch import Watch

START_S = 300  # for all processes to come together; DS2_START_S overrides it
HEARTBEAT_S = 100  # after which JAX itself aborts the others; watch.LOST_S is sooner, and names who is gone
WAIT_MS = 24 * 3600 * 1000  # in a barrier: the watch ends this process if one of the others is gone
CHUNK_BYTES = 4 << 20  # of what a process hands to the others at once
BROKEN = ("Gloo", "NCCL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "coordination service", "Connection reset", "Broken pipe")
# Settings that name a file, whose content counts.
FILES = ("config.augment.file", "config.features.stats", "config.vocabulary")
SOURCES = ("ds2_jax", "input_pipeline", "decoding")

logger = logging.getLogger("ds2_jax")

T = TypeVar("T")


class _Run:
    """What this process knows of the run: one object for the whole program."""

    met = False  # the others
    watch: Watch | None = None
    names: tuple[str, ...] = ("this process",)
    calls = 0  # of exchanges: each has a name of its own


def rank() -> int:
    """Number of this process, from 0; starts no device."""
    return runtime.global_state.process_id if _client() is not None else 0


def count() -> int:
    """How many processes there are; starts no device."""
    return runtime.global_state.num_processes if _client() is not None else 1


def _client() -> Any:
    """Return the connection to JAX's coordination service; None for a process alone."""
    return runtime.global_state.client


def name(process: int) -> str:
    """Name a process for a message: its number and machine."""
    return _Run.names[process]


def prefix() -> str:
    """What each line of this process begins with, where there are several."""
    return f"[{rank()}/{count()}] " if count() > 1 else ""


def join(flags: Mapping[str, str]) -> None:
    """Join the other processes, if there are any (ds2_jax/parallel/discovery.py), before the first use of a device.

    flags: those of main.py, '' where not given. Raises ValueError where there are not as many processes or devices as
    `expect_processes` and `expect_devices` say.
    """
    expect_processes, expect_devices = (
        discovery.expected(f"expect_{what}", flags) for what in ("processes", "devices")
    )
    place = discovery.find(flags, on_tpu=_on_tpu())
    if place is not None:
        _connect(place)
    if expect_processes and count() != expect_processes:
        raise ValueError(
            f"{expect_processes} processes were expected and {count()} found together: start them with one launcher "
            "(docs/distributed.md), or correct --expect_processes"
        )
    if expect_devices and jax.device_count() != expect_devices:
        found = ", ".join(str(device) for device in jax.local_devices())
        raise ValueError(
            f"{expect_devices} devices were expected and {jax.device_count()} found (here: {found}): ask the launcher for "
            "more, see whether `python -m ds2_jax.cli.check_device` finds them, or correct --expect_devices"
        )


def _on_tpu() -> bool:
    from jax._src.cloud_tpu_init import running_in_cloud_tpu_vm  # set as jax is imported

    return running_in_cloud_tpu_vm and os.environ.get("JAX_PLATFORMS", "tpu").startswith("tpu")


def _connect(place: Place) -> None:
    """Start JAX's distributed runtime and the watch over the others."""
    seconds = discovery.number(os.environ, "DS2_START_S") or START_S
    where = place.coordinator or f"the place that {place.found_in} names"
    number, size = ("?" if value is None else value for value in (place.process, place.processes))
    if place.process == 0 and place.coordinator:
        _refuse_taken_port(place.coordinator)
    if place.process != 0:  # one bar is enough; tqdm reads this as it is imported
        os.environ.setdefault("TQDM_DISABLE", "1")
    print(
        f"[{number}/{size}] {socket.gethostname()}, process {os.getpid()}: meeting the others at {where}",
        file=sys.stderr,
        flush=True,
    )
    unknown = _why_unknown(place)
    if unknown:  # in a cluster it may become known
        print(f"[{number}/{size}] {unknown}: asking for {seconds} s (DS2_START_S)", file=sys.stderr, flush=True)

    def judge() -> None:
        if _Run.watch is not None:
            _Run.watch.explain_abort()
        elif not _Run.met:
            watch.exit_now(watch.RETRY, _why_alone(place, seconds), rank(), count())

    watch.on_abort(judge)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", False)  # SIGTERM is ours: ds2_jax/parallel/stopping.py
    explicit = place.coordinator is not None
    jax.distributed.initialize(
        coordinator_address=place.coordinator,
        num_processes=place.processes,
        process_id=place.process,
        local_device_ids=place.devices,
        cluster_detection_method="deactivate" if explicit else None,
        initialization_timeout=seconds,
        heartbeat_timeout_seconds=HEARTBEAT_S,
    )
    _Run.met = True
    if count() == 1:
        return
    _Run.names = tuple(f"process {r} ({host})" for r, host in enumerate(exchange(socket.gethostname())))
    _Run.watch = Watch(_client(), rank(), list(_Run.names), str(runtime.global_state.coordinator_address))
    jax.devices()  # makes the processes' devices known to each other: all wait for all, so it is done here


def _why_unknown(place: Place) -> str:
    """Say why the coordinator's machine cannot be found; '' where it can."""
    host, _, _ = (place.coordinator or "").rpartition(":")
    try:
        socket.getaddrinfo(host.strip("[]") or None, 0)
    except OSError as error:
        return f"{host} of --coordinator={place.coordinator} is no machine that is known here ({error.strerror})"
    return ""


def _why_alone(place: Place, seconds: int) -> str:
    """Say why the processes did not meet."""
    unknown = _why_unknown(place)
    if unknown:
        return unknown
    size, where = place.processes or "", place.coordinator or f"the place that {place.found_in} names"
    return (
        f"the {size} processes did not come together at {where} within {seconds} s (DS2_START_S): those are missing whose "
        "logs lack the line 'meeting the others'; where none lacks it, two say the same number there, or other places"
    )


def _refuse_taken_port(coordinator: str) -> None:
    """Raise where another program listens there already: JAX would crash."""
    port = int(coordinator.rpartition(":")[2])
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    with contextlib.closing(socket.socket(family)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise OSError(
                f"port {port} of --coordinator={coordinator} is taken ({error.strerror}); use another"
            ) from error


def require_same_start(settings: Mapping[str, Any]) -> None:
    """Log how many processes, machines and devices there are; raise ValueError where not all are started alike.

    settings: nested, that all processes have to share, besides the program's version and the number of devices.
    """
    if count() == 1:
        return
    require_same(lambda: code_version() | _described(dict(_flat(settings))))
    devices = exchange(str(jax.local_device_count()))
    if len(set(devices)) > 1:
        _refuse_differences("devices", [{"devices": number} for number in devices])
    machines = len({name.partition(" (")[2] for name in _Run.names})
    kinds = Counter(device.device_kind for device in jax.devices())
    listed = ", ".join(f"{number} x {kind}" for kind, number in kinds.items())
    logger.info("%d processes on %d machine(s), %d devices: %s", count(), machines, jax.device_count(), listed)


def _described(settings: Mapping[str, Any]) -> dict[str, str]:
    """Word settings [by their full names] and the files that they name, for a comparison."""
    values = {name: repr(value) for name, value in settings.items()} | {"--num_processes": str(count())}
    for name in FILES:
        if settings.get(name) and os.path.isfile(settings[name]):
            values[f"{name} (digest)"] = hashlib.sha256(Path(settings[name]).read_bytes()).hexdigest()[:16]
    return values


def _flat(settings: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


def exchange(text: str) -> list[str]:
    """Return the short texts of all processes, by rank; every process has to call it, and waits for all others."""
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
    _Run.calls += 1
    return f"ds2/exchange/{_Run.calls}"


def require_same(values: Callable[[], Mapping[str, str]]) -> None:
    """Raise ValueError, everywhere, where a process has other values; it names process, setting and both values."""
    if count() == 1:
        return
    text = json.dumps(values(), sort_keys=True)
    if len(set(exchange(hashlib.sha256(text.encode()).hexdigest()))) > 1:
        _refuse_differences("values", [json.loads(other) for other in exchange(text)])


def _refuse_differences(what: str, found: list[dict[str, str]]) -> NoReturn:
    texts = [json.dumps(values, sort_keys=True) for values in found]
    usual = found[texts.index(Counter(texts).most_common(1)[0][0])]  # process 0's, where as many have another
    odd = [process for process, values in enumerate(found) if values != usual]
    lines = []
    for name in sorted({name for values in found for name in values}):
        others = [process for process in odd if found[process].get(name) != usual.get(name)]
        if others:
            named = ", ".join(_Run.names[process] for process in others)
            lines.append(f"{name} is {found[others[0]].get(name)} in {named}, and {usual.get(name)} in the others")
    raise ValueError(
        f"the processes have different {what}: {'; '.join(lines)}. Start all with the same command, code and files"
    )


def code_version() -> dict[str, str]:
    """Digest the source files, and name the libraries that decide numbers."""
    root = Path(__file__).parents[2]
    digest = hashlib.sha256()
    for name in SOURCES:
        found = os.walk(root / name, followlinks=True)  # recipes are a link in a checkout
        for file in sorted(Path(folder, file) for folder, _, files in found for file in files if file.endswith(".py")):
            digest.update(str(file.relative_to(root)).encode() + file.read_bytes())
    return {"source files (digest)": digest.hexdigest()[:16], "jax": jax.__version__, "numpy": np.__version__}


def broadcast(make: Callable[[], T]) -> T:
    """Let process 0 make something and hand it to all."""
    if count() == 1:
        return make()
    client, name = _client(), _next_name()
    if rank() == 0:
        value = make()
        client.key_value_set_bytes(name, pickle.dumps(value))
        return value
    return pickle.loads(client.blocking_key_value_get_bytes(name, WAIT_MS))


def gather(value: T, *, everywhere: bool = True) -> list[T]:
    """Return the values of all processes, of any size, by rank; every process has to call it at the same place.

    everywhere: else process 0 alone keeps them, and the others return none.
    """
    if count() == 1:
        return [value]
    from jax.experimental import multihost_utils

    data = np.frombuffer(pickle.dumps((rank(), value)), np.uint8)
    sizes = multihost_utils.process_allgather(np.array([len(data)])).ravel()
    keeps = everywhere or rank() == 0
    parts: list[list[bytes]] = [[] for _ in sizes] if keeps else []
    for begin in range(0, max(sizes), CHUNK_BYTES):
        left = int(max(sizes)) - begin
        width = min(CHUNK_BYTES, 1 << max(left - 1, 1).bit_length())  # few shapes: each is compiled
        chunk = np.zeros(width, np.uint8)
        mine = data[begin : begin + width]
        chunk[: len(mine)] = mine
        rows = multihost_utils.process_allgather(chunk)
        if keeps:
            for part, row in zip(parts, rows, strict=True):
                part.append(row.tobytes())
    if not keeps:
        return []
    found = [pickle.loads(b"".join(part)[:size]) for part, size in zip(parts, sizes, strict=True)]
    return [value for _, value in sorted(found, key=lambda pair: pair[0])]


def note_progress(doing: str) -> None:
    """Note that this process goes on, and with what; said of it where the others have to wait."""
    if _Run.watch is not None:
        _Run.watch.note_progress(doing)


@contextlib.contextmanager
def expect_progress(stall_s: float) -> Iterator[None]:
    """End this process, naming who is behind, where there was no note for so long (0: never)."""
    with _Run.watch.expect_progress(stall_s) if _Run.watch is not None else contextlib.nullcontext():
        yield


def abort(code: int, message: str) -> NoReturn:
    """End this process with a message; the others end, too, and name it."""
    if _Run.watch is not None:
        _Run.watch.announce_exit(code, message)
    watch.exit_now(code, message, rank(), count())
    raise AssertionError  # not reached


def explain_broken_connection(error: BaseException) -> None:
    """Find out who is gone where an error says that a connection broke: then end, naming it; else return."""
    if _Run.watch is not None and any(word in str(error) for word in BROKEN):
        line = str(error).splitlines()[0]
        print(f"{prefix()}a connection broke ({line}): finding out who is gone", file=sys.stderr, flush=True)
        _Run.watch.wait_for_cause()


def finish() -> None:
    """End together, after the last collective."""
    if _Run.watch is not None:
        barrier()
        _Run.watch.end()
        jax.distributed.shutdown()
