"""Locks between processes: one at a time, several readers, an owner that can be named, and nothing that outlives a process."""

import errno
import fcntl
import os
import subprocess
import sys
import threading

import pytest

from input_pipeline.storage import lock
from tests.runs import ROOT, wait_until_printed

HOLDER = """
import sys
from pathlib import Path
from input_pipeline.storage import lock
descriptor = lock.acquire(Path(sys.argv[1]))
print("locked", flush=True)
sys.stdin.read()
"""


def holding(path) -> subprocess.Popen:
    """Start a process that locks a file until its standard input is closed, and wait until it has."""
    command = [sys.executable, "-c", HOLDER, str(path)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"locked\n"
    return process


def test_whoever_waited_is_told_and_finds_a_folder_whatever_has_gone(tmp_path, capsys):
    target, found = tmp_path / "work" / "train.jsonl", []

    def wait() -> None:
        with lock.exclusive(target) as waited:
            found.append((waited, target.parent.is_dir()))

    second = threading.Thread(target=wait)
    with lock.exclusive(target) as waited:
        assert not waited
        second.start()
        printed = wait_until_printed("which is writing it", capsys)
        (tmp_path / "work" / "train.jsonl.lock").unlink()  # as at the end of this block
        (tmp_path / "work").rmdir()
    second.join()
    assert f"{target}: waiting for process {os.getpid()} on " in printed
    assert found == [(True, True)]
    assert not list((tmp_path / "work").iterdir())


def test_a_lock_that_is_held_names_its_owner_and_ends_with_its_process(tmp_path):
    path = tmp_path / ".lock"
    with holding(path) as process:
        with pytest.raises(
            lock.LockedError, match=rf"\.lock is locked by process {process.pid} on .* \(since "
        ) as caught:
            lock.acquire(path)
        assert caught.value.owner.startswith(f"process {process.pid} on ")
        process.kill()
        process.wait()
        descriptor = lock.acquire(path)
    assert path.read_text().startswith(f"process {os.getpid()} on ")
    os.close(descriptor)
    assert path.exists()


def test_an_owner_who_left_no_name_is_another_process(tmp_path):
    with open(tmp_path / ".lock", "w") as file:
        assert lock.lock_file(file.fileno())
        with pytest.raises(lock.LockedError, match="is locked by another process"):
            lock.acquire(tmp_path / ".lock")


def test_readers_share_a_lock_and_keep_writers_out(tmp_path):
    path = tmp_path / "shard"
    path.touch()
    with open(path) as first, open(path) as second, open(path) as writer:
        assert lock.lock_file(first.fileno(), shared=True)
        assert lock.lock_file(second.fileno(), shared=True)
        assert not lock.lock_file(writer.fileno())
        first.close()
        assert not lock.lock_file(writer.fileno())
        second.close()
        assert lock.lock_file(writer.fileno())


def test_a_path_names_an_open_file_until_it_is_removed_or_replaced(tmp_path):
    path = tmp_path / "a"
    with open(path, "w") as file:
        assert lock.is_current(file.fileno(), path)
        path.unlink()
        assert not lock.is_current(file.fileno(), path)
        path.touch()
        assert not lock.is_current(file.fileno(), path)


def test_file_systems_without_locks_lock_nothing_and_other_errors_are_raised(tmp_path, monkeypatch):
    def failing(number: int):
        def flock(descriptor, kind):
            raise OSError(number, os.strerror(number))

        return flock

    monkeypatch.setattr(fcntl, "flock", failing(errno.ENOLCK))  # there is no such file system on a test machine
    with lock.exclusive(tmp_path / "a") as waited:
        assert not waited
    os.close(lock.acquire(tmp_path / ".lock"))
    with open(tmp_path / "b", "w") as file, pytest.raises(OSError, match="No locks available"):
        lock.lock_file(file.fileno())
    monkeypatch.setattr(fcntl, "flock", failing(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        lock.acquire(tmp_path / ".lock")


def test_a_link_in_the_place_of_a_lock_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("content")
    for name in ("a.lock", ".lock"):
        (tmp_path / name).symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic links"), lock.exclusive(tmp_path / "a"):
        pass
    with pytest.raises(OSError, match="symbolic links"):
        lock.acquire(tmp_path / ".lock")
    assert (tmp_path / "precious").read_text() == "content"
