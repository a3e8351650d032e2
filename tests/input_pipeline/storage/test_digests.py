"""Digests in the format of sha256sum."""

import subprocess

import pytest

from input_pipeline.storage import digests
from input_pipeline.storage.digests import DamagedFileError


def test_sha256sum_reads_what_is_written_and_the_other_way_round(tmp_path):
    for name in ("a.bin", "b c.txt"):
        (tmp_path / name).write_bytes(name.encode() * 100_000)
    digests.write(tmp_path / "sums", digests.of_files(tmp_path, ["a.bin", "b c.txt"]))
    subprocess.run(["sha256sum", "--check", "--strict", "sums"], cwd=tmp_path, check=True)
    lines = subprocess.run(
        ["sha256sum", "-b", "a.bin", "b c.txt"], cwd=tmp_path, check=True, capture_output=True
    ).stdout
    (tmp_path / "theirs").write_bytes(lines)
    assert digests.read(tmp_path / "theirs") == digests.read(tmp_path / "sums")
    digests.check(tmp_path, digests.read(tmp_path / "sums"))


def test_a_missing_and_a_changed_file_are_named(tmp_path):
    (tmp_path / "a").write_bytes(b"a")
    values = digests.of_files(tmp_path, ["a"])
    (tmp_path / "a").write_bytes(b"b")
    with pytest.raises(DamagedFileError, match=f"{tmp_path}/a is damaged"):
        digests.check(tmp_path, values)
    (tmp_path / "a").unlink()
    with pytest.raises(DamagedFileError, match=f"{tmp_path}/a is missing"):
        digests.check(tmp_path, values)


@pytest.mark.parametrize("content", [b"", b"\xff", b"abc  file\n", b"0" * 64 + b"\n"])
def test_a_damaged_listing_is_named(tmp_path, content):
    (tmp_path / "sums").write_bytes(content)
    with pytest.raises(DamagedFileError, match="sums is damaged"):
        digests.read(tmp_path / "sums")


def test_without_a_listing_there_are_no_digests(tmp_path):
    assert digests.read(tmp_path / "sums") == {}
    digests.write(tmp_path / "sums", {"a": "0" * 64})
    digests.write(tmp_path / "sums", {})
    assert list(tmp_path.iterdir()) == []
