"""Fetch archives over HTTP, resuming what broke off, and unpack them without trusting them."""

import errno
import hashlib
import http.client
import os
import shutil
import stat
import sys
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from input_pipeline.storage.lock import exclusive

CHUNK_BYTES = 1 << 20
TIMEOUT_S = 60
BAR_DELAY_S = 2  # shorter work shows no bar


class DownloadError(OSError):
    """A file cannot be fetched, or is not the one that was published."""


class ArchiveError(OSError):
    """An archive is damaged, unsafe or cannot be unpacked here."""


class DamagedArchiveError(ArchiveError):
    """An archive that ends early or was changed on its way: fetched again, it may be whole. `fault` is without advice."""

    def __init__(self, fault: str):
        super().__init__(f"{fault}; remove it and fetch it again")
        self.fault = fault


def fetch(
    url: str,
    target: str | Path,
    *,
    md5: str | None = None,
    sha256: str | None = None,
    size: int | None = None,
    quiet: bool = False,
) -> Path:
    """Download a URL to a file, verified, and return the file.

    A file that is there already and fits the digest (or the size, or nothing, as far as known) is kept. Otherwise the
    download goes to `<target>.part`, continues an earlier one where the server can, and takes its name only when it is
    complete and right. Raises DownloadError; the `.part` stays for the next attempt unless its content is wrong.
    `quiet` is for one of many: no bar, no word. A process that fetches the same file is waited for.
    """
    target = Path(target)
    known = _Published(md5, sha256, size)
    if _is_there(target, known, quiet):
        return target
    try:
        with exclusive(target) as waited:
            if not (waited and _is_there(target, known, quiet)):
                _fetch(url, target, known, quiet)
    except DownloadError:
        raise
    except OSError as error:
        raise DownloadError(_local_fault(error, target)) from error
    return target


def _is_there(target: Path, known: "_Published", quiet: bool) -> bool:
    if not target.exists():
        return False
    fault = known.fault(target)
    if fault is not None:
        print(f"{target} is not the published file ({fault}): fetching it again")
    elif not quiet:
        print(f"{target} is there already" + ("" if known.has_digest else " (no digest is known to verify it by)"))
    return fault is None


def _fetch(url: str, target: Path, known: "_Published", quiet: bool) -> None:
    part = target.with_name(target.name + ".part")
    announced = _download(url, part, known.size, quiet)
    fault = known.fault(part)
    if fault is not None:
        part.unlink()
        raise DownloadError(
            f"{url}: the downloaded file is wrong ({fault}) and was removed; run the same line again, "
            "and if that does not help, the file on the server has changed"
        )
    if not (known.has_digest or quiet):
        size = known.size if known.size is not None else announced
        by = "no size is announced either" if size is None else f"only the size is verified ({size:,} bytes)"
        print(f"{target.name}: no digest is known, {by}")
    os.replace(part, target)


def verify(path: Path, *, md5: str | None = None, sha256: str | None = None, size: int | None = None) -> None:
    """Compare a file with what was published of it, as far as known. Raises DownloadError that says what differs."""
    fault = _Published(md5, sha256, size).fault(path)
    if fault is not None:
        raise DownloadError(
            f"{path} is not the published file ({fault}); fetch it again, or unpack it yourself if you trust it"
        )


