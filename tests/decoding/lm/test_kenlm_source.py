"""KenLM's source is there whole or not at all."""

import hashlib
import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from decoding.lm import kenlm_source
from decoding.lm.kenlm_source import VERSION, SourceError, fetch
from tests.runs import OWN_MOUNTS, ROOT

ARCHIVE = f"kenlm-{VERSION}.tar.gz"


@pytest.fixture
def archive(tmp_path, monkeypatch) -> Path:
    """Write an archive like the package index's, with a small header before what is large, and take it for the published one."""
    with tarfile.open(tmp_path / ARCHIVE, "w:gz") as tar:
        for name, content in (("lm/model.hh", b"// model"), ("util/file.cc", os.urandom(1 << 16))):
            member = tarfile.TarInfo(f"kenlm-{VERSION}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    monkeypatch.setattr(kenlm_source, "SHA256", hashlib.sha256((tmp_path / ARCHIVE).read_bytes()).hexdigest())
    return tmp_path / ARCHIVE


def test_the_archive_is_verified_and_unpacked(archive):
    assert (fetch(archive.parent) / "util" / "file.cc").stat().st_size == 1 << 16
    assert sorted(path.name for path in archive.parent.iterdir()) == [ARCHIVE.removesuffix(".tar.gz"), ARCHIVE]


def test_an_archive_that_is_not_the_published_one_is_not_unpacked(archive):
    with archive.open("ab") as file:
        file.write(b"more")
    with pytest.raises(SourceError, match=r"is not the published file .*fetch it again"):
        fetch(archive.parent)
    assert [path.name for path in archive.parent.iterdir()] == [ARCHIVE]


def test_what_a_run_that_was_killed_has_unpacked_is_replaced(archive, tmp_path):
    (tmp_path / f"kenlm-{VERSION}" / "util").mkdir(parents=True)
    assert (fetch(tmp_path) / "lm" / "model.hh").is_file()


@pytest.mark.skipif(not OWN_MOUNTS, reason="needs a mount of its own (unshare)")
def test_a_full_disk_does_not_cost_the_archive(archive, tmp_path):
    program = (
        "import shutil, sys; from pathlib import Path; from decoding.lm import kenlm_source as k; there = Path(sys.argv[1]);"
        "k.SHA256 = sys.argv[3];"
        "shutil.copy(sys.argv[2], there)\ntry: k.fetch(there)\nexcept k.SourceError as error: print(error)\n"
        "print([path.name for path in there.iterdir()])"
    )
    (tmp_path / "small").mkdir()
    arguments = [
        str(tmp_path / "small"),
        sys.executable,
        "-c",
        program,
        str(tmp_path / "small"),
        str(archive),
        kenlm_source.SHA256,
    ]
    mount = 'mount -t tmpfs -o size=100k none "$0" && exec "$@"'
    result = subprocess.run(["unshare", "-rm", "sh", "-c", mount, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert "bytes, the disk of" in result.stdout, result.stderr
    assert result.stdout.splitlines()[-1] == f"['{ARCHIVE}']"
