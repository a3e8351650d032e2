"""Downloads from a real server on this machine: resumed, verified, and never left half done under their name."""

import contextlib
import hashlib
import http.server
import os
import shutil
import ssl
import stat
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest

from input_pipeline.storage.download import DownloadError, fetch
from input_pipeline.storage.lock import exclusive
from tests.certificates import make_certificate
from tests.runs import ROOT, Program, wait_until, wait_until_printed

CONTENT = bytes(range(256)) * 4000  # 1 MB: more than one read
MD5 = hashlib.md5(CONTENT).hexdigest()
SHA256 = hashlib.sha256(CONTENT).hexdigest()
FULL_DISK = Path("/dev/full")


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT; `ranges` tells whether it can resume, `breaks_after` where it closes the connection."""

    ranges = True
    breaks_after: int | None = None
    pause: threading.Event | None = None  # waited for in the middle

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []  # the Range header of each request
        self.url = f"http://127.0.0.1:{self.server_address[1]}/corpus.tar.gz"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        if self.path != "/corpus.tar.gz":
            self.send_error(404)
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.server.ranges else 0
        if start >= len(CONTENT):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(CONTENT)}")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # a client that refuses the size has gone by now
            if self.server.pause is not None:
                self.wfile.write(CONTENT[start : start + 200_000])
                start += 200_000
                self.server.pause.wait()
            self.wfile.write(CONTENT[start : self.server.breaks_after])

    def log_message(self, *args) -> None:
        pass


@pytest.fixture
def server():
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.mark.parametrize("known", [{"md5": MD5}, {"sha256": SHA256}, {"md5": MD5, "size": len(CONTENT)}])
def test_fetch_writes_the_file_and_leaves_no_part(server, tmp_path, known):
    target = tmp_path / "new" / "corpus.tar.gz"
    assert fetch(server.url, target, **known) == target
    assert target.read_bytes() == CONTENT
    assert [path.name for path in target.parent.iterdir()] == ["corpus.tar.gz"]


def test_a_file_with_the_right_digest_is_not_fetched_again(server, tmp_path):
    target = tmp_path / "corpus.tar.gz"
    target.write_bytes(CONTENT)
    fetch(server.url, target, md5=MD5.upper())
    assert server.asked == []


def test_a_file_with_a_wrong_digest_is_replaced(server, tmp_path, capsys):
    target = tmp_path / "corpus.tar.gz"
    target.write_bytes(b"something else")
    fetch(server.url, target, sha256=SHA256)
    assert target.read_bytes() == CONTENT
    assert "is not the published file (sha256" in capsys.readouterr().out


def test_a_broken_download_says_so_and_is_resumed_where_it_broke(server, tmp_path):
    target, part = tmp_path / "corpus.tar.gz", tmp_path / "corpus.tar.gz.part"
    server.breaks_after = 300_000
    with pytest.raises(DownloadError, match=r"broke after 300,000 of 1,024,000 bytes.*run the same command again"):
        fetch(server.url, target, md5=MD5)
    assert part.read_bytes() == CONTENT[:300_000]
    assert not target.exists()
    server.breaks_after = None
    fetch(server.url, target, md5=MD5)
    assert target.read_bytes() == CONTENT
    assert server.asked == [None, "bytes=300000-"]


def test_two_that_fetch_the_same_fetch_it_once(server, tmp_path, capsys):
    target = tmp_path / "corpus.tar.gz"
    second = threading.Thread(target=fetch, args=(server.url, target))
    with exclusive(target):
        second.start()
        printed = wait_until_printed("which is writing it", capsys)
        assert f"{target}: waiting for process {os.getpid()} on " in printed
        target.write_bytes(CONTENT)
    second.join()
    assert server.asked == []
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.tar.gz"]


def test_the_lock_of_a_process_that_was_killed_keeps_nobody_waiting(server, tmp_path):
    hold = "import sys, time; from input_pipeline.storage.lock import exclusive; from pathlib import Path\n"
    hold += "with exclusive(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    target = tmp_path / "corpus.tar.gz"
    with Program([sys.executable, "-c", hold, target], cwd=ROOT, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        holder.kill()
    assert (tmp_path / "corpus.tar.gz.lock").exists()
    fetch(server.url, target, md5=MD5)
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.tar.gz"]


def test_what_a_slow_line_brings_is_written_as_it_comes(server, tmp_path):
    server.pause = threading.Event()
    thread = threading.Thread(target=fetch, args=(server.url, tmp_path / "corpus.tar.gz"))
    thread.start()
    try:
        part = tmp_path / "corpus.tar.gz.part"
        wait_until(lambda: part.exists() and part.stat().st_size >= 100_000)
    finally:
        server.pause.set()
        thread.join()


def test_a_server_without_ranges_is_read_from_the_start(server, tmp_path, capsys):
    server.ranges = False
    (tmp_path / "corpus.tar.gz.part").write_bytes(CONTENT[:1000])
    fetch(server.url, tmp_path / "corpus.tar.gz", md5=MD5)
    assert (tmp_path / "corpus.tar.gz").read_bytes() == CONTENT
    assert "cannot resume" in capsys.readouterr().out


@pytest.mark.parametrize("part", [CONTENT, CONTENT + b"of a longer file"], ids=["complete", "too long"])
def test_a_part_with_nothing_left_to_fetch_ends_right(server, tmp_path, part):
    (tmp_path / "corpus.tar.gz.part").write_bytes(part)
    fetch(server.url, tmp_path / "corpus.tar.gz", md5=MD5)
    assert (tmp_path / "corpus.tar.gz").read_bytes() == CONTENT


def test_a_corrupt_part_is_removed_with_both_digests_named(server, tmp_path):
    (tmp_path / "corpus.tar.gz.part").write_bytes(b"x" * 1000)
    with pytest.raises(DownloadError, match=rf"md5 \w+ instead of {MD5}.*removed"):
        fetch(server.url, tmp_path / "corpus.tar.gz", md5=MD5)
    assert list(tmp_path.iterdir()) == []


def test_without_a_digest_the_size_is_said_to_be_all_that_is_verified(server, tmp_path, capsys):
    fetch(server.url, tmp_path / "corpus.tar.gz")
    assert "corpus.tar.gz: no digest is known, only the size is verified (1,024,000 bytes)" in capsys.readouterr().out


def test_another_size_than_published_fails_before_the_download(server, tmp_path):
    with pytest.raises(DownloadError, match="offers 1,024,000 bytes, 5 were published"):
        fetch(server.url, tmp_path / "corpus.tar.gz", size=5)


def test_a_wrong_address_and_a_dead_server_are_told_apart(server, tmp_path):
    with Server() as dead:
        pass  # closed again: nobody listens at its port
    with pytest.raises(DownloadError, match="/nowhere: the server answers 404"):
        fetch(server.url.replace("corpus.tar.gz", "nowhere"), tmp_path / "x")
    with pytest.raises(DownloadError, match="cannot connect"):
        fetch(dead.url, tmp_path / "x")
    with pytest.raises(DownloadError, match="cannot connect"):
        fetch("not an address", tmp_path / "x")


@pytest.mark.skipif(not FULL_DISK.exists(), reason="needs /dev/full, the full disk of Linux")
@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl is installed")
def test_a_certificate_that_is_not_trusted_is_told_apart_and_a_given_one_is_trusted(server, tmp_path, monkeypatch):
    certificate, key = make_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    url, target = server.url.replace("http:", "https:"), tmp_path / "corpus.tar.gz"
    with pytest.raises(DownloadError, match=r"certificate verify failed.*name its file in SSL_CERT_FILE"):
        fetch(url, target)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    urllib.request.install_opener(None)  # the one of this process keeps the certificates that it began with
    assert fetch(url, target, md5=MD5).read_bytes() == CONTENT


def test_a_full_disk_is_named_and_the_part_stays(server, tmp_path):
    part = tmp_path / "corpus.tar.gz.part"
    try:
        os.mknod(part, stat.S_IFCHR | 0o666, FULL_DISK.stat().st_rdev)
    except PermissionError:
        pytest.skip("making a device file needs its capability")
    with pytest.raises(DownloadError, match=r"corpus.tar.gz: the disk is full; free some space"):
        fetch(server.url, tmp_path / "corpus.tar.gz", md5=MD5)
    assert part.is_char_device()


def test_a_disk_too_small_is_told_before_anything_is_fetched(server, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=500_000))
    with pytest.raises(DownloadError, match=r"1,024,000 bytes are left to fetch, the disk of .* has 500,000 free"):
        fetch(server.url, tmp_path / "corpus.tar.gz", md5=MD5)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "corpus.tar.gz.part").write_bytes(CONTENT[:600_000])
    fetch(server.url, tmp_path / "corpus.tar.gz", md5=MD5)  # the rest has room


def test_a_folder_that_cannot_be_written_is_named(server, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DownloadError, match="cannot be written"):
        fetch(server.url, tmp_path / "file" / "corpus.tar.gz")
