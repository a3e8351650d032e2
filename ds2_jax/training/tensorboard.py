"""TensorBoard files of a run, written without a thread: one that fails leaves a full queue, which blocks the training."""

import contextlib
import logging
import shutil
import time
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.summary import scalar

logger = logging.getLogger("ds2_jax")


class Board:
    """Event file in a new folder, which replaces an old one: event files cannot be shortened when a run resumes.

    A file that cannot be written, as on a full disk, is given up with a warning; the numbers are in `metrics.jsonl`, from
    which the next start makes it again.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._writer: EventsWriter | None = None
        shutil.rmtree(folder, ignore_errors=True)
        try:
            folder.mkdir(exist_ok=True)
            self._writer = EventsWriter(str(folder / "events"))
        except OSError as error:
            self._give_up(error)

    def add(self, record: dict) -> None:
        """Add the numbers of a line of `metrics.jsonl`."""
        if self._writer is None:
            return
        event = Event(wall_time=time.time(), step=record["step"])
        for name, value in record.items():
            if name != "step" and isinstance(value, int | float):
                event.summary.MergeFrom(scalar(name, value))
        try:
            self._writer.write_event(event)
            self._writer.flush()
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            try:
                self._writer.close()
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            with contextlib.suppress(OSError):
                writer._py_recordio_writer.close()  # writer.close() would fail before; Python 3.13 reports what stays open
        logger.warning("%s cannot be written (%s); the training continues without it", self._folder, error.strerror)