def read_page(url: str) -> str:
    """Fetch a page, such as a list of files, as text. Raises DownloadError."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
            return response.read().decode("utf-8", errors="replace")
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise DownloadError(f"{url}: cannot be read ({error}); check the address and the network") from error


def _download(url: str, part: Path, size: int | None, quiet: bool) -> int | None:
    """Stream the rest of a URL into a partial file and return the announced full size, None where there is none."""
    have = part.stat().st_size if part.exists() else 0
    try:
        request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
        response = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing after our last byte: complete, or not a part of this file at all
            full = _content_range(error.headers.get("Content-Range"))[1]
            if full == have:
                return full
            part.unlink()
            return _download(url, part, size, quiet)
        raise DownloadError(f"{url}: the server answers {error.code} {error.reason}; check the address") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise DownloadError(
            f"{url}: cannot connect ({reason}); check the address and the network, then run again"
        ) from error
    with response:
        start, full = 0, _number(response.headers.get("Content-Length"))
        if response.status == 206:
            start, full = _content_range(response.headers.get("Content-Range"))
        resumes = have > 0 and response.status == 206 and start == have
        if have and not resumes:
            print(f"{url}: the server cannot resume, starting again")
        if start and not resumes:
            raise DownloadError(f"{url}: the server sends another range than asked for; remove {part} and run again")
        if size is not None and full is not None and full != size:
            raise DownloadError(f"{url}: the server offers {full:,} bytes, {size:,} were published; check the address")
        free = shutil.disk_usage(part.parent).free
        have = have if resumes else 0
        if full is not None and full - have > free:
            raise DownloadError(
                f"{url}: {full - have:,} bytes are left to fetch, the disk of {part.parent} has {free:,} free; "
                "free some space, or choose another folder"
            )
        _receive(response, part, url, have, full, quiet)
    return full


def _receive(
    response: http.client.HTTPResponse, part: Path, url: str, have: int, full: int | None, quiet: bool
) -> None:
    """Append a response body to the first `have` bytes of a partial file, and insist on its announced length."""
    bar = tqdm(total=full, initial=have, unit="B", unit_scale=True, desc=part.stem, delay=BAR_DELAY_S, disable=quiet)
    broken: Exception | None = None
    with bar, part.open("ab" if have else "wb") as file:
        while True:
            try:
                block = response.read1(CHUNK_BYTES)  # what has come, not only when it is a mebibyte
            except (OSError, http.client.HTTPException) as error:
                broken = error
                break
            if not block:
                break
            file.write(block)
            have += len(block)
            bar.update(len(block))
    if broken is not None or (full is not None and have < full):
        # A body that ends early raises nothing in http.client: only its length tells.
        of = "" if full is None else f" of {full:,}"
        why = "" if broken is None else f" ({broken})"
        raise DownloadError(
            f"{url}: the connection broke after {have:,}{of} bytes{why}; run the same line again to resume from {part}"
        )


def _content_range(header: str | None) -> tuple[int, int | None]:
    """Read start and full size from `bytes 5-9/10` or `bytes */10`; 0 and None where they are missing."""
    span, _, full = (header or "").removeprefix("bytes").strip().partition("/")
    return _number(span.partition("-")[0]) or 0, _number(full)


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None


class _Published(NamedTuple):
    """What is known of a file."""

    md5: str | None
    sha256: str | None
    size: int | None

    @property
    def has_digest(self) -> bool:
        return bool(self.md5 or self.sha256)

    def fault(self, path: Path) -> str | None:
        """Say what is wrong with a file, None if it fits all that is known of it."""
        if self.size is not None and path.stat().st_size != self.size:
            return f"{path.stat().st_size:,} bytes instead of {self.size:,}"
        for name, expected in (("md5", self.md5), ("sha256", self.sha256)):
            if expected is not None:
                found = _digest(path, name)
                if found != expected.lower():
                    return f"{name} {found} instead of {expected.lower()}"
        return None


def _digest(path: Path, name: str) -> str:
    state = hashlib.new(name, usedforsecurity=False)
    bar = tqdm(total=path.stat().st_size, unit="B", unit_scale=True, desc=f"verify {path.name}", delay=BAR_DELAY_S)
    with bar, path.open("rb") as file:
        while block := file.read(CHUNK_BYTES):
            state.update(block)
            bar.update(len(block))
    return state.hexdigest()


def _local_fault(error: OSError, where: Path) -> str:
    """Word an error of the local file system."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{where}: the disk is full; free some space and run the same line again"
    return f"{where}: cannot be written ({error.strerror or error}); choose a folder that can be"


def extract(archive: str | Path, folder: str | Path, *, quiet: bool = False) -> Path:
    """Unpack a tar (plain, gz, bz2, xz) or zip archive into a new folder and return the folder.

    The folder appears under its name only when everything is in it (until then it is `<folder>.part`). Raises
    ArchiveError, naming the member, for absolute paths, `..`, links out of the folder and device files, for a damaged
    archive, for a folder that exists, and for a disk that is too small. `quiet` is for one of many: no bar.
    """
    archive, folder = Path(archive), Path(folder)
    if folder.exists():
        raise ArchiveError(f"{folder} exists already; remove it to unpack {archive} anew")
    part = folder.with_name(folder.name + ".part")
    try:
        unpack = _unpacker(archive)
        with exclusive(folder) as waited:
            if waited and folder.exists():
                return folder
            try:
                _extract(archive, part, unpack, quiet)
                os.replace(part, folder)
            finally:
                shutil.rmtree(part, ignore_errors=True)
    except ArchiveError:
        raise
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DamagedArchiveError(f"{archive} is damaged ({error})") from error
    except (RuntimeError, NotImplementedError) as error:  # zipfile's words for a password or a rare compression
        raise ArchiveError(f"{archive} cannot be unpacked ({error}); unpack it by hand") from error
    except OSError as error:
        if error.errno is None:  # gzip and lzma say so when the stream is broken; the system always sets a number
            raise DamagedArchiveError(f"{archive} is damaged ({error})") from error
        raise ArchiveError(_local_fault(error, folder)) from error
    return folder


def _extract(archive: Path, part: Path, unpack: Callable[[Path, Path], Iterator[int]], quiet: bool) -> None:
    if part.exists():
        shutil.rmtree(part)  # of a run that was killed
    size, free = archive.stat().st_size, shutil.disk_usage(part.parent).free
    needed = _unpacked_bytes(archive)
    if needed > free:
        raise ArchiveError(
            f"{archive}: unpacked, it takes {needed:,} bytes at least, the disk of {part.parent} has {free:,} free; "
            "free some space, or choose another folder"
        )
    part.mkdir()
    what = f"unpack {archive.name}"
    with tqdm(total=size, unit="B", unit_scale=True, desc=what, delay=BAR_DELAY_S, disable=quiet) as bar:
        for done in unpack(archive, part):
            bar.update(done - bar.n)


def _unpacked_bytes(archive: Path) -> int:
    """Return what a zip archive says that it takes; a tar does not say, and takes about its own size at least."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            return sum(member.file_size for member in zipped.infolist())
    return archive.stat().st_size * 99 // 100


def _unpacker(archive: Path) -> Callable[[Path, Path], Iterator[int]]:
    """Choose by content how an archive is read; the unpackers say how many of its bytes are done."""
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
        while tar.fileobj is not None and tar.fileobj.read(CHUNK_BYTES):  # to the end, where the check sums are
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
    """Refuse a member that would be written outside; tarfile's own filter strips a leading slash and goes on."""
    parts = name.replace("\\", "/").split("/")
    if parts[0] == "" or parts[0].endswith(":") or ".." in parts:
        raise ArchiveError(f"{archive}: refused to unpack {name!r}: its path leads out of the folder")
