"""The file that --output names: tried before the work, written whole at the end."""

import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from ds2_jax.parallel import processes
from input_pipeline.storage import object_store, whole_file


def parse(outputs: str) -> list[str]:
    """Return the paths of --output, which are separated by commas."""
    return list(filter(None, (path.strip() for path in outputs.split(","))))


def check(output: str) -> None:
    """Create the folder of --output ('': none is given). Raises ValueError if the file could not be written."""
    if not output:
        return
    if object_store.is_remote(output):
        raise ValueError(f"--output={output} is in an object store: write to a local file, then copy it")
    if Path(output).is_dir():
        raise ValueError(f"--output={output} is a folder: give a file in it, --output={Path(output, 'out.jsonl')}")
    if processes.rank() == 0:
        try_folder(Path(output).absolute().parent, output)


def try_folder(folder: Path, output: str) -> None:
    """Make a folder in which files can be written. Raises ValueError naming --output if that is impossible."""
    try:
        make_folder(folder)
    except OSError as error:
        raise ValueError(f"--output={output} cannot be written ({error.strerror}): choose another folder") from error


def make_folder(folder: Path) -> None:
    """Create a folder, unless it exists, and a file in it, which is removed. Raises OSError."""
    if not folder.exists():
        folder.mkdir(parents=True, exist_ok=True)  # another process may have made it
    with tempfile.TemporaryFile(dir=folder):
        pass


def write_lines(output: str, records: Iterable[Mapping]) -> None:
    """Write records as JSON lines. Raises OSError.

    Half surrogates, of file names that are not UTF-8, become the escapes that JSON has for them.
    """
    write(output, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def write(output: str, content: str) -> None:
    """Write a text. Raises OSError. Half surrogates become escapes, as of `write_lines`."""
    with whole_file.open_text(output, errors="backslashreplace") as file:
        file.write(content)
