"""Unpack archives without trusting them.

Only plain files and folders are written. A link to a member of the archive becomes a copy of it, so that no path of the
target ever leads elsewhere, whatever the archive contains.
"""

import contextlib
import errno
import functools
import lzma
import os
import posixpath
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tqdm import tqdm

from input_pipeline.storage import disk_errors
from input_pipeline.storage.download import BAR_DELAY_S, CHUNK_BYTES
from input_pipeline.storage.lock import exclusive

MOST_LINKS = 40  # from link to link, as Linux allows


class ArchiveError(OSError):
    """An archive that is damaged or unsafe, or that cannot be unpacked here."""


class RefusedMember(Exception):
    """A member that is not unpacked, and why."""

    def __init__(self, name: str, reason: str):
        super().__init__(f"{name!r}: {reason}")


@dataclass(frozen=True)
class Member:
    """A member of an archive: a folder, a file (`open` is set) or a link (`target` is set)."""

    name: str
    done: int  # bytes of the archive up to it, for the progress bar
    size: int = 0
    executable: bool = False
    target: str = ""  # path in the archive
    open: Callable[[], IO[bytes] | None] | None = None


class DamagedArchiveError(ArchiveError):
    """An archive that ends early or has changed content; a new copy may be whole. `fault` is the message without advice."""

    def __init__(self, fault: str):
        super().__init__(f"{fault}; remove it and fetch it again")
        self.fault = fault


def extract(archive: str | Path, folder: str | Path, *, root: str = "", quiet: bool = False) -> Path:
    """Unpack a tar (plain, gz, bz2, xz) or zip archive into a new folder and return the folder.

    root: unpack only this folder of the archive, as `folder`. quiet: show no progress bar. The content is complete when
    `folder` appears; until then it is in `<folder>.part`. A process that unpacks into the same folder is waited for.
    Raises ArchiveError for absolute paths, `..`, links to anything but a member of the archive, and device files, which
    it names, for a damaged archive, for a folder that exists, and for a disk that is too small.
    """
    archive, folder = Path(archive), Path(folder)
    if folder.exists():
        raise ArchiveError(f"{folder} exists already; remove it to unpack {archive} again")
    part = folder.with_name(folder.name + ".part")
    with _explained(archive, folder):
        members = _choose_reader(archive)
        with exclusive(folder) as waited:
            if waited and folder.exists():
                return folder
            try:
                _unpack(archive, part, members, quiet)
                if not (part / root).is_dir():
                    raise DamagedArchiveError(f"{archive} has no folder {root}")
                os.replace(part / root, folder)
            finally:
                shutil.rmtree(part, ignore_errors=True)
    return folder


@contextlib.contextmanager
def _explained(archive: Path, folder: Path) -> Iterator[None]:
    """Turn what reading the archive and writing the folder raise into ArchiveError."""
    try:
        yield
    except ArchiveError:
        raise
    except RefusedMember as error:
        raise ArchiveError(f"{archive}: refused to unpack {error}") from error
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError) as error:
        raise DamagedArchiveError(f"{archive} is damaged ({error})") from error
    except (RuntimeError, NotImplementedError) as error:  # what zipfile raises for passwords and rare compressions
        raise ArchiveError(f"{archive} cannot be unpacked ({error}); unpack it by hand") from error
    except OSError as error:
        if error.errno is None:  # what gzip and lzma raise for a broken stream; errors of the system have a number
            raise DamagedArchiveError(f"{archive} is damaged ({error})") from error
        raise ArchiveError(disk_errors.describe(error, folder)) from error


def contains(archive: str | Path, path: str) -> bool:
    """Return whether an archive has a file or folder with this path, in any folder. Raises ArchiveError."""
    archive = Path(archive)
    with _explained(archive, archive):
        return any(f"/{path}/" in f"/{member.name}/" for member in _choose_reader(archive))


def _unpack(archive: Path, part: Path, members: Iterator[Member], quiet: bool) -> None:
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
        links: dict[str, str] = {}
        for member in members:
            name = _relative_name(member.name, member.name)
            if member.target:
                links[name] = _relative_name(member.target, member.name)
            elif name != ".":
                _write(member, part / name)
            bar.update(member.done - bar.n)
        _copy_links(part, links)


