"""Run KenLM's programs and show how far they are: they draw stars into their messages where we draw a bar."""

import contextlib
import errno
import os
import re
import select
import subprocess
from pathlib import Path
from typing import IO

from tqdm import tqdm

from decoding.lm.kenlm_build import KenlmError
from decoding.lm.model_file import kenlm_words

STAGE = re.compile(r"^=== (\d/\d .*) ===$", re.MULTILINE)
BANNER, MARK = "----5---10", "==="  # above the stars; around a stage's name
STARS = 100  # of a part that is done
TICK_S = 1.0
DELAY_S = 2.0  # shorter work shows no bar
TOLD = 1000  # characters of the last words of a program that failed
FULL = os.strerror(errno.ENOSPC)


def run(command: list[str], source: Path | None = None, target: Path | None = None) -> str:
    """Run a program from a file to a file and return what it said.

    Raises KenlmError with its last words, and OSError where the disk is full.
    """
    name = Path(command[0]).name
    with contextlib.ExitStack() as stack:
        stdin = stack.enter_context(open(source, "rb")) if source else subprocess.DEVNULL
        stdout = stack.enter_context(open(target, "wb")) if target else subprocess.DEVNULL
        process = stack.enter_context(subprocess.Popen(command, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE))
        assert process.stderr is not None
        try:
            said = _follow(process.stderr, name)
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        if FULL in said:
            raise OSError(errno.ENOSPC, FULL)
        ended = f"exit code {process.returncode}"
        if process.returncode < 0:
            ended = f"it was ended by signal {-process.returncode}" + (
                ", perhaps for want of memory" if process.returncode == -9 else ""
            )
        raise KenlmError(f"{name} failed: {'; '.join(filter(None, (kenlm_words(said)[-TOLD:], ended)))}")
    return said


def _follow(messages: IO[bytes], name: str) -> str:
    """Read what a program says to its end, with a bar for each of its parts that takes long."""
    said, title = "", ""
    bar: tqdm | None = None
    while True:
        ready, _, _ = select.select([messages], [], [], TICK_S)
        block = os.read(messages.fileno(), 1 << 16).decode("utf-8", "replace") if ready else ""
        if ready and not block:
            break
        said += block
        found = _title(said)
        if bar is None or found != title:
            if bar is not None:
                bar.close()
            title = found
            bar = tqdm(total=STARS, desc=f"{name} {title}", unit="%", delay=DELAY_S, mininterval=TICK_S, leave=False)
        bar.update(said.count("*", max(said.rfind(BANNER), said.rfind(MARK))) - bar.n)
        if not ready and bar.format_dict["elapsed"] > DELAY_S:
            bar.refresh()  # the time that has passed
    if bar is not None:
        bar.close()
    return said


def _title(said: str) -> str:
    """Return the name of the part that a program is at: lmplz numbers them, build_binary has a line before each bar."""
    if stages := STAGE.findall(said):
        return stages[-1]
    return said.rpartition(BANNER)[0].rstrip("\n").rpartition("\n")[2].partition(" /")[0]  # without a path
