"""Corpora for tests: archives of real clips with the layout of the published ones, on a local server."""

import contextlib
import dataclasses
import functools
import hashlib
import http.server
import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType

import pytest
import soundfile
import soxr

from tests.conftest import CLIPS

Files = Mapping[str, bytes] | Mapping[str, str] | Mapping[str, bytes | str]  # contents by path
CLIP_NAMES = sorted(path.name for path in CLIPS.glob("*.flac"))


@functools.cache
def clip(number: int, kind: str = "FLAC", rate: int = 16_000) -> bytes:
    """Return the content of an audio file of this format and sample rate; `number` chooses the clip."""
    samples, own_rate = soundfile.read(CLIPS / CLIP_NAMES[number % len(CLIP_NAMES)], dtype="int16")
    file = io.BytesIO()
    soundfile.write(file, samples if rate == own_rate else soxr.resample(samples, own_rate, rate), rate, format=kind)
    return file.getvalue()


def duration(number: int, kind: str = "FLAC", rate: int = 16_000) -> float:
    """Return the seconds of `clip(number, kind, rate)`, rounded as in manifests."""
    return round(soundfile.info(io.BytesIO(clip(number, kind, rate))).duration, 3)


def write_tree(folder: Path, files: Files) -> Path:
    """Write files below a folder; return the folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def tar(files: Files, bz2: bool = False) -> bytes:
    """Pack files into a tar archive compressed with gzip or bzip2."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:bz2" if bz2 else "w:gz") as archive:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return packed.getvalue()


def zipped(files: Files) -> bytes:
    """Pack files into a zip archive."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


def publish(monkeypatch: pytest.MonkeyPatch, module: ModuleType, packed: bytes) -> None:
    """Replace the digest or size that a corpus module expects of its archive by that of these bytes."""
    published = module.ARCHIVE
    packed_here = dataclasses.replace(
        published,
        md5=published.md5 and hashlib.md5(packed).hexdigest(),
        sha256=published.sha256 and hashlib.sha256(packed).hexdigest(),
        size=published.size and len(packed),
    )
    monkeypatch.setattr(module, "ARCHIVE", packed_here)


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve a folder locally and yield its address."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args) -> None:
            pass

    handler = functools.partial(Handler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def read_manifest(path: Path) -> list[dict]:
    """Read the lines of a manifest."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def texts(path: Path) -> list[str]:
    """Read the texts of a manifest."""
    return [record["text"] for record in read_manifest(path)]
