"""launch/slurm.sbatch without Slurm: what it submits and refuses, and which exit codes requeue a job.

Stand-ins for Slurm's commands log their arguments; tests/launch/test_slurm.py uses a real Slurm cluster.
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
    """Put stand-ins for Slurm's commands on PATH; return a function that runs the script and returns their calls.

    srun exits with the code in $SRUN. sleep, by which the script waits to be ended after a requeue, returns at once.
    """
    tools, log = tmp_path / "tools", tmp_path / "calls"
    tools.mkdir()
    for name, end in [("sbatch", "exit 0"), ("scontrol", "exit 0"), ("srun", "exit $SRUN"), ("sleep", "exit 0")]:
        (tools / name).write_text(f'#!/bin/sh\nprintf "%s\\n" {name} "$@" -- >> {log}\n{end}\n')
        (tools / name).chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(OWN)}
    environment |= {"PATH": f"{tools}:{os.environ['PATH']}", "LOGS": str(tmp_path / "logs"), "PYTHON": "/bin/true"}

    def run(*arguments: str, **variables: str) -> tuple[subprocess.CompletedProcess, list[list[str]]]:
        log.write_text("")
        result = subprocess.run([SCRIPT, *arguments], env=environment | variables, capture_output=True, text=True)
        return result, [call.splitlines() for call in log.read_text().split("--\n") if call]

    return run


JOB = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_NODELIST": "n1", "SLURM_SUBMIT_DIR": str(ROOT)}


def test_variables_and_flags_become_a_job(slurm):
    result, calls = slurm(*FLAGS, NODES="4", GPUS_PER_NODE="a100:8", TIME="1:00:00")
    assert result.returncode == 0, result.stderr
    options = ["--nodes=4", "--ntasks-per-node=1", "--cpus-per-task=8", "--gpus-per-node=a100:8", "--time=1:00:00"]
    assert calls == [["sbatch", *options, "launch/slurm.sbatch", *FLAGS]]


@pytest.mark.parametrize("job", [{}, JOB], ids=["by hand", "in a job"])
def test_missing_flags_are_refused(job, slurm):
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
        ("NODES", "08"),  # octal in bash
        ("GPUS_PER_NODE", "eight"),
        ("MAX_RESTARTS", "-1"),
    ],
)
def test_an_error_names_the_invalid_variable(name, value, slurm):
    result, calls = slurm(*FLAGS, **{name: value})
    assert (result.returncode, calls) == (1, [])
    assert f"error: {name}={value}: write" in result.stderr


def test_zero_gpus_and_zero_restarts_are_accepted(slurm):
    result, [call] = slurm(*FLAGS, GPUS_PER_NODE="0", MAX_RESTARTS="0")
    assert result.returncode == 0, result.stderr
    assert not [word for word in call if word.startswith("--gpus")]


def test_an_error_without_slurm_says_where_to_run_the_script(slurm, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("bash", "dirname"):
        (bare / name).symlink_to(Path(str(shutil.which(name))))
    result, _ = slurm(*FLAGS, PATH=str(bare))
    assert result.returncode == 2
    assert "Slurm's sbatch was not found: run this where jobs are submitted" in result.stderr


@pytest.mark.parametrize(("code", "starts"), [("75", 3), ("143", 3), ("137", 1), ("1", 0)])
def test_without_a_checkpoint_a_stopped_job_is_always_requeued_and_a_killed_one_once(code, starts, slurm, tmp_path):
    requeued = 0
    for restart in range(3):
        flags = (FLAGS[0], f"--workdir={tmp_path}/run")
        result, calls = slurm(*flags, **JOB, SRUN=code, SLURM_RESTART_COUNT=str(restart))
        assert result.returncode in (1, int(code))
        requeued += ["scontrol", "requeue", "7"] in calls
    assert requeued == starts


def test_a_killed_job_is_requeued_again_after_a_new_checkpoint(slurm, tmp_path):
    for step in ("10", "20"):
        (tmp_path / "run" / "checkpoints" / step).mkdir(parents=True)
        result, calls = slurm(*FLAGS[:1], f"--workdir={tmp_path}/run", **JOB, SRUN="137")
        assert ["scontrol", "requeue", "7"] in calls, result.stderr
