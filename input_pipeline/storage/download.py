"""Download files over HTTP: resumed after an interruption, and verified."""

import hashlib
import http.client
import shutil
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from input_pipeline.storage import disk_errors, whole_file
from input_pipeline.storage.lock import exclusive

CHUNK_BYTES = 1 << 20
TIMEOUT_S = 60
BAR_DELAY_S = 2  # shorter work shows no progress bar


class DownloadError(OSError):
    """A file that cannot be downloaded, or differs from the published one."""


def fetch(
    url: str,
    target: str | Path,
    *,
    md5: str | None = None,
    sha256: str | None = None,
    size: int | None = None,
    quiet: bool = False,
) -> Path:
    """Download a URL to a file, verify it and return its path.

    An existing file that matches the digest and size, as far as they are given, is kept. Otherwise data goes to
    `<target>.part`, where a later call resumes if the server can, and is renamed once it is complete and verified. A
    process that downloads the same file is waited for. quiet: show no progress bar and print nothing.
    Raises DownloadError; the `.part` file is kept unless its content is wrong.
    """
    target = Path(target)
    published = _Published(md5, sha256, size)
    if _is_present(target, published, quiet):
        return target
    try:
        with exclusive(target) as waited:
            if not (waited and _is_present(target, published, quiet)):
                _fetch(url, target, published, quiet)
    except DownloadError:
        raise
    except OSError as error:
        raise DownloadError(disk_errors.describe(error, target)) from error
    return target


def verify(path: Path, *, md5: str | None = None, sha256: str | None = None, size: int | None = None) -> None:
    """Compare a file with the digests and size published for it, as far as given. Raises DownloadError."""
    difference = _Published(md5, sha256, size).difference(path)
    if difference is not None:
        raise DownloadError(
            f"{path} is not the published file ({difference}); fetch it again, or unpack it yourself if you trust it"
        )


