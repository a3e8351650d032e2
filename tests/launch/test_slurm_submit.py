"""launch/slurm.sbatch where no Slurm is needed: what it submits and refuses, and which ends have a job queued again.

Stand-ins for Slurm's commands note their arguments; tests/test_slurm.py has a real Slurm.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.runs import ROOT

SCRIPT = ROOT / "launch" / "slurm.sbatch"
FLAGS = ("--config=configs/an4.py", "--workdir=runs/it's")
OWN = ("SLURM_", "SBATCH_", "DS2_", "NODES", "GPUS_PER_NODE", "PROCESSES_PER_NODE", "CPUS_PER_PROCESS", "TIME")


@pytest.fixture
def slurm(tmp_path):
    """Put Slurm's commands on the path; return a function that runs the script and gives what they were called with.

    srun ends with the code in $SRUN; sleep, with which the script waits for its end after a requeue, does not wait.
    """
    tools, note = tmp_path / "tools", tmp_path / "calls"
    tools.mkdir()
    for name, end in [("sbatch", "exit 0"), ("scontrol", "exit 0"), ("srun", "exit $SRUN"), ("sleep", "exit 0")]:
        (tools / name).write_text(f'#!/bin/sh\nprintf "%s\\n" {name} "$@" -- >> {note}\n{end}\n')
        (tools / name).chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(OWN)}
    environment |= {"PATH": f"{tools}:{os.environ['PATH']}", "LOGS": str(tmp_path / "logs"), "PYTHON": "/bin/true"}

    def run(*arguments: str, **variables: str) -> tuple[subprocess.CompletedProcess, list[list[str]]]:
        note.write_text("")
        result = subprocess.run([SCRIPT, *arguments], env=environment | variables, capture_output=True, text=True)
        return result, [call.splitlines() for call in note.read_text().split("--\n") if call]

    return run


JOB = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_NODELIST": "n1", "SLURM_SUBMIT_DIR": str(ROOT)}


def test_variables_and_flags_become_a_job(slurm):
    result, calls = slurm(*FLAGS, NODES="4", GPUS_PER_NODE="a100:8", TIME="1:00:00")
    assert result.returncode == 0, result.stderr
    asked = ["--nodes=4", "--ntasks-per-node=1", "--cpus-per-task=8", "--gpus-per-node=a100:8", "--time=1:00:00"]
    assert calls == [["sbatch", *asked, "launch/slurm.sbatch", *FLAGS]]


@pytest.mark.parametrize("job", [{}, JOB], ids=["by hand", "in a job"])
def test_no_flags_are_refused(job, slurm):
    result, calls = slurm(**job)
    assert (result.returncode, calls) == (2, [])
    assert "error: flags of main.py are missing\nusage: " in result.stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NODES", "two"),
        ("NODES", "0"),
        ("PROCESSES_PER_NODE", "0"),
        ("CPUS_PER_PROCESS", "0"),
        ("NODES", "08"),  # which bash reads as octal
        ("GPUS_PER_NODE", "eight"),
        ("MAX_RESTARTS", "-1"),
    ],
)
def test_variables_that_are_no_such_numbers_are_named(name, value, slurm):
    result, calls = slurm(*FLAGS, **{name: value})
    assert (result.returncode, calls) == (1, [])
    assert f"error: {name}={value}: write" in result.stderr


def test_no_gpus_and_no_restarts_may_be_asked_for(slurm):
    result, [call] = slurm(*FLAGS, GPUS_PER_NODE="0", MAX_RESTARTS="0")
    assert result.returncode == 0, result.stderr
    assert not [word for word in call if word.startswith("--gpus")]


def test_a_machine_without_slurm_is_told_where_to_go(slurm, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("bash", "dirname"):
        (bare / name).symlink_to(Path(str(shutil.which(name))))
    result, _ = slurm(*FLAGS, PATH=str(bare))
    assert result.returncode == 2
    assert "Slurm's sbatch was not found: run this where jobs are submitted" in result.stderr


@pytest.mark.parametrize(("code", "starts"), [("75", 3), ("143", 3), ("137", 1), ("1", 0)])
def test_a_stopped_job_comes_back_without_a_checkpoint_a_killed_one_once(code, starts, slurm, tmp_path):
    requeued = 0
    for restart in range(3):
        flags = (FLAGS[0], f"--workdir={tmp_path}/run")
        result, calls = slurm(*flags, **JOB, SRUN=code, SLURM_RESTART_COUNT=str(restart))
        assert result.returncode in (1, int(code))
        requeued += ["scontrol", "requeue", "7"] in calls
    assert requeued == starts


def test_a_killed_job_comes_back_again_after_a_new_checkpoint(slurm, tmp_path):
    for step in ("10", "20"):
        (tmp_path / "run" / "checkpoints" / step).mkdir(parents=True)
        result, calls = slurm(*FLAGS[:1], f"--workdir={tmp_path}/run", **JOB, SRUN="137")
        assert ["scontrol", "requeue", "7"] in calls, result.stderr
