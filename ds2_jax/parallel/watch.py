"""Watch the other processes: end this one, with a message, if another is lost or the run stalls.

Every HEARTBEAT_S, each process sends a heartbeat with its progress to the coordination service and reads those of the
others. Threads do this, because a process that waits in a collective cannot.
"""

import contextlib
import ctypes
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

HEARTBEAT_S = 2.0  # interval between heartbeats
LOST_S = 60.0  # without a heartbeat, after which a process counts as lost; JAX's limit is 100 s
BROKEN_S = 15.0  # the same after a connection broke
RETRY = 75  # exit code, EX_TEMPFAIL: run the same command again (ds2_jax/cli/exit_codes.py)
RESUME = "; run the same command again to resume from the last checkpoint"

ALIVE, LEFT, SEEN = "ds2/alive/", "ds2/left/", "ds2/seen/"  # key prefixes: heartbeats, exits, exits acknowledged


class Watch:
    """Heartbeats of this process and a watch over those of the others, in two threads.

    client: JAX's connection to the coordination service. names [processes]: for messages. coordinator: host:port.
    """

    def __init__(self, client: Any, rank: int, names: list[str], coordinator: str):
        self._client, self._rank, self._names, self._coordinator = client, rank, names, coordinator
        now = time.monotonic()
        self._progress, self._activity, self._progress_at = 0, "starting", now
        self._stall_s = 0.0  # 0: no progress is expected
        self._heartbeats = {r: ("", now) for r in range(len(names)) if r != rank}  # last one, and when it arrived
        self._answered_at = now  # by the coordination service
        self._exits: dict[int, tuple[int, str]] = {}  # exit code and reason, by rank, as announced
        self._broken = False
        self._own_exit: tuple[int, str] | None = None  # exit code and reason, once announced
        self._ended, self._exiting = threading.Event(), threading.Lock()
        targets = self._send_heartbeats, self._check_processes
        self._threads = [threading.Thread(target=target, name=target.__name__, daemon=True) for target in targets]
        for thread in self._threads:
            thread.start()

    def report_progress(self, activity: str) -> None:
        """Count one more unit of progress and record the current activity; all processes call this equally often."""
        self._progress, self._activity, self._progress_at = self._progress + 1, activity, time.monotonic()

    @contextlib.contextmanager
    def expect_progress(self, stall_s: float) -> Iterator[None]:
        """Require progress within every `stall_s` seconds inside the context; 0: no limit."""
        before, self._stall_s, self._progress_at = self._stall_s, stall_s, time.monotonic()
        try:
            yield
        finally:
            self._stall_s, self._progress_at = before, time.monotonic()

    def end(self) -> None:
        """Stop watching, because all processes are about to end."""
        self._ended.set()

    def wait_for_cause(self) -> None:
        """Wait, after a connection broke, until the lost process is known; return only if none is lost."""
        self._broken = True
        time.sleep(BROKEN_S + 3 * HEARTBEAT_S)

    def announce_exit(self, code: int, reason: str) -> None:
        """Announce that this process ends, and wait briefly; process 0, which hosts the service, until all have read it."""
        self._own_exit = code, reason
        self._ended.set()
        post = threading.Thread(target=self._post_exit, args=(code, reason), daemon=True)
        post.start()
        post.join(4 * HEARTBEAT_S)  # if the service does not answer, nobody can read it

    def _post_exit(self, code: int, reason: str) -> None:
        with contextlib.suppress(Exception):
            self._client.key_value_set(f"{LEFT}{self._rank}", json.dumps([code, reason]), allow_overwrite=True)
            while self._rank == 0 and len(self._ranks(SEEN) | self._ranks(LEFT) | {0}) < len(self._names):
                time.sleep(HEARTBEAT_S / 4)

    def _ranks(self, folder: str) -> set[int]:
        return {_rank_of(key) for key, _ in self._client.key_value_dir_get(folder)}

    def _send_heartbeats(self) -> None:
        """Send and read heartbeats; blocks while the service does not answer, which `_check_processes` notices."""
        beats = 0
        while not self._ended.is_set():
            beats += 1
            try:
                heartbeat = json.dumps([beats, self._progress, self._activity])
                self._client.key_value_set(f"{ALIVE}{self._rank}", heartbeat, allow_overwrite=True)
                now = time.monotonic()
                for key, value in self._client.key_value_dir_get(ALIVE):
                    rank = _rank_of(key)
                    if rank in self._heartbeats and self._heartbeats[rank][0] != value:
                        self._heartbeats[rank] = (value, now)
                exits = self._client.key_value_dir_get(LEFT)
                self._answered_at = time.monotonic()
                if exits:
                    self._exits = {_rank_of(key): tuple(json.loads(value)) for key, value in exits}
                    self._client.key_value_set(f"{SEEN}{self._rank}", "", allow_overwrite=True)
            except Exception:  # of the connection: `_check_processes` measures the time since the last answer
                time.sleep(HEARTBEAT_S / 4)
            self._ended.wait(HEARTBEAT_S)

    def _check_processes(self) -> None:
        """End this process if another one is lost or no progress is made; checks twice per heartbeat."""
        last = time.monotonic()
        while not self._ended.wait(HEARTBEAT_S / 2):
            now = time.monotonic()
            if now - last > LOST_S / 4:  # this process itself was suspended: restart the clocks of the others
                self._heartbeats = {rank: (value, now) for rank, (value, _) in self._heartbeats.items()}
                self._answered_at = self._progress_at = now
            last = now
            failure = self._find_failure(now)
            if failure is None and self._stall_s and now - self._progress_at > self._stall_s:
                stalled_s = now - self._progress_at
                reason = f"no progress for {stalled_s:.0f} s ({self._activity}); {self._describe_slowest()}"
                self.announce_exit(RETRY, reason)  # otherwise the others would only see a broken connection
                self._exit(RETRY, reason + RESUME)
            if failure is not None and not self._ended.is_set():
                self._exit(*failure)

    def _find_failure(self, now: float) -> tuple[int, str] | None:
        """Return an exit code and a message if another process ended or is lost."""
        if self._exits:
            rank, (code, reason) = min(self._exits.items())
            return code, f"{self._names[rank]} ended: {reason}"
        limit_s = BROKEN_S if self._broken else LOST_S
        if self._rank and now - self._answered_at > limit_s:
            return RETRY, self._about_coordinator(f"has not answered for {now - self._answered_at:.0f} s{RESUME}")
        # measured until the last answer: heartbeats cannot arrive while the service is silent
        silent_s = {rank: self._answered_at - arrived_at for rank, (_, arrived_at) in self._heartbeats.items()}
        lost = [rank for rank, seconds in silent_s.items() if seconds > limit_s]
        if lost:
            names = ", ".join(self._names[rank] for rank in lost)
            longest_s = max(silent_s[rank] for rank in lost)
            return RETRY, f"no heartbeat from {names} for {longest_s:.0f} s: killed, suspended or unreachable{RESUME}"
        return None

    def _describe_slowest(self) -> str:
        """Return a phrase with the processes that made the least progress, which the others wait for."""
        reached = {self._rank: (self._progress, self._activity)}
        for rank, (value, _) in self._heartbeats.items():
            reached[rank] = tuple(json.loads(value)[1:]) if value else (0, "no heartbeat yet")
        least, most = (
            min(progress for progress, _ in reached.values()),
            max(progress for progress, _ in reached.values()),
        )
        if least == most:
            return "all processes made equal progress: devices or the network have stalled"
        slowest = [f"{self._names[rank]} ({what})" for rank, (progress, what) in reached.items() if progress == least]
        return f"the others wait for {', '.join(slowest)}"

    def _about_coordinator(self, what: str) -> str:
        return f"{self._names[0]}, which coordinates the run at {self._coordinator}, {what}"

    def _exit(self, code: int, message: str) -> None:
        self._exiting.acquire()  # never released: only the first thread to get here prints its message
        print(file=sys.stderr)  # ends the line of a progress bar
        exit_now(code, message, self._rank, len(self._names))

    def explain_abort(self) -> None:
        """Exit with a message if JAX aborts the program because a process is lost; return if it aborts for another reason."""
        if self._own_exit is not None:
            exit_now(*self._own_exit, self._rank, len(self._names))
        self._broken = True
        deadline = time.monotonic() + 4 * HEARTBEAT_S
        while time.monotonic() < deadline:
            failure = self._find_failure(time.monotonic())
            if failure is not None:
                self._exit(*failure)
            if self._rank and not _accepts_connections(self._coordinator):
                self._exit(RETRY, self._about_coordinator(f"is gone{RESUME}"))
            time.sleep(HEARTBEAT_S / 4)


