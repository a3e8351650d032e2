"""KenLM's source, from the archive on the package index: the native decoder and `lmplz` are built from it."""

import subprocess
import sys
import tarfile
from pathlib import Path

VERSION = "0.3.0"
BUILD = Path(__file__).resolve().parents[1] / "build"


class SourceError(RuntimeError):
    """The source could not be had; the message says what to do."""


def fetch(folder: Path | None = None) -> Path:
    """Download and unpack the source into `folder` (build/ of the project) unless it is there; return its directory.

    Raises SourceError.
    """
    folder = folder or BUILD
    source = folder / f"kenlm-{VERSION}"
    if (source / "lm" / "model.hh").is_file():
        return source
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / f"kenlm-{VERSION}.tar.gz"
    if not archive.is_file():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--no-binary", "kenlm", f"kenlm=={VERSION}", "--dest", str(folder)]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode or not archive.is_file():
            raise SourceError(
                f"KenLM's source, kenlm=={VERSION}, could not be downloaded from the package index; put {archive.name} into "
                f"{folder}, or mend the connection. pip says: {result.stderr.strip()[-300:]}"
            )
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
    except (tarfile.TarError, OSError, EOFError) as error:
        archive.unlink()
        raise SourceError(f"{archive} cannot be unpacked ({error}); it is removed: run the same line again") from error
    return source
