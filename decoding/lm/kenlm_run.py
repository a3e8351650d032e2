"""Run KenLM's programs with a progress bar: they report progress as rows of stars among their messages."""

import contextlib
import errno
import os
import re
import select
import signal
import subprocess
from pathlib import Path
from typing import IO

from tqdm import tqdm

from decoding.lm.kenlm_build import KenlmError
from decoding.lm.model_file import kenlm_message

STAGE = re.compile(r"^=== (\d/\d .*) ===$", re.MULTILINE)
BANNER, MARK = "----5---10", "==="  # above the stars; around the name of a stage
STARS = 100  # of a finished part
TICK_S = 1.0
DELAY_S = 2.0  # shorter work shows no progress bar
MAX_SHOWN = 1000  # characters of the messages of a failed program
DISK_FULL = os.strerror(errno.ENOSPC)


def run(command: list[str], source: Path | None = None, target: Path | None = None) -> str:
    """Run a program with its input and output in files, and return its messages.

    Raises KenlmError with its last messages, and OSError if the disk is full.
    """
    name = Path(command[0]).name
    with contextlib.ExitStack() as stack:
        stdin = stack.enter_context(open(source, "rb")) if source else subprocess.DEVNULL
        stdout = stack.enter_context(open(target, "wb")) if target else subprocess.DEVNULL
        process = stack.enter_context(subprocess.Popen(command, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE))
        assert process.stderr is not None
        try:
            messages = _follow(process.stderr, name)
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        if DISK_FULL in messages:
            raise OSError(errno.ENOSPC, DISK_FULL)
        status = f"exit code {process.returncode}"
        if process.returncode < 0:
            reason = ", perhaps for lack of memory" if process.returncode == -signal.SIGKILL else ""
            status = f"it was ended by signal {-process.returncode}{reason}"
        raise KenlmError(f"{name} failed: {'; '.join(filter(None, (kenlm_message(messages)[-MAX_SHOWN:], status)))}")
    return messages


def _follow(messages: IO[bytes], name: str) -> str:
    """Read the messages of a program until it ends, with a progress bar for each part that takes long."""
    text, title = "", ""
    bar: tqdm | None = None
    while True:
        ready, _, _ = select.select([messages], [], [], TICK_S)
        block = os.read(messages.fileno(), 1 << 16).decode("utf-8", "replace") if ready else ""
        if ready and not block:
            break
        text += block
        current = _title(text)
        if bar is None or current != title:
            if bar is not None:
                bar.close()
            title = current
            bar = tqdm(total=STARS, desc=f"{name} {title}", unit="%", delay=DELAY_S, mininterval=TICK_S, leave=False)
        bar.update(text.count("*", max(text.rfind(BANNER), text.rfind(MARK))) - bar.n)
        if not ready and bar.format_dict["elapsed"] > DELAY_S:
            bar.refresh()  # shows the time that has passed
    if bar is not None:
        bar.close()
    return text


def _title(text: str) -> str:
    """Return the name of the current part: lmplz numbers its stages, build_binary writes a line before the stars."""
    if stages := STAGE.findall(text):
        return stages[-1]
    return text.rpartition(BANNER)[0].rstrip("\n").rpartition("\n")[2].partition(" /")[0]  # without a path
