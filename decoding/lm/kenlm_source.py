"""KenLM's source, from the archive on the package index: `lmplz` and `build_binary` are built from it."""

import shutil
import subprocess
import sys
from pathlib import Path

from input_pipeline.storage import download
from input_pipeline.storage.archive import ArchiveError, DamagedArchiveError, extract

VERSION = "0.3.0"
SHA256 = "c4628bb9fb63c8a6f9240035b8b037385cfc404cb72e933cf48878291edac1e8"  # of the archive, from the package index
ROOT = Path(__file__).resolve().parents[2]  # of a checkout
BUILD = ROOT / "build" if (ROOT / "Makefile").is_file() else Path.home() / ".cache" / "ds2_jax"


class SourceError(RuntimeError):
    """The source cannot be downloaded or unpacked; the message says what to do."""


def fetch(folder: Path | None = None) -> Path:
    """Download and unpack the source into `folder` (default: build/ of a checkout) if necessary; return its directory.

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
                f"KenLM's source, kenlm=={VERSION}, cannot be downloaded from the package index; check the connection, or "
                f"put {archive.name} into {folder}. pip says: {result.stderr.strip()[-300:]}"
            )
    shutil.rmtree(source, ignore_errors=True)  # without its headers, it is not what this function leaves
    try:
        download.verify(archive, sha256=SHA256)
        return extract(archive, source, root=source.name)
    except DamagedArchiveError as error:
        archive.unlink(missing_ok=True)
        raise SourceError(f"{error.fault} and was removed; run the same command again") from error
    except (ArchiveError, download.DownloadError) as error:
        raise SourceError(str(error)) from error
