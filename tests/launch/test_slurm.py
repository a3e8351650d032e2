"""launch/slurm.sbatch on a real Slurm of two nodes: preemption, requeue, refusal. `make test-slurm`."""

import json
import sys
import time
from pathlib import Path

import pytest

from tests.runs import run_main, small_flags
from tests.slurm_cluster import HOSTS, MARK, SlurmCluster, slurm_cluster, why_not

pytestmark = [pytest.mark.slurm, pytest.mark.skipif(bool(why_not()), reason=why_not())]

LOSS_TOLERANCE = 2e-3  # relative, over 80 steps: two devices add up in another order, and training carries it on


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    before = HOSTS.read_text()
    with slurm_cluster(tmp_path_factory.mktemp("slurm")) as running:
        yield running
    assert HOSTS.read_text() == before
    assert MARK not in before


def variables(folder: Path) -> dict[str, str]:
    return {
        "NODES": "2",
        "CPUS_PER_PROCESS": "1",
        "LOGS": str(folder / "logs"),
        "PYTHON": sys.executable,
        "SBATCH_OUTPUT": str(folder / "job.out"),
    }


def losses(workdir: Path) -> list[tuple[int, float]]:
    file = workdir / "metrics.jsonl"
    records = map(json.loads, file.read_text().splitlines()) if file.exists() else []
    return [(record["step"], record["loss"]) for record in records if "loss" in record]


def wait_for_steps(cluster: SlurmCluster, job: str, workdir: Path, steps: int) -> None:
    deadline = time.monotonic() + 300
    while len(losses(workdir)) < steps:
        assert cluster.job(job)["JobState"] in ("PENDING", "CONFIGURING", "RUNNING")
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_preempted_job_goes_on_by_itself_and_ends_like_one_process_that_was_not(cluster, clips, tmp_path):
    flags = [
        *small_flags(clips),
        "--config.batch.size=2",
        "--config.model.rnn_size=48",
        "--config.train.epochs=12",
        f"--config.data.test={clips}",
    ]
    job = cluster.run("launch/slurm.sbatch", *flags, f"--workdir={tmp_path}/run", **variables(tmp_path)).split()[-1]
    wait_for_steps(cluster, job, tmp_path / "run", 2)
    before = cluster.run(
        "sbatch", "--parsable", "--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=true"
    )
    cluster.wait(before, "COMPLETED")
    interrupted_at = len(losses(tmp_path / "run"))
    ended = cluster.wait(job, "COMPLETED", "FAILED")
    told = (tmp_path / "job.out").read_text()
    logs = [(tmp_path / "logs" / job / f"process-{k}.log").read_text() for k in (0, 1)]
    assert ended["JobState"] == "COMPLETED", told + logs[0]
    assert ended["Restarts"] == "1"
    assert "ended with code 75: requeued" in told
    assert "start 2: 2 processes, 2 devices" in told
    assert all("SIGTERM: what has to be saved is saved" in log for log in logs)
    assert "resuming at step" in logs[0]

    alone = run_main(*flags, f"--workdir={tmp_path}/alone")
    assert alone.returncode == 0, alone.stderr
    ours, theirs = losses(tmp_path / "run"), losses(tmp_path / "alone")
    assert 2 <= interrupted_at < len(theirs)
    assert [step for step, _ in ours] == [step for step, _ in theirs]
    assert [loss for _, loss in ours] == pytest.approx([loss for _, loss in theirs], rel=LOSS_TOLERANCE)
    results = [json.loads(text.strip().splitlines()[-1]) for text in (logs[0], alone.stdout)]
    assert results[0]["wer"] == results[1]["wer"]
    assert results[0]["cer"] == pytest.approx(results[1]["cer"], abs=0.02)  # a symbol or two of 120


def test_a_cancelled_job_leaves_a_checkpoint_and_does_not_come_back(cluster, clips, tmp_path):
    flags = [*small_flags(clips), "--config.train.epochs=3000", f"--workdir={tmp_path}/run"]
    job = cluster.run("launch/slurm.sbatch", *flags, **variables(tmp_path)).split()[-1]
    wait_for_steps(cluster, job, tmp_path / "run", 2)
    cluster.run("scancel", job)
    cluster.wait(job, "CANCELLED")
    cluster.run("sleep", "3")
    ended = cluster.job(job)
    assert (ended["JobState"], ended["Restarts"]) == ("CANCELLED", "0")
    assert "stopped at step" in (tmp_path / "logs" / job / "process-0.log").read_text()


def test_variables_hold_for_sbatch_too_and_other_devices_than_expected_are_refused(cluster, clips, tmp_path):
    flags = [*small_flags(clips), f"--workdir={tmp_path}/run", "--expect_devices=5"]
    one_core = ("sbatch", "--parsable", "--cpus-per-task=1")  # all that these nodes have
    first = cluster.run(*one_core, "--partition=high", "launch/slurm.sbatch", *flags, **variables(tmp_path))
    cluster.wait(first, "COMPLETED")
    second = (tmp_path / "job.out").read_text().split("Submitted batch job ")[1].split()[0]
    ended = cluster.wait(second, "COMPLETED", "FAILED")
    assert (ended["JobState"], ended["NumNodes"], ended["Restarts"], ended["ExitCode"]) == ("FAILED", "2", "0", "1:0")
    assert ended["Partition"] == "high"
    assert "5 devices were expected and 2 found" in (tmp_path / "logs" / second / "process-0.log").read_text()


def test_a_job_with_fewer_nodes_than_asked_for_does_not_start(cluster, tmp_path):
    options = variables(tmp_path) | {"DS2_SUBMITTED": "1"}
    job = cluster.run(
        *("sbatch", "--parsable", "--cpus-per-task=1", "--nodes=1"),
        "launch/slurm.sbatch",
        "--workdir=nowhere",
        **options,
    )
    assert cluster.wait(job, "COMPLETED", "FAILED")["JobState"] == "FAILED"
    assert "NODES=2 were requested, but the job has 1" in (tmp_path / "job.out").read_text()
    assert not (tmp_path / "logs").exists()


def test_a_job_that_is_killed_again_without_a_new_checkpoint_does_not_come_back(cluster, tmp_path):
    killed = tmp_path / "killed"
    killed.write_text("#!/bin/sh\nkill -KILL $$\n")
    killed.chmod(0o755)
    options = variables(tmp_path) | {"PYTHON": str(killed)}
    job = cluster.run("launch/slurm.sbatch", f"--workdir={tmp_path}/run", **options).split()[-1]
    ended = cluster.wait(job, "COMPLETED", "FAILED")
    told = (tmp_path / "job.out").read_text()
    assert (ended["JobState"], ended["Restarts"]) == ("FAILED", "1"), told
    assert "ended with code 137: requeued" in told
    assert "killed (code 137) twice without a new checkpoint" in told


def test_tasks_that_sbatch_was_asked_for_are_started(cluster, tmp_path):
    options = {name: value for name, value in variables(tmp_path).items() if name not in ("NODES", "CPUS_PER_PROCESS")}
    line = ("--cpus-per-task=1", "--nodes=2", "--ntasks=4", "launch/slurm.sbatch", "--workdir=x")
    job = cluster.run("sbatch", "--parsable", *line, **(options | {"PYTHON": "/bin/echo"}))
    assert cluster.wait(job, "COMPLETED", "FAILED")["JobState"] == "COMPLETED"
    logs = sorted((tmp_path / "logs" / job).glob("process-*.log"))
    assert [log.read_text() for log in logs] == ["main.py --expect_processes=4 --expect_devices=4 --workdir=x\n"] * 4