def _rank_of(key: str) -> int:
    return int(key.rpartition("/")[2])


def exit_now(code: int, message: str, rank: int, processes: int) -> None:
    """Print an error and end the process without waiting for its other threads."""
    sys.stdout.flush()
    prefix = f"[{rank}/{processes}] " if processes > 1 else ""
    print(f"{prefix}error: {message}", file=sys.stderr, flush=True)
    multiprocessing = sys.modules.get("multiprocessing.util")
    if multiprocessing is not None:  # semaphores, such as that of progress bars, outlive their process
        multiprocessing._run_finalizers(0)
    os._exit(code)


def on_abort(explain: Callable[[], None]) -> None:
    """Call `explain` when C++ code aborts the program; if it returns, the program is aborted.

    JAX aborts if it loses the coordination service, without another notification (its Python callback cannot be called:
    jaxlib 0.10). A handler set with Python's signal module would not run: the aborting thread never returns to Python.
    """

    @ctypes.CFUNCTYPE(None, ctypes.c_int)
    def handler(number: int) -> None:
        del number
        explain()

    libc = ctypes.CDLL(None)
    libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    libc.signal.restype = ctypes.c_void_p
    libc.signal(int(signal.SIGABRT), ctypes.cast(handler, ctypes.c_void_p))
    _handlers.append(handler)


_handlers: list[Any] = []  # kept alive, because C may still call them


def _accepts_connections(address: str) -> bool:
    """Return whether a server listens at host:port."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=3).close()
    except OSError:
        return False
    return True
