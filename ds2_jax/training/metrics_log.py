"""Metrics of a run: `metrics.jsonl`, and the TensorBoard files and `curves.png` made from it. Only process 0 writes."""

import json
import logging
import shutil
import time
from pathlib import Path

from tensorboardX import SummaryWriter

from ds2_jax.training import curves
from input_pipeline.storage import whole_file

logger = logging.getLogger("ds2_jax")

DRAW_EVERY_S = 10.0  # shortest interval; evaluations of a small run are more frequent
DRAWN_LINES = 2000  # of training steps; more cannot be distinguished in a picture


class MetricsLog:
    """Context that appends metrics by step; on resume, lines after the restored step are removed first.

    `curves.png` is redrawn after evaluations on dev and at the end. active: false in processes other than 0.
    """

    def __init__(self, workdir: str, resume_step: int, *, active: bool = True):
        self._active = active
        if not active:
            return
        self._path = Path(workdir, "metrics.jsonl")
        kept = [record for record in read_metrics(self._path) if record["step"] <= resume_step]
        with whole_file.open_text(self._path) as file:
            file.writelines(json.dumps(record) + "\n" for record in kept)
        # TensorBoard's files cannot be shortened, so they are rewritten.
        shutil.rmtree(Path(workdir, "tensorboard"), ignore_errors=True)
        self._board = SummaryWriter(str(Path(workdir, "tensorboard")))
        for record in kept:
            self._add_to_board(record)
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
        self._add_to_board(record)
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

    def _add_to_board(self, record: dict) -> None:
        for name, value in record.items():
            if name != "step" and isinstance(value, int | float):
                self._board.add_scalar(name, value, record["step"])


def read_metrics(path: Path, most: int = 0) -> list[dict]:
    """Read `metrics.jsonl` up to the first incomplete line, which a crash leaves behind.

    most: keep about this many lines of training steps, evenly spaced, besides all lines of evaluations (0: all).
    """
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    every = max(1, -(-len(lines) // most)) if most else 1
    records = []
    for number, line in enumerate(lines, start=1):
        if (len(lines) - number) % every and '"dev_' not in line:  # the last line is kept
            continue
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def _is_evaluation(record: dict) -> bool:
    return any(name.startswith("dev_") for name in record)
