"""Curves of a run: `metrics.jsonl`, and TensorBoard files made from it. Process 0 writes, the others do not."""

import json
import shutil
from pathlib import Path

from tensorboardX import SummaryWriter

from input_pipeline.storage import whole_file


class MetricsLog:
    """Append numbers by step; on resume, everything behind the restored step is cut away first."""

    def __init__(self, workdir: str, resume_step: int, *, active: bool = True):
        self._active = active
        if not active:
            return
        self._path = Path(workdir, "metrics.jsonl")
        kept = [record for record in _read(self._path) if record["step"] <= resume_step]
        with whole_file.open_text(self._path) as file:
            file.writelines(json.dumps(record) + "\n" for record in kept)
        # TensorBoard's files cannot be cut, so they are written anew.
        shutil.rmtree(Path(workdir, "tensorboard"), ignore_errors=True)
        self._board = SummaryWriter(str(Path(workdir, "tensorboard")))
        for record in kept:
            self._draw(record)
        self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115 - closed by __exit__

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *_):
        if self._active:
            self._file.close()
            self._board.close()

    def write(self, step: int, **values: float) -> None:
        """Write one line with these values at this step."""
        if not self._active:
            return
        record = {"step": step, **values}
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        self._draw(record)

    def _draw(self, record: dict) -> None:
        for name, value in record.items():
            if name != "step" and isinstance(value, int | float):
                self._board.add_scalar(name, value, record["step"])


def _read(path: Path) -> list[dict]:
    """Read complete lines; a last one that a crash cut off is left out."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records
