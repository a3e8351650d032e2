"""Figures of a run that may be cut off: a JSON line for each step as soon as it has ended.

A run is a process that its parent starts again if it crashes or hangs: steps that have ended, and those that ended a
process, are not repeated.
"""

import contextlib
import hashlib
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

RESTART = 75  # exit status of a process whose device may be unusable
FAILED = "failed"  # key of the reason in the line of a step without figures

Figures = dict[str, Any]


class Journal:
    """The lines of a file; `until` is the time (of `time.time`) at which the run has to end."""

    def __init__(self, path: Path, until: float):
        self._path, self._until = path, until
        digest = hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:16]
        # names of steps, in progress if their number is odd; not beside the figures, which are all that is wanted back
        self._begun = Path(tempfile.gettempdir(), f"ds2_card_{digest}.begun")
        if not path.exists():
            self._begun.unlink(missing_ok=True)
            path.touch()
        self._lock = threading.Lock()
        self._in_progress: set[str] = set()
        self._ended = {line["step"] for line in read(path)}
        names = self._begun.read_text().splitlines() if self._begun.exists() else []
        for name in dict.fromkeys(names):
            if names.count(name) % 2 and name not in self._ended:
                self.add(name, {FAILED: "it ended the process"})

    @property
    def left_s(self) -> float:
        """Seconds until the run has to end."""
        return self._until - time.time()

    def has(self, name: str) -> bool:
        """Return whether a step has ended, with figures or not."""
        return name in self._ended

    def add(self, name: str, figures: Figures) -> None:
        """Write the line of a step that has ended, and print it."""
        with self._lock:
            self._ended.add(name)
            line = json.dumps({"step": name, **figures, "at": round(time.time(), 1)})
            with self._path.open("a") as file:
                file.write(line + "\n")
            print(line, flush=True)

    @contextlib.contextmanager
    def marked(self, name: str) -> Iterator[None]:
        """Record that the enclosed work is in progress: a later process will not repeat it if it ends this one."""
        self._mark(name)
        self._in_progress.add(name)
        try:
            yield
        finally:
            self._in_progress.discard(name)
            self._mark(name)

    def run(self, name: str, limit_s: float, measure: Callable[[], Figures]) -> bool:
        """Measure a step and write its figures; return whether that is done, now or in an earlier process.

        An exception is written as the step's failure. If the step takes longer than the limit, that is written, and the
        process ends.
        """
        if self.has(name):
            return True
        limit_s = min(limit_s, self.left_s)
        if limit_s <= 0:
            return False
        watchdog = threading.Timer(limit_s, self._give_up, (name, limit_s))
        watchdog.daemon = True
        with self.marked(name):
            watchdog.start()
            try:
                figures = measure()
            except Exception as error:  # whatever it is, the next step may work
                self.add(name, {FAILED: f"{type(error).__name__}: {error}"[:500]})
                return False
            finally:
                watchdog.cancel()
            self.add(name, figures)
        return True

    def _mark(self, name: str) -> None:
        with self._lock, self._begun.open("a") as file:
            file.write(name + "\n")

    def _give_up(self, name: str, limit_s: float) -> None:
        self.add(name, {FAILED: f"it took longer than {limit_s:.3g} s"})
        self.restart()  # a call that hangs in the driver cannot be interrupted

    def restart(self) -> None:
        """End the process, to be started again; what else is in progress is not at fault, and will be repeated."""
        for name in list(self._in_progress):
            self._mark(name)
        os._exit(RESTART)


def read(path: Path) -> list[Figures]:
    """Return the lines of a file; none if it does not exist. A last line that was cut off is left out."""
    lines = path.read_text().splitlines() if path.exists() else []
    complete = []
    for line in lines:
        with contextlib.suppress(json.JSONDecodeError):
            complete.append(json.loads(line))
    return complete
