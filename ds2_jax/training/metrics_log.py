"""Metrics of a run: `metrics.jsonl`, and the TensorBoard files and `curves.png` made from it. Only process 0 writes."""

import json
import logging
import time
from pathlib import Path

from ds2_jax.training import curves
from ds2_jax.training.tensorboard import Board
from input_pipeline.storage import whole_file

logger = logging.getLogger("ds2_jax")

DRAW_EVERY_S = 10.0  # shortest interval; evaluations of a small run are more frequent
DRAWN_LINES = 2000  # of training steps; more cannot be distinguished in a picture


class MetricsLog:
    """Context that appends metrics by step; on resume, lines after the restored step are removed first.

    `curves.png` is redrawn after evaluations on dev and at the end. evaluation_due: the restored step is still to be
    evaluated; a line with its result, written by a start that was killed before the checkpoint had it, is removed, too.
    active: false in processes other than 0.
    """

    def __init__(self, workdir: str, resume_step: int, *, evaluation_due: bool = False, active: bool = True):
        self._active = active
        if not active:
            return
        self._path = Path(workdir, "metrics.jsonl")
        records, damaged = _read_lines(self._path)
        if damaged:
            logger.warning(
                "%s: %d line(s) cannot be read and are removed, the first is line %d",
                self._path,
                len(damaged),
                damaged[0],
            )

        def stays(record: dict) -> bool:
            again = evaluation_due and record["step"] == resume_step and _is_evaluation(record)
            return record["step"] <= resume_step and not again

        kept = list(filter(stays, records))
        with whole_file.open_text(self._path) as file:
            file.writelines(json.dumps(record) + "\n" for record in kept)
        self._board = Board(Path(workdir, "tensorboard"))
        for record in kept:
            self._board.add(record)
        self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115 - closed by __exit__
        self._drawn_at = time.monotonic()
        self._undrawn = self._warned = False

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *_):
        if self._active:
            self._file.close()
            self._board.close()
            self.draw_curves()

    def write(self, step: int, **values: float) -> None:
        """Append a line with the values of a step."""
        if not self._active:
            return
        record = {"step": step, **values}
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        self._board.add(record)
        self._undrawn = True
        if _is_evaluation(record) and time.monotonic() - self._drawn_at >= DRAW_EVERY_S:
            self.draw_curves()

    def draw_curves(self) -> None:
        """Draw all lines written so far, if there are new ones. A failure is logged once and never raised."""
        if not self._active or not self._undrawn:
            return
        self._undrawn = False
        picture = self._path.with_name(curves.FILE)
        try:
            curves.draw_curves(read_metrics(self._path, DRAWN_LINES), picture)
        except Exception as error:  # no problem with a picture may stop a training
            if not self._warned:
                logger.warning("%s could not be drawn (%s); the training continues without it", picture, error)
            self._warned = True
        self._drawn_at = time.monotonic()


def read_metrics(path: Path, most: int = 0) -> list[dict]:
    """Read `metrics.jsonl`, except for damaged lines, such as the incomplete one that a crash leaves behind.

    most: keep about this many lines of training steps, evenly spaced, besides all lines of evaluations (0: all).
    """
    return _read_lines(path, most)[0]


def _read_lines(path: Path, most: int = 0) -> tuple[list[dict], list[int]]:
    """Return records as `read_metrics` does, and the numbers of damaged lines, except for a last one without an end."""
    lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
    ended = len(lines) - 1  # number of lines with an end
    lines = lines if lines[-1] else lines[:-1]
    every = max(1, -(-len(lines) // most)) if most else 1
    records, damaged = [], []
    for number, line in enumerate(lines, start=1):
        if (len(lines) - number) % every and b'"dev_' not in line:  # the last line is kept
            continue
        try:
            record = json.loads(line)
            if not isinstance(record["step"], int):
                raise TypeError
            records.append(record)
        except (ValueError, KeyError, TypeError):
            if number <= ended:
                damaged.append(number)
    return records, damaged


def _is_evaluation(record: dict) -> bool:
    return any(name.startswith("dev_") for name in record)
