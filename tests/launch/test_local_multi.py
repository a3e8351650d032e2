"""launch/local_multi.sh with real processes: logs, signals, failures, division of GPUs."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.runs import ROOT, Program, small_flags

# Make standard input the controlling terminal of this session, then run the given program. SIGHUP gets its default action
# back, because `nohup make test` makes all processes ignore it.
CONTROLLING = (
    "import fcntl, os, signal, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "signal.signal(signal.SIGHUP, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
)
SCRIPT = ROOT / "launch" / "local_multi.sh"


def start(folder: Path, *arguments: str, **variables: str) -> Program:
    """Start the script with its logs in a folder and one device per process."""
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    environment |= {"PYTHON": sys.executable, "LOGS": str(folder / "logs"), "JAX_PLATFORMS": "cpu"} | variables
    pipe = subprocess.PIPE
    return Program([SCRIPT, *arguments], cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True)


def run(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
    with start(folder, *arguments, **variables) as process:
        out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@pytest.mark.slow
def test_two_processes_train_stop_at_ctrl_c_and_resume_with_one_log_each(clips, tmp_path):
    flags = [*small_flags(clips), "--config.train.epochs=3000", f"--workdir={tmp_path}/run"]
    with start(tmp_path, "2", "--", *flags, TQDM_MININTERVAL="1") as process:
        assert process.stdout is not None
        for line in process.stdout:
            if ", loss " in line:  # from a progress bar, long before the end of training
                break
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    stopped = int(re.search(r"stopped at step (\d+)", out)[1])  # type: ignore[index]
    flags += [f"--config.train.max_steps={stopped + 1}", f"--config.data.test={clips}"]
    again = run(tmp_path, "2", "--", *flags, "--expect_processes=2", "--expect_devices=2")
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"resuming at step {stopped} " in again.stdout
    assert {line[:6] for line in again.stdout.splitlines()[1:]} == {"[0/2] ", "[1/2] "}
    logs = sorted((tmp_path / "logs").iterdir())
    assert [log.name for log in logs] == ["process-0.log", "process-1.log"]
    assert json.loads(logs[0].read_text().strip().splitlines()[-1])["utterances"] == 12


@pytest.mark.slow
def test_closing_the_terminal_saves_a_checkpoint_and_ends_all_processes(clips, tmp_path):
    flags = [*small_flags(clips), "--config.train.epochs=3000", f"--workdir={tmp_path}/run"]
    terminal, inner = pty.openpty()
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    environment |= {
        "PYTHON": sys.executable,
        "LOGS": str(tmp_path / "logs"),
        "JAX_PLATFORMS": "cpu",
        "TQDM_MININTERVAL": "1",
    }
    command = [sys.executable, "-c", CONTROLLING, str(SCRIPT), "2", "--", *flags]
    streams = {"stdin": inner, "stdout": inner, "stderr": inner}
    with Program(command, cwd=ROOT, env=environment, start_new_session=True, **streams) as process:  # type: ignore[call-overload]
        os.close(inner)
        output = b""
        while b", loss " not in output:
            output += os.read(terminal, 1 << 16)
        os.close(terminal)
        process.wait(120)
    log = (tmp_path / "logs" / "process-0.log").read_text()
    step = int(re.search(r"stopped at step (\d+)", log)[1])  # type: ignore[index]
    assert (tmp_path / "run" / "checkpoints" / str(step)).is_dir()
    assert subprocess.run(["pgrep", "-f", "--", f"--workdir={tmp_path}/run"], capture_output=True).returncode == 1


@pytest.fixture
def program(tmp_path) -> str:
    """Write a stand-in for the Python interpreter: process 1 fails, the others sleep."""
    path = tmp_path / "interpreter"
    path.write_text(
        "#!/bin/sh\n"
        f'[ "$1" = -c ] && exec {sys.executable} "$@"\n'  # the script's own call
        '[ "$DS2_PROCESS_ID" = 1 ] && { echo failed; exit 7; }\n'
        "exec sleep 600\n"
    )
    path.chmod(0o755)
    return str(path)


def test_all_processes_end_if_one_fails_and_its_exit_code_is_returned(program, tmp_path):
    started = time.monotonic()
    result = run(tmp_path, "3", "--", "--workdir=x", PYTHON=program, LEAVE_S="1")
    assert time.monotonic() - started < 20
    assert result.returncode == 7
    assert "process 1 ended with code 7" in result.stderr
    assert (tmp_path / "logs" / "process-1.log").read_text() == "failed\n"


def test_the_log_of_a_killed_process_contains_only_its_own_output(tmp_path):
    killed = tmp_path / "killed"
    killed.write_text(f'#!/bin/sh\n[ "$1" = -c ] && exec {sys.executable} "$@"\necho mine >&2\nkill -KILL $$\n')
    killed.chmod(0o755)
    result = run(tmp_path, "1", "--", "--workdir=x", PYTHON=str(killed))
    assert result.returncode == 137
    assert (tmp_path / "logs" / "process-0.log").read_text() == "mine\n"
    assert result.stdout.splitlines()[1:] == ["[0/1] mine"]
    assert result.stderr == f"process 0 ended with code 137: see {tmp_path}/logs/process-0.log\n"


@pytest.mark.parametrize(
    ("variables", "shares"),
    [
        ({}, ["0,1", "2,3"]),
        ({"CUDA_VISIBLE_DEVICES": "5,GPU-7"}, ["5", "GPU-7"]),
        ({"JAX_PLATFORMS": "cpu"}, ["none", "none"]),
    ],
)
def test_gpus_are_divided_evenly(variables, shares, gpus, tmp_path):
    result = run(tmp_path, "2", "--", "--workdir=x", **({"JAX_PLATFORMS": "cuda,cpu"} | gpus | variables))
    assert result.returncode == 0, result.stderr
    received = [(tmp_path / "logs" / f"process-{k}.log").read_text().split() for k in (0, 1)]
    devices = "none" if shares[0] == "none" else str(sum(len(share.split(",")) for share in shares))
    assert received == [[share, "2", devices] for share in shares]


def test_gpus_that_cannot_be_divided_evenly_are_refused(gpus, tmp_path):
    result = run(tmp_path, "3", "--", "--workdir=x", **gpus, JAX_PLATFORMS="")
    assert result.returncode == 2
    assert "3 processes cannot share 4 GPUs evenly" in result.stderr


@pytest.fixture
def gpus(tmp_path) -> dict[str, str]:
    """Return variables with an nvidia-smi that lists four GPUs, and an interpreter that prints the GPUs it receives."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "nvidia-smi").write_text("#!/bin/sh\nseq 0 3\n")
    (tools / "interpreter").write_text(
        f'#!/bin/sh\n[ "$1" = -c ] && exec {sys.executable} "$@"\n'
        'echo "${CUDA_VISIBLE_DEVICES:-none} $DS2_EXPECT_PROCESSES ${DS2_EXPECT_DEVICES:-none}"\n'
    )
    for tool in tools.iterdir():
        tool.chmod(0o755)
    return {"PATH": f"{tools}:{os.environ['PATH']}", "PYTHON": str(tools / "interpreter")}


@pytest.mark.parametrize(
    ("arguments", "message"), [(("x",), "'x' is not a number"), (("2", "--"), "flags of main.py are missing")]
)
def test_misuse_is_explained(arguments, message, tmp_path):
    result = run(tmp_path, *arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert "usage:" in result.stderr
