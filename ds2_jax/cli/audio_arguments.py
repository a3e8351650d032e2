"""What --audio names: files, folders, patterns, and `-` for standard input."""

import glob
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from ds2_jax.parallel import processes
from input_pipeline.corpora.assemble import list_files
from input_pipeline.storage.file_kind import AUDIO_ENDINGS

STDIN = "-"
STDIN_NAME = "standard input"


def list_audio(arguments: Sequence[str]) -> list[str]:
    """Return the paths that --audio names, and `-` as it is; files of a folder, and of a pattern, in natural order.

    Folders are searched with all those in them. Paths that do not exist are returned, to be reported with the others.
    Raises ValueError for a folder or a pattern without audio, and for `-` twice, in several processes or from a terminal.
    """
    paths = [path for argument in arguments for path in _list(argument)]
    if paths.count(STDIN) > 1 or (STDIN in paths and processes.count() > 1):
        raise ValueError("--audio=- can be read once, by one process: give it once, and start no others")
    if STDIN in paths and sys.stdin.isatty():
        raise ValueError("--audio=- reads an audio file from standard input, which is a terminal: pipe one into it")
    return paths


def read_stdin() -> bytes:
    """Read the content of a whole audio file from standard input."""
    return sys.stdin.buffer.read()


def natural_order(path: str) -> list[tuple[int, int, str]]:
    """Return a key that sorts names as people do: `clip2` before `clip10`."""
    parts = re.split(r"(\d+)", path)
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts if part]


def _list(argument: str) -> list[str]:
    if Path(argument).is_fifo():
        raise ValueError(f"--audio={argument} is a pipe, which can be read once: give its content as --audio=-")
    if argument == STDIN or Path(argument).is_file():  # a file's own name may look like a pattern
        return [argument]
    if Path(argument).is_dir():
        found = sorted(list_files(Path(argument), *AUDIO_ENDINGS), key=natural_order)
        what = f"the folder contains no audio ({' '.join(AUDIO_ENDINGS)})"
    elif glob.has_magic(argument):
        matching = glob.glob(argument, recursive=True)
        found = sorted((path for path in matching if Path(path).is_file()), key=natural_order)
        what = "no file matches the pattern"
    else:
        return [argument]
    if not found:
        raise ValueError(f"--audio={argument}: {what}: check the path")
    return found
