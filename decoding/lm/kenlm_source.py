"""KenLM's source, from the archive on the package index: `lmplz` and `build_binary` are built from it."""

import os
import shutil
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path

VERSION = "0.3.0"
ROOT = Path(__file__).resolve().parents[2]  # of a checkout
BUILD = ROOT / "build" if (ROOT / "Makefile").is_file() else Path.home() / ".cache" / "ds2_jax"


class SourceError(RuntimeError):
    """The source could not be had; the message says what to do."""


def fetch(folder: Path | None = None) -> Path:
    """Download and unpack the source into `folder` (build/ of a checkout) unless it is there; return its directory.

    Raises SourceError.
    """
    folder = folder or BUILD
    source = folder / f"kenlm-{VERSION}"
    if _is_whole(source):
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
    if not hasattr(tarfile, "data_filter"):
        version = ".".join(map(str, sys.version_info[:3]))
        raise SourceError(f"Python {version} cannot unpack {archive} safely; 3.11.4 or later can")
    part = folder / f".{os.getpid()}.part"  # under its own name, a half would be taken for the whole
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(part, filter="data")
        if not _is_whole(source):  # another process may have been faster
            shutil.rmtree(source, ignore_errors=True)
            os.replace(part / source.name, source)
    except (tarfile.TarError, zlib.error, OSError, EOFError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the system's, of a full disk for instance
            raise SourceError(f"{archive} cannot be unpacked to {folder} ({error}); mend that and run again") from error
        archive.unlink(missing_ok=True)
        raise SourceError(f"{archive} cannot be unpacked ({error}); it is removed: run the same line again") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return source


def _is_whole(source: Path) -> bool:
    return (source / "lm" / "model.hh").is_file()
