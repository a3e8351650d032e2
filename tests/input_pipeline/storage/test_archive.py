"""Archives are unpacked whole or not at all, and never outside of their folder."""

import hashlib
import io
import tarfile
import threading
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from input_pipeline.storage.archive import ArchiveError, DamagedArchiveError, extract
from input_pipeline.storage.lock import exclusive
from tests.runs import wait_until_printed


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


def zip_link(path: Path, target: str) -> Path:
    info = zipfile.ZipInfo("a/link")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "w") as zipped:
        zipped.writestr("file", "text")
        zipped.writestr(info, target)
    return path


def test_links_to_members_become_copies(tmp_path):
    members = (link("an4/late", "etc/x"), b""), (tarfile.TarInfo("an4/etc/x"), b"text")
    others = (
        (link("hard", "an4/etc/x", tarfile.LNKTYPE), b""),
        (link("chain", "an4/late"), b""),
        (link("all", "an4"), b""),
    )
    folder = extract(write_tar(tmp_path / "a.tar.gz", *members, *others), tmp_path / "out")
    for name in ("an4/etc/x", "an4/late", "hard", "chain", "all/etc/x", "all/late"):
        assert (folder / name).read_text() == "text"
    folder = extract(zip_link(tmp_path / "a.zip", "../file"), tmp_path / "from-zip")
    assert (folder / "a" / "link").read_text() == "text"
    assert not [
        path for path in tmp_path.rglob("*") if path.is_symlink() or (path.is_file() and path.stat().st_nlink > 1)
    ]


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([link("x", "nowhere")], "which is not in the archive"),
        ([link("x", "y"), link("y", "x")], "which is not in the archive"),
        ([link("x", ".")], "unpacked by hand"),
        ([tarfile.TarInfo("x"), link("x", "good")], "unpacked by hand"),
        ([tarfile.TarInfo("a/x"), link("b", "a"), link("a/c", "../b")], "unpacked by hand"),
        ([tarfile.TarInfo("x"), tarfile.TarInfo("x/y")], "a file and a folder of this name"),
        ([link("x", "", tarfile.FIFOTYPE)], "neither a file nor a folder"),
    ],
    ids=["dangling", "circle", "whole", "occupied", "nested", "file and folder", "pipe"],
)
def test_other_links_and_kinds_are_refused_by_name(tmp_path, members, reason):
    archive = write_tar(tmp_path / "a.tar.gz", (tarfile.TarInfo("good"), b"1"), *((member, b"") for member in members))
    with pytest.raises(ArchiveError, match=rf"refused to unpack '.*': .*{reason}"):
        extract(archive, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar.gz"]


def test_a_chain_of_links_longer_than_the_path_limit_writes_nothing_outside(tmp_path):
    """The attack of CVE-2025-4517: links that os.path.realpath gives up on, and a file written through them."""
    folder, steps = "d" * 247, "abcdefghijklmnop"
    members, path = [], ""
    for step in steps:
        directory = tarfile.TarInfo(f"{path}{folder}")
        directory.type = tarfile.DIRTYPE
        members += [directory, link(f"{path}{step}", folder)]
        path += f"{step}/"
    members.append(link(f"{'/'.join(steps)}/{'l' * 254}", "../" * len(steps)))
    members.append(link("escape", f"{'/'.join(steps)}/{'l' * 254}/../../outside"))
    archive = write_tar(
        tmp_path / "a.tar.gz", *((member, b"") for member in members), (tarfile.TarInfo("escape/x"), b"1")
    )
    (tmp_path / "home").mkdir()
    with pytest.raises(ArchiveError, match="refused to unpack"):
        extract(archive, tmp_path / "home" / "out")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.tar.gz", "home"]


def test_a_file_larger_than_the_disk_is_refused(tmp_path):
    huge = tarfile.TarInfo("huge")
    huge.size = 1 << 60
    (tmp_path / "a.tar").write_bytes(huge.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(ArchiveError, match="the disk is full"):
        extract(tmp_path / "a.tar", tmp_path / "out")


def test_a_negative_size_ends_as_damage(tmp_path):
    entry = tarfile.TarInfo("x")
    header = bytearray(entry.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 10 + b"\xfc\x00"  # -1024
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + 8 * 32 + sum(header[156:512]))
    (tmp_path / "a.tar").write_bytes(bytes(header) * 3 + bytes(1024))
    # newer versions of Python do not take it for an archive
    with pytest.raises(DamagedArchiveError, match=r"damaged|neither a tar nor a zip archive"):
        extract(tmp_path / "a.tar", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_programs_stay_executable(tmp_path):
    program = tarfile.TarInfo("configure")
    program.mode = 0o755
    folder = extract(write_tar(tmp_path / "a.tar.gz", (program, b"#!"), (tarfile.TarInfo("x"), b"")), tmp_path / "out")
    assert [path.stat().st_mode & 0o111 != 0 for path in (folder / "configure", folder / "x")] == [True, False]


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
    with pytest.raises(ArchiveError, match=r"needs at least 1,000,000 bytes, the disk of .* has 999,999 free"):
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


def test_one_folder_of_an_archive_can_be_unpacked_as_the_whole(tmp_path):
    archive = write_tar(
        tmp_path / "a.tar.gz", (tarfile.TarInfo("kenlm-1/lm/x"), b"1"), (tarfile.TarInfo("pax_header"), b"2")
    )
    assert (extract(archive, tmp_path / "out", root="kenlm-1") / "lm" / "x").read_bytes() == b"1"
    with pytest.raises(DamagedArchiveError, match=r"a\.tar\.gz has no folder kenlm-2"):
        extract(archive, tmp_path / "other", root="kenlm-2")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar.gz", "out"]