def _unpacked_bytes(archive: Path) -> int:
    """Return the unpacked size that a zip archive states; a tar archive states none, and needs about its own size."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            return sum(member.file_size for member in zipped.infolist())
    return archive.stat().st_size * 99 // 100


def _write(member: Member, path: Path) -> None:
    """Write a file or folder. Raises RefusedMember for a path that is both, OSError for a full disk."""
    try:
        if member.open is None:
            path.mkdir(parents=True, exist_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        if member.size > shutil.disk_usage(path.parent).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        content = member.open()
        if content is None:
            raise RefusedMember(member.name, "it has no content")
        with content, path.open("wb") as file:
            shutil.copyfileobj(content, file, CHUNK_BYTES)
        path.chmod(0o755 if member.executable else 0o644)
    except (FileExistsError, IsADirectoryError, NotADirectoryError) as error:
        raise RefusedMember(member.name, "the archive has a file and a folder of this name") from error


def _copy_links(folder: Path, links: dict[str, str]) -> None:
    """Copy what each link leads to, to its place: files before folders, which may contain links to files."""
    targets = {name: _follow(name, links) for name in links}
    to_folders = {name for name, target in targets.items() if (folder / target).is_dir()}
    for name, target in sorted(targets.items(), key=lambda link: link[0] in to_folders):
        path, source = folder / name, folder / target
        leads = f"it is a link to {links[name]!r}"
        if not source.exists():
            raise RefusedMember(name, f"{leads}, which is not in the archive")
        if path.exists() or any((folder / other).is_relative_to(source) for other in to_folders):
            raise RefusedMember(name, f"{leads}, which has to be unpacked by hand")
        path.parent.mkdir(parents=True, exist_ok=True)
        if name in to_folders:
            shutil.copytree(source, path)
        else:
            shutil.copy(source, path)


def _follow(name: str, links: dict[str, str]) -> str:
    target = links[name]
    for _ in range(MOST_LINKS):
        if target not in links:
            break
        target = links[target]
    return target


def _choose_reader(archive: Path) -> Iterator[Member]:
    """Choose how to read an archive by its content. Raises ArchiveError."""
    if not archive.is_file():
        raise ArchiveError(f"{archive}: there is no such archive; check the path")
    if zipfile.is_zipfile(archive):
        return _read_zip(archive)
    if not tarfile.is_tarfile(archive):
        raise DamagedArchiveError(f"{archive} is neither a tar nor a zip archive")
    return _read_tar(archive)


def _read_tar(archive: Path) -> Iterator[Member]:
    with archive.open("rb") as packed, tarfile.open(fileobj=packed) as tar:
        while (member := tar.next()) is not None:
            if member.size < 0:  # the next header would be sought before this one
                raise DamagedArchiveError(f"{archive} is damaged (a size of {member.size})")
            done = packed.tell()
            if member.isdir():
                yield Member(member.name, done)
            elif member.isreg():
                content = functools.partial(tar.extractfile, member)
                yield Member(member.name, done, member.size, bool(member.mode & stat.S_IXUSR), open=content)
            elif member.issym():
                yield Member(member.name, done, target=_join(posixpath.dirname(member.name), member.linkname))
            elif member.islnk():
                yield Member(member.name, done, target=_join("", member.linkname))
            else:
                raise RefusedMember(member.name, "it is neither a file nor a folder")
        while tar.fileobj is not None and tar.fileobj.read(CHUNK_BYTES):  # checksums are at the end of the stream
            pass


def _read_zip(archive: Path) -> Iterator[Member]:
    done = 0
    with zipfile.ZipFile(archive) as zipped:
        for member in zipped.infolist():
            done += member.compress_size
            name, mode = member.filename, member.external_attr >> 16
            if member.is_dir():
                yield Member(name, done)
            elif stat.S_ISLNK(mode):
                target = zipped.read(member).decode(errors="surrogateescape")
                yield Member(name, done, target=_join(posixpath.dirname(name), target))
            elif stat.S_IFMT(mode) in (0, stat.S_IFREG):
                content = functools.partial(zipped.open, member)
                yield Member(name, done, member.file_size, bool(mode & stat.S_IXUSR), open=content)
            else:
                raise RefusedMember(name, "it is neither a file nor a folder")


def _join(folder: str, target: str) -> str:
    """Return the path in the archive that a link in this folder leads to; `..` is resolved on names alone."""
    return posixpath.normpath(posixpath.join(folder, target)) if target else "/"


def _relative_name(path: str, member: str) -> str:
    """Return a path in the archive in its shortest form. Raises RefusedMember for one that leads out of it."""
    parts = path.replace("\\", "/").split("/")
    if parts[0] == "" or parts[0].endswith(":") or ".." in parts or "\0" in path:
        kind = "its path leads" if path == member else f"it is a link that leads, by {path!r},"
        raise RefusedMember(member, f"{kind} out of the folder")
    return posixpath.normpath(path)
