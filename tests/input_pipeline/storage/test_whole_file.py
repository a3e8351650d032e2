"""A file is written whole or not at all, whatever ends the writing: an error, a full disk, a signal, another writer."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from input_pipeline.storage import whole_file
from tests.runs import OWN_MOUNTS, ROOT, Program, run_with_mount

MEBIBYTE = 1 << 20
WAYS = ("open_binary", "open_text", "temporary_path")


def write(way: str, target: Path, content: str) -> None:
    """Write in one of the three ways."""
    with getattr(whole_file, way)(target) as opened:
        if way == "temporary_path":
            opened.write_text(content)
        else:
            opened.write(content if way == "open_text" else content.encode())


@pytest.mark.parametrize("way", WAYS)
def test_a_file_is_replaced_when_the_block_ends(way, tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with getattr(whole_file, way)(target) as opened:
        path = opened if way == "temporary_path" else Path(opened.name)
        path.write_text("new")
        assert target.read_text() == "old"
        assert (path.parent, path.name[0]) == (tmp_path, ".")
        assert path.suffix == (".txt" if way == "temporary_path" else ".tmp")
    assert target.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_leaves_the_old_file_and_nothing_else(way, error, tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")

    def write_half() -> None:
        with getattr(whole_file, way)(target) as opened:
            path = opened if way == "temporary_path" else Path(opened.name)
            path.write_text("half")
            raise error

    with pytest.raises(error):
        write_half()
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_new_file_has_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_text("")
    with whole_file.open_binary(tmp_path / "whole"):
        pass
    assert (tmp_path / "whole").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_text_is_utf_8_with_line_ends_and_errors_as_asked(tmp_path):
    with whole_file.open_text(tmp_path / "a", errors="backslashreplace", newline="\r\n") as file:
        file.write("你\ud83d\n")
    assert (tmp_path / "a").read_bytes() == "你\\ud83d\r\n".encode()


@pytest.mark.parametrize("way", WAYS)
def test_a_target_that_cannot_be_written_is_named_and_not_the_temporary_file(way, tmp_path):
    (tmp_path / "folder").mkdir()
    for target in (tmp_path / "folder", tmp_path / "nowhere" / "a.txt"):
        with pytest.raises(OSError) as caught:
            write(way, target, "new")
        assert caught.value.filename == str(target)
        assert str(caught.value).endswith(f": '{target}'")
    assert os.listdir(tmp_path) == ["folder"]


def test_an_error_about_another_file_stays_as_it_is(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No such file.*source\.txt"), whole_file.open_text(tmp_path / "a"):
        open(tmp_path / "source.txt")  # noqa: SIM115 - it does not exist
    with pytest.raises(OSError, match=r"^the store does not answer$"), whole_file.open_text(tmp_path / "a"):
        raise OSError("the store does not answer")


ATTEMPTS = """
import pathlib, sys
from tests.input_pipeline.storage.test_whole_file import WAYS, write
for way in WAYS:
    target = pathlib.Path(sys.argv[1], way)
    try:
        write(way, target, "x" * 200_000)
    except OSError as error:
        print(error)
print(sorted(path.name for path in target.parent.iterdir()))
"""


@pytest.mark.skipif(not OWN_MOUNTS, reason="needs a mount of its own (unshare)")
@pytest.mark.parametrize(
    ("options", "reason"),
    [("size=100k", "[Errno 28] No space left on device"), ("size=1m,ro", "[Errno 30] Read-only file system")],
)
def test_a_full_or_read_only_disk_is_named_by_the_target_and_nothing_is_left(options, reason, tmp_path):
    lines = run_with_mount(options, tmp_path / "disk", ATTEMPTS)
    assert lines == [*(f"{reason}: '{tmp_path / 'disk' / way}'" for way in WAYS), "[]"]


WRITER = """
import sys
from input_pipeline.storage import whole_file
with whole_file.open_binary(sys.argv[1]) as file:
    file.write(b"half of it")
    file.flush()
    print("writing", flush=True)
    sys.stdin.read()
"""


def test_a_killed_writer_leaves_the_old_file_and_hinders_nobody(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    command = [sys.executable, "-c", WRITER, str(target)]
    with Program(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"writing\n"
        process.send_signal(signal.SIGKILL)
    assert target.read_text() == "old"
    assert len(os.listdir(tmp_path)) == 2
    write("open_text", target, "new")
    assert target.read_text() == "new"


REPEATED = """
import sys
from input_pipeline.storage import whole_file
for _ in range(20):
    with whole_file.open_binary(sys.argv[1]) as file:
        file.write(sys.argv[2].encode() * (1 << 20))
"""


def test_readers_see_the_whole_content_of_one_of_several_writers(tmp_path):
    target = tmp_path / "a"
    write("open_text", target, "-" * MEBIBYTE)
    commands = [[sys.executable, "-c", REPEATED, str(target), letter] for letter in "abc"]
    writers = [subprocess.Popen(command, cwd=ROOT) for command in commands]
    at_work = True
    while at_work:
        at_work = any(writer.poll() is None for writer in writers)
        content = target.read_text()
        assert (len(content), len(set(content))) == (MEBIBYTE, 1)
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert content[0] in "abc"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("mode", ["ab", "wb", "a+b"])
def test_a_file_that_grows_in_place_is_not_opened_through_a_link(mode, tmp_path):
    (tmp_path / "precious").write_text("content")
    (tmp_path / "link").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic links"), whole_file.open_in_place(tmp_path / "link", mode):
        pass
    assert (tmp_path / "precious").read_text() == "content"
    with whole_file.open_in_place(tmp_path / "new", mode) as file:
        file.write(b"new")
    assert (tmp_path / "new").read_bytes() == b"new"
