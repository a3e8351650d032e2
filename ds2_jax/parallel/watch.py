"""A watch over the other processes: when one is gone, or nothing moves any more, this process ends and says who it was.

Every process tells the coordination service, every BEAT_S, that it lives and how far it is, and reads what the others tell. A
process that waits in a collective cannot do so itself; hence the threads.
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

BEAT_S = 2.0  # between two signs of life
LOST_S = 60.0  # without one, after which a process counts as gone; JAX's own limit is 100 s
BROKEN_S = 15.0  # the same where a connection broke already
RETRY = 75  # exit code, EX_TEMPFAIL: start the same line again (main.py)
AGAIN = "; run the same command again to resume from the last checkpoint"

ALIVE, LEFT, SEEN = "ds2/alive/", "ds2/left/", "ds2/seen/"


class Watch:
    """Signs of life of this process and of the others, kept up by two threads.

    client: JAX's connection to the coordination service. names [processes]: how each is named in messages.
    """

    def __init__(self, client: Any, rank: int, names: list[str], coordinator: str):
        self._client, self._rank, self._names, self._coordinator = client, rank, names, coordinator
        now = time.monotonic()
        self._notes, self._doing, self._noted = 0, "starting", now
        self._stall_s = 0.0  # 0: nothing is expected to move
        self._heard = {r: ("", now) for r in range(len(names)) if r != rank}  # last sign, and when it changed
        self._answered = now  # by the coordination service
        self._left: dict[int, tuple[int, str]] = {}  # exit code and reason of those who said so
        self._broken = False
        self._leaving: tuple[int, str] | None = (
            None  # exit code and reason, once this process is about to end with them
        )
        self._ended, self._ending = threading.Event(), threading.Lock()
        self._threads = [threading.Thread(target=f, name=f.__name__, daemon=True) for f in (self._beat, self._look)]
        for thread in self._threads:
            thread.start()

    def note_progress(self, doing: str) -> None:
        """Note that this process got one step further, and what it does now; each does so equally often."""
        self._notes, self._doing, self._noted = self._notes + 1, doing, time.monotonic()

    @contextlib.contextmanager
    def expect_progress(self, stall_s: float) -> Iterator[None]:
        """Expect a note every `stall_s` seconds at least while this lasts; 0: do not expect any."""
        before, self._stall_s, self._noted = self._stall_s, stall_s, time.monotonic()
        try:
            yield
        finally:
            self._stall_s, self._noted = before, time.monotonic()

    def end(self) -> None:
        """Stop watching: all processes are about to end."""
        self._ended.set()

    def wait_for_cause(self) -> None:
        """Wait, after a connection broke, until it is known who is gone; returns only where nobody is."""
        self._broken = True
        time.sleep(BROKEN_S + 3 * BEAT_S)

    def announce_exit(self, code: int, reason: str) -> None:
        """Tell the others that this process ends, and wait a little until they know; process 0 takes their news with it."""
        self._leaving = code, reason
        self._ended.set()
        post = threading.Thread(target=self._post_goodbye, args=(code, reason), daemon=True)
        post.start()
        post.join(4 * BEAT_S)  # without an answer there is nobody to tell

    def _post_goodbye(self, code: int, reason: str) -> None:
        with contextlib.suppress(Exception):
            self._client.key_value_set(f"{LEFT}{self._rank}", json.dumps([code, reason]), allow_overwrite=True)
            while self._rank == 0 and len(self._ranks(SEEN) | self._ranks(LEFT) | {0}) < len(self._names):
                time.sleep(BEAT_S / 4)

    def _ranks(self, folder: str) -> set[int]:
        return {_rank_of(key) for key, _ in self._client.key_value_dir_get(folder)}

    def _beat(self) -> None:
        """Tell and read, every BEAT_S; blocks where the coordination service does not answer, which `_look` sees."""
        beats = 0
        while not self._ended.is_set():
            beats += 1
            try:
                self._client.key_value_set(
                    f"{ALIVE}{self._rank}", json.dumps([beats, self._notes, self._doing]), allow_overwrite=True
                )
                now = time.monotonic()
                for key, value in self._client.key_value_dir_get(ALIVE):
                    rank = _rank_of(key)
                    if rank in self._heard and self._heard[rank][0] != value:
                        self._heard[rank] = (value, now)
                left = self._client.key_value_dir_get(LEFT)
                self._answered = time.monotonic()
                if left:
                    self._left = {_rank_of(key): tuple(json.loads(value)) for key, value in left}
                    self._client.key_value_set(f"{SEEN}{self._rank}", "", allow_overwrite=True)
            except Exception:  # of the connection: `_look` counts the time since the last answer
                time.sleep(BEAT_S / 4)
            self._ended.wait(BEAT_S)

    def _look(self) -> None:
        """Judge, twice a beat, by what was heard."""
        last = time.monotonic()
        while not self._ended.wait(BEAT_S / 2):
            now = time.monotonic()
            if now - last > LOST_S / 4:  # it was this process that stood still; the others are heard anew
                self._heard = {rank: (value, now) for rank, (value, _) in self._heard.items()}
                self._answered = self._noted = now
            last = now
            verdict = self._verdict(now)
            if verdict is None and self._stall_s and now - self._noted > self._stall_s:
                reason = f"nothing has moved for {now - self._noted:.0f} s ({self._doing}); {self._who_is_behind()}"
                self.announce_exit(RETRY, reason)  # or the others would only see a connection break
                self._end_here(RETRY, reason + AGAIN)
            if verdict is not None and not self._ended.is_set():
                self._end_here(*verdict)

    def _verdict(self, now: float) -> tuple[int, str] | None:
        """Return an exit code and a message where this process cannot go on."""
        if self._left:
            rank, (code, reason) = min(self._left.items())
            return code, f"{self._names[rank]} ended: {reason}"
        patience = BROKEN_S if self._broken else LOST_S
        if self._rank and now - self._answered > patience:
            return RETRY, self._of_coordinator(f"has not answered for {now - self._answered:.0f} s{AGAIN}")
        lost = [
            rank for rank, (_, when) in self._heard.items() if self._answered - when > patience
        ]  # while it answered
        if lost:
            named = ", ".join(self._names[rank] for rank in lost)
            silent = max(self._answered - self._heard[rank][1] for rank in lost)
            return RETRY, f"nothing was heard of {named} for {silent:.0f} s: killed, stopped, or out of reach{AGAIN}"
        return None

    def _who_is_behind(self) -> str:
        """Name those who are the fewest notes ahead: the others wait for them."""
        reached = {self._rank: (self._notes, self._doing)}
        for rank, (value, _) in self._heard.items():
            reached[rank] = tuple(json.loads(value)[1:]) if value else (0, "nothing was heard yet")
        least, most = min(notes for notes, _ in reached.values()), max(notes for notes, _ in reached.values())
        if least == most:
            return "all processes are equally far: devices or network stand still"
        behind = [f"{self._names[rank]} ({doing})" for rank, (notes, doing) in reached.items() if notes == least]
        return f"the others wait for {', '.join(behind)}"

    def _of_coordinator(self, what: str) -> str:
        return f"{self._names[0]}, which coordinates the run at {self._coordinator}, {what}"

    def _end_here(self, code: int, message: str) -> None:
        self._ending.acquire()  # never released: the first of the threads that get here says why
        print(file=sys.stderr)  # a progress bar may stand there
        exit_now(code, message, self._rank, len(self._names))

    def explain_abort(self) -> None:
        """End with a reason where JAX aborts the program since a process is gone; return where it does so for another."""
        if self._leaving is not None:
            exit_now(*self._leaving, self._rank, len(self._names))
        self._broken = True
        deadline = time.monotonic() + 4 * BEAT_S
        while time.monotonic() < deadline:
            verdict = self._verdict(time.monotonic())
            if verdict is not None:
                self._end_here(*verdict)
            if self._rank and not _listens(self._coordinator):
                self._end_here(RETRY, self._of_coordinator(f"is gone{AGAIN}"))
            time.sleep(BEAT_S / 4)


def _rank_of(key: str) -> int:
    return int(key.rpartition("/")[2])


def exit_now(code: int, message: str, rank: int, processes: int) -> None:
    """End the process, whatever its other threads wait for."""
    sys.stdout.flush()
    prefix = f"[{rank}/{processes}] " if processes > 1 else ""
    print(f"{prefix}error: {message}", file=sys.stderr, flush=True)
    os._exit(code)


def on_abort(judge: Callable[[], None]) -> None:
    """Call `judge` when C++ code aborts the program; where it returns, the program is aborted.

    JAX knows no other way to tell that it lost the coordination service (its Python callback cannot be called: jaxlib 0.10).
    A handler of Python's own would not run, since the aborting thread never returns to Python.
    """

    @ctypes.CFUNCTYPE(None, ctypes.c_int)
    def handler(number: int) -> None:
        del number
        judge()

    libc = ctypes.CDLL(None)
    libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    libc.signal.restype = ctypes.c_void_p
    libc.signal(int(signal.SIGABRT), ctypes.cast(handler, ctypes.c_void_p))
    _kept.append(handler)


_kept: list[Any] = []  # handlers that C may still call


def _listens(address: str) -> bool:
    """Tell whether somebody accepts connections at host:port."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=3).close()
    except OSError:
        return False
    return True