def read_page(url: str) -> str:
    """Return the text of a web page, such as a list of files. Raises DownloadError."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
            return response.read().decode("utf-8", errors="replace")
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _unreachable(url, error) from error


def _unreachable(url: str, error: Exception) -> DownloadError:
    """Return the error for an address that cannot be reached."""
    reason = getattr(error, "reason", None) or error
    advice = "check the address and the network, then run again"
    if isinstance(reason, ssl.SSLCertVerificationError):
        advice = "if your network has a certificate of its own, name its file in SSL_CERT_FILE (docs/install.md)"
    return DownloadError(f"{url}: cannot connect ({reason}); {advice}")


class _Published(NamedTuple):
    """What is known of a file before it is downloaded."""

    md5: str | None
    sha256: str | None
    size: int | None

    @property
    def has_digest(self) -> bool:
        return bool(self.md5 or self.sha256)

    def difference(self, path: Path) -> str | None:
        """Describe how a file differs; None if it matches all that is known."""
        if self.size is not None and path.stat().st_size != self.size:
            return f"{path.stat().st_size:,} bytes instead of {self.size:,}"
        for name, expected in (("md5", self.md5), ("sha256", self.sha256)):
            if expected is not None:
                digest = _digest(path, name)
                if digest != expected.lower():
                    return f"{name} {digest} instead of {expected.lower()}"
        return None


def _digest(path: Path, name: str) -> str:
    digest = hashlib.new(name, usedforsecurity=False)
    bar = tqdm(total=path.stat().st_size, unit="B", unit_scale=True, desc=f"verify {path.name}", delay=BAR_DELAY_S)
    with bar, path.open("rb") as file:
        while block := file.read(CHUNK_BYTES):
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()


def _is_present(target: Path, published: _Published, quiet: bool) -> bool:
    if not target.exists():
        return False
    difference = published.difference(target)
    if difference is not None:
        print(f"{target} is not the published file ({difference}): fetching it again")
    elif not quiet:
        note = "" if published.has_digest else " (not verified: no digest is known)"
        print(f"{target} exists already{note}")
    return difference is None


def _fetch(url: str, target: Path, published: _Published, quiet: bool) -> None:
    part = target.with_name(target.name + ".part")
    announced = _download(url, part, published.size, quiet)
    difference = published.difference(part)
    if difference is not None:
        part.unlink()
        raise DownloadError(
            f"{url}: the downloaded file is wrong ({difference}) and was removed; run the same command again, and if that does "
            "not help, the file on the server has changed"
        )
    if not (published.has_digest or quiet):
        size = published.size if published.size is not None else announced
        verified = "no size is announced either" if size is None else f"only the size is verified ({size:,} bytes)"
        print(f"{target.name}: no digest is known, {verified}")
    whole_file.commit(part, target)


def _download(url: str, part: Path, size: int | None, quiet: bool) -> int | None:
    """Download what a partial file lacks; return the full size that the server announces, None if it does not."""
    have = part.stat().st_size if part.exists() else 0
    try:
        request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
        response = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # no bytes are left: the part is complete, or of another file
            full = _parse_content_range(error.headers.get("Content-Range"))[1]
            if full == have:
                return full
            part.unlink()
            return _download(url, part, size, quiet)
        raise DownloadError(f"{url}: the server answers {error.code} {error.reason}; check the address") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _unreachable(url, error) from error
    with response:
        start, full = 0, _parse_number(response.headers.get("Content-Length"))
        if response.status == 206:
            start, full = _parse_content_range(response.headers.get("Content-Range"))
        resumes = have > 0 and response.status == 206 and start == have
        if have and not resumes:
            print(f"{url}: the server cannot resume, starting again")
        if start and not resumes:
            raise DownloadError(f"{url}: the server sends another range than requested; remove {part} and run again")
        have = have if resumes else 0
        _check_size(url, part.parent, size, full, have)
        _receive(response, part, url, have, full, quiet)
    return full


def _check_size(url: str, folder: Path, size: int | None, full: int | None, have: int) -> None:
    """Raise DownloadError where the announced size is not the published one, or the rest has no room on the disk."""
    if full is None:
        return
    if size is not None and full != size:
        raise DownloadError(f"{url}: the server offers {full:,} bytes, {size:,} were published; check the address")
    free = shutil.disk_usage(folder).free
    if full - have > free:
        raise DownloadError(
            f"{url}: {full - have:,} bytes are left to fetch, the disk of {folder} has {free:,} free; free some space, or "
            "choose another folder"
        )


def _receive(
    response: http.client.HTTPResponse, part: Path, url: str, have: int, full: int | None, quiet: bool
) -> None:
    """Append a response to the first `have` bytes of a partial file. Raises DownloadError where it ends early."""
    bar = tqdm(total=full, initial=have, unit="B", unit_scale=True, desc=part.stem, delay=BAR_DELAY_S, disable=quiet)
    broken: Exception | None = None
    with bar, whole_file.open_in_place(part, "ab" if have else "wb") as file:
        while True:
            try:
                block = response.read1(CHUNK_BYTES)  # returns what has arrived, so a slow line's data is kept, too
            except (OSError, http.client.HTTPException) as error:
                broken = error
                break
            if not block:
                break
            file.write(block)
            have += len(block)
            bar.update(len(block))
    # http.client raises nothing when the connection closes early; only the length shows it.
    if broken is not None or (full is not None and have < full):
        of = "" if full is None else f" of {full:,}"
        why = "" if broken is None else f" ({broken})"
        raise DownloadError(
            f"{url}: the connection broke after {have:,}{of} bytes{why}; run the same command again to resume from {part}"
        )


def _parse_content_range(header: str | None) -> tuple[int, int | None]:
    """Return start and full size of `bytes 5-9/10` or `bytes */10`; 0 and None where they are missing."""
    span, _, full = (header or "").removeprefix("bytes").strip().partition("/")
    return _parse_number(span.partition("-")[0]) or 0, _parse_number(full)


def _parse_number(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None
