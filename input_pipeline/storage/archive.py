"""Unpack archives without trusting them."""

import os
import shutil
import stat
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from tqdm import tqdm

from input_pipeline.storage import disk_errors
from input_pipeline.storage.download import BAR_DELAY_S, CHUNK_BYTES
from input_pipeline.storage.lock import exclusive

Unpacker = Callable[[Path, Path], Iterator[int]]  # archive, folder -> bytes of the archive done so far


class ArchiveError(OSError):
    """An archive that is damaged or unsafe, or that cannot be unpacked here."""


class DamagedArchiveError(ArchiveError):
    """An archive that ends early or has changed content; a new copy may be whole. `fault` is the message without advice."""

    def __init__(self, fault: str):
        super().__init__(f"{fault}; remove it and fetch it again")
        self.fault = fault


def extract(archive: str | Path, folder: str | Path, *, root: str = "", quiet: bool = False) -> Path:
    """Unpack a tar (plain, gz, bz2, xz) or zip archive into a new folder and return the folder.

    root: unpack only this folder of the archive, as `folder`. quiet: show no progress bar. The content is complete when
    `folder` appears; until then it is in `<folder>.part`. A process that unpacks into the same folder is waited for.
    Raises ArchiveError for absolute paths, `..`, links out of the folder and device files, which it names, for a damaged
    archive, for a folder that exists, and for a disk that is too small.
    """
    archive, folder = Path(archive), Path(folder)
    if folder.exists():
        raise ArchiveError(f"{folder} exists already; remove it to unpack {archive} again")
    part = folder.with_name(folder.name + ".part")
    try:
        unpack = _choose_unpacker(archive)
        with exclusive(folder) as waited:
            if waited and folder.exists():
                return folder
            try:
                _unpack(archive, part, unpack, quiet)
                if not (part / root).is_dir():
                    raise DamagedArchiveError(f"{archive} has no folder {root}")
                os.replace(part / root, folder)
            finally:
                shutil.rmtree(part, ignore_errors=True)
    except ArchiveError:
        raise
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DamagedArchiveError(f"{archive} is damaged ({error})") from error
    except (RuntimeError, NotImplementedError) as error:  # what zipfile raises for passwords and rare compressions
        raise ArchiveError(f"{archive} cannot be unpacked ({error}); unpack it by hand") from error
    except OSError as error:
        if error.errno is None:  # what gzip and lzma raise for a broken stream; errors of the system have a number
            raise DamagedArchiveError(f"{archive} is damaged ({error})") from error
        raise ArchiveError(disk_errors.describe(error, folder)) from error
    return folder


def _unpack(archive: Path, part: Path, unpack: Unpacker, quiet: bool) -> None:
    if part.exists():
        shutil.rmtree(part)  # left by a process that was killed
    size, free = archive.stat().st_size, shutil.disk_usage(part.parent).free
    needed = _unpacked_bytes(archive)
    if needed > free:
        raise ArchiveError(
            f"{archive}: unpacking needs at least {needed:,} bytes, the disk of {part.parent} has {free:,} free; free some "
            "space, or choose another folder"
        )
    part.mkdir()
    title = f"unpack {archive.name}"
    with tqdm(total=size, unit="B", unit_scale=True, desc=title, delay=BAR_DELAY_S, disable=quiet) as bar:
        for done in unpack(archive, part):
            bar.update(done - bar.n)


def _unpacked_bytes(archive: Path) -> int:
    """Return the unpacked size that a zip archive states; a tar archive states none, and needs about its own size."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            return sum(member.file_size for member in zipped.infolist())
    return archive.stat().st_size * 99 // 100


def _choose_unpacker(archive: Path) -> Unpacker:
    """Choose how to read an archive by its content. Raises ArchiveError."""
    if not archive.is_file():
        raise ArchiveError(f"{archive}: there is no such archive; check the path")
    if zipfile.is_zipfile(archive):
        return _unpack_zip
    if not tarfile.is_tarfile(archive):
        raise DamagedArchiveError(f"{archive} is neither a tar nor a zip archive")
    if not hasattr(tarfile, "data_filter"):
        version = ".".join(map(str, sys.version_info[:3]))
        raise ArchiveError(f"Python {version} cannot unpack {archive} safely; 3.11.4 or later can")
    return _unpack_tar


def _unpack_tar(archive: Path, folder: Path) -> Iterator[int]:
    with archive.open("rb") as packed, tarfile.open(fileobj=packed) as tar:
        for member in tar:
            _refuse_escape(member.name, archive)
            try:
                tar.extract(member, folder, filter="data")
            except tarfile.FilterError as error:
                raise ArchiveError(f"{archive}: refused to unpack {member.name!r}: {error}") from error
            yield packed.tell()
        while tar.fileobj is not None and tar.fileobj.read(CHUNK_BYTES):  # checksums are at the end of the stream
            pass


def _unpack_zip(archive: Path, folder: Path) -> Iterator[int]:
    done = 0
    with zipfile.ZipFile(archive) as zipped:
        for member in zipped.infolist():
            _refuse_escape(member.filename, archive)
            if stat.S_ISLNK(member.external_attr >> 16):
                raise ArchiveError(f"{archive}: refused to unpack {member.filename!r}: it is a link")
            zipped.extract(member, folder)
            done += member.compress_size
            yield done


def _refuse_escape(name: str, archive: Path) -> None:
    """Raise ArchiveError for a path that leads out of the folder; tarfile's filter would only strip a leading slash."""
    parts = name.replace("\\", "/").split("/")
    if parts[0] == "" or parts[0].endswith(":") or ".." in parts:
        raise ArchiveError(f"{archive}: refused to unpack {name!r}: its path leads out of the folder")
