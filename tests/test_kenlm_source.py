"""KenLM's source is there whole or not at all."""

import io
import os
import tarfile
from pathlib import Path

import pytest

from decoding.kenlm_source import VERSION, SourceError, fetch

ARCHIVE = f"kenlm-{VERSION}.tar.gz"


def write_archive(folder: Path) -> bytes:
    """Write an archive like the package index's, with a small header before what is large."""
    with tarfile.open(folder / ARCHIVE, "w:gz") as tar:
        for name, content in (("lm/model.hh", b"// model"), ("util/file.cc", os.urandom(1 << 16))):
            member = tarfile.TarInfo(f"kenlm-{VERSION}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return (folder / ARCHIVE).read_bytes()


def test_an_archive_that_ends_early_leaves_no_half_source(tmp_path):
    whole = write_archive(tmp_path)
    (tmp_path / ARCHIVE).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SourceError, match=r"cannot be unpacked .* it is removed: run the same line again"):
        fetch(tmp_path)
    assert not any(tmp_path.iterdir())
    (tmp_path / ARCHIVE).write_bytes(whole)
    assert (fetch(tmp_path) / "util" / "file.cc").stat().st_size == 1 << 16
    assert sorted(path.name for path in tmp_path.iterdir()) == [ARCHIVE.removesuffix(".tar.gz"), ARCHIVE]


def test_what_a_run_that_was_killed_has_unpacked_is_replaced(tmp_path):
    write_archive(tmp_path)
    (tmp_path / f"kenlm-{VERSION}" / "util").mkdir(parents=True)
    assert (fetch(tmp_path) / "lm" / "model.hh").is_file()


def test_a_python_that_cannot_unpack_safely_is_named(tmp_path, monkeypatch):
    write_archive(tmp_path)
    monkeypatch.delattr(tarfile, "data_filter")  # of 3.11.4
    with pytest.raises(SourceError, match=r"Python 3\..* cannot unpack .*kenlm.* safely; 3.11.4 or later can"):
        fetch(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [ARCHIVE]
