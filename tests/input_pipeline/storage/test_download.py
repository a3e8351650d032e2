"""Downloads against a real server on this machine, and archives that mean harm."""

import contextlib
import hashlib
import http.server
import io
import os
import subprocess
import sys
import tarfile
import threading
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from input_pipeline.storage.download import ArchiveError, DamagedArchiveError, DownloadError, extract, fetch
from input_pipeline.storage.lock import exclusive
from tests.runs import ROOT, wait_until, wait_until_printed

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
    with pytest.raises(DownloadError, match=r"broke after 300,000 of 1,024,000 bytes.*run the same line again"):
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


def test_what_another_process_has_unpacked_meanwhile_is_used(tmp_path, capsys):
    archive = write_tar(tmp_path / "a.tar.gz", (tarfile.TarInfo("x"), b"1"))
    second = threading.Thread(target=extract, args=(archive, tmp_path / "out"))
    with exclusive(tmp_path / "out"):
        second.start()
        wait_until_printed("which is writing it", capsys)
        (tmp_path / "out").mkdir()
    second.join()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar.gz", "out"]
    assert not list((tmp_path / "out").iterdir())


def test_the_lock_of_a_process_that_was_killed_keeps_nobody_waiting(server, tmp_path):
    hold = "import sys, time; from input_pipeline.storage.lock import exclusive; from pathlib import Path\n"
    hold += "with exclusive(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    target = tmp_path / "corpus.tar.gz"
    with subprocess.Popen([sys.executable, "-c", hold, target], cwd=ROOT, stdout=subprocess.PIPE) as holder:
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
def test_a_full_disk_is_named_and_the_part_stays(server, tmp_path):
    part = tmp_path / "corpus.tar.gz.part"
    part.symlink_to(FULL_DISK)
    with pytest.raises(DownloadError, match=r"corpus.tar.gz: the disk is full; free some space"):
        fetch(server.url, tmp_path / "corpus.tar.gz", md5=MD5)
    assert part.is_symlink()


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


def write_tar(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_tar_and_zip_unpack_to_the_same_files(tmp_path):
    write_tar(tmp_path / "a.tar.gz", (tarfile.TarInfo("an4/etc/x"), b"text"), (link("an4/y", "etc/x"), b""))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as zipped:
        zipped.writestr("an4/etc/x", "text")
    for archive in ("a.tar.gz", "a.zip"):
        folder = extract(tmp_path / archive, tmp_path / f"from-{archive}")
        assert (folder / "an4" / "etc" / "x").read_text() == "text"
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(
    "member",
    [
        tarfile.TarInfo("/etc/evil"),
        tarfile.TarInfo("an4/../../evil"),
        link("evil", "/etc/passwd"),
        link("an4/evil", "../../outside"),
        link("evil", "../outside", tarfile.LNKTYPE),
        link("evil", "", tarfile.CHRTYPE),
    ],
    ids=["absolute", "parent", "absolute link", "link outside", "hard link outside", "device"],
)
def test_a_tar_member_that_leads_outside_is_refused_by_name(tmp_path, member):
    home = tmp_path / "home"
    home.mkdir()
    archive = write_tar(home / "bad.tar.gz", (tarfile.TarInfo("good"), b"1"), (member, b""))
    with pytest.raises(ArchiveError, match=f"refused to unpack '{member.name}'"):
        extract(archive, home / "out")
    assert [path.name for path in home.iterdir()] == ["bad.tar.gz"]
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


@pytest.mark.parametrize("name", ["/evil", "../evil", "a\\..\\..\\evil", "C:/evil"])
def test_a_zip_member_that_leads_outside_is_refused_by_name(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as zipped:
        zipped.writestr(name, "x")
    with pytest.raises(ArchiveError, match=r"refused to unpack .*leads out of the folder"):
        extract(tmp_path / "bad.zip", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.zip"]


def test_a_zip_link_is_refused(tmp_path):
    info = zipfile.ZipInfo("evil")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as zipped:
        zipped.writestr(info, "/etc/passwd")
    with pytest.raises(ArchiveError, match="'evil': it is a link"):
        extract(tmp_path / "bad.zip", tmp_path / "out")


def test_a_truncated_archive_leaves_nothing_behind(tmp_path):
    whole = write_tar(tmp_path / "a.tar.gz", (tarfile.TarInfo("x"), hashlib.shake_128(b"noise").digest(100_000)))
    whole.write_bytes(whole.read_bytes()[:50_000])
    with pytest.raises(ArchiveError, match=r"a\.tar\.gz is damaged"):
        extract(whole, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar.gz"]


def test_a_flipped_bit_anywhere_in_an_archive_is_found(tmp_path):
    whole = write_tar(tmp_path / "a.tar.gz", (tarfile.TarInfo("x"), hashlib.shake_128(b"noise").digest(30_000)))
    for place in range(100, whole.stat().st_size, 5000):
        damaged = bytearray(whole.read_bytes())
        damaged[place] ^= 4
        (tmp_path / "b.tar.gz").write_bytes(damaged)
        with pytest.raises(DamagedArchiveError):
            extract(tmp_path / "b.tar.gz", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_zip_that_the_disk_cannot_take_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("zeros", bytes(1_000_000))
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=999_999))
    with pytest.raises(ArchiveError, match=r"takes 1,000,000 bytes at least, the disk of .* has 999,999 free"):
        extract(tmp_path / "a.zip", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_a_locked_zip_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as zipped:
        zipped.writestr("x", "text")
    locked = bytearray((tmp_path / "a.zip").read_bytes())
    for header in (b"PK\x03\x04", b"PK\x01\x02"):  # the flag that says so, in both headers of the member
        locked[locked.index(header) + (6 if header == b"PK\x03\x04" else 8)] |= 1
    (tmp_path / "a.zip").write_bytes(locked)
    with pytest.raises(ArchiveError, match=r"cannot be unpacked .*password"):
        extract(tmp_path / "a.zip", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_what_is_no_archive_is_said_to_be_none(tmp_path):
    (tmp_path / "a.tar.gz").write_text("<html>moved</html>")
    with pytest.raises(ArchiveError, match="neither a tar nor a zip"):
        extract(tmp_path / "a.tar.gz", tmp_path / "out")
    with pytest.raises(ArchiveError, match="no such archive"):
        extract(tmp_path / "b.tar.gz", tmp_path / "out")


def test_a_folder_that_exists_is_not_written_over(tmp_path):
    archive = write_tar(tmp_path / "a.tar.gz", (tarfile.TarInfo("x"), b"1"))
    (tmp_path / "out").mkdir()
    with pytest.raises(ArchiveError, match="exists already"):
        extract(archive, tmp_path / "out")
