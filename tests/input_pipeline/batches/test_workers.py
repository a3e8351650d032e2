"""A worker process that ends is one line, and says whether to run the same command again."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from input_pipeline.batches.workers import WorkerError, WorkerKilledError, describe_end, explain_lost_workers
from tests.runs import OWN_MOUNTS, ROOT

LOAD = """
import os, signal, sys
import numpy as np
from absl import flags
from input_pipeline.batches import loader

def load(number):
    if sys.argv[1] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    return {"spectrogram": np.full((1 << 20), number, np.float32)}

if __name__ == "__main__":
    flags.FLAGS.mark_as_parsed()  # grain asks for flags
    before = len(os.listdir("/dev/shm"))
    batches = loader.iterate(list(range(64)), load, loader.LoadSettings(workers=1, threads=1, prefetch=8))
    try:
        for number, batch in enumerate(batches):
            if sys.argv[1] == "stop" and number == 8:
                batches.close()
                print(len(os.listdir("/dev/shm")) - before)
                break
            if sys.argv[1] == "end" and number == 8:
                os.kill(os.getpid(), signal.SIGKILL)
    except OSError as error:
        print(type(error).__name__, error)
"""


def run_load(folder: Path, what: str) -> subprocess.CompletedProcess:
    (folder / "load.py").write_text(LOAD)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(folder / "load.py"), what]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def test_workers_end_with_their_parent_also_if_it_is_killed(tmp_path):
    """They hold its standard output, so the command would not return."""
    assert run_load(tmp_path, "end").returncode == -signal.SIGKILL


@pytest.mark.skipif(not Path("/dev/shm").exists(), reason="needs /dev/shm (Linux)")
def test_batches_that_were_not_used_leave_the_shared_memory(tmp_path):
    run = run_load(tmp_path, "stop")
    assert run.stdout == "0\n"
    assert "leaked" not in run.stderr


def test_a_killed_worker_may_succeed_the_next_time(tmp_path):
    run = run_load(tmp_path, "kill")
    assert run.stdout.startswith("WorkerKilledError a worker process of config.data.workers was ended by SIGKILL"), (
        run.stderr
    )


@pytest.mark.skipif(not OWN_MOUNTS, reason="mounting needs unshare and user namespaces")
def test_a_small_shared_memory_is_named_with_its_size(tmp_path):
    (tmp_path / "load.py").write_text(LOAD)
    mount = 'mount -t tmpfs -o size=8m none /dev/shm && exec "$@"'
    command = ["unshare", "-rm", "sh", "-c", mount, "-", sys.executable, str(tmp_path / "load.py"), "fill"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert run.stdout.startswith("WorkerError"), run.stderr
    assert "/dev/shm is too small for its batches (8 MiB, " in run.stdout
    assert "--shm-size" in run.stdout


def test_only_a_killed_worker_is_worth_another_start():
    assert isinstance(describe_end(-signal.SIGKILL), WorkerKilledError)
    for code in (-signal.SIGBUS, 1):
        assert not isinstance(describe_end(code), WorkerKilledError)


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="other"), explain_lost_workers():
        raise RuntimeError("other")
    with pytest.raises(FileNotFoundError), explain_lost_workers():
        raise FileNotFoundError(2, "No such file")
    with pytest.raises(WorkerError, match="shm-size"), explain_lost_workers():
        raise OSError(28, "No space left on device")
