"""launch/slurm.sbatch on a real Slurm cluster of two nodes: preemption, requeueing, refusal. Run by `make test-slurm`."""

import json
import sys
import time
from pathlib import Path

import pytest

from tests.runs import run_main, small_flags
from tests.slurm_cluster import HOSTS, MARK, SlurmCluster, slurm_cluster, why_not

pytestmark = [pytest.mark.slurm, pytest.mark.skipif(bool(why_not()), reason=why_not())]

LOSS_TOLERANCE = (
    2e-3  # relative, over 80 steps: two devices sum in another order, and training amplifies the difference
)


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


def test_a_preempted_job_resumes_by_itself_with_the_result_of_an_uninterrupted_process(cluster, clips, tmp_path):
    flags = [
        *small_flags(clips),
        "--config.batch.size=2",
        "--config.model.rnn_size=48",
        "--config.train.epochs=12",
        f"--config.data.test={clips}",
    ]
    job = cluster.run("launch/slurm.sbatch", *flags, f"--workdir={tmp_path}/run", **variables(tmp_path)).split()[-1]
    wait_for_steps(cluster, job, tmp_path / "run", 2)
    preempting = cluster.run(
        "sbatch", "--parsable", "--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=true"
    )
    cluster.wait(preempting, "COMPLETED")
    interrupted_at = len(losses(tmp_path / "run"))
    ended = cluster.wait(job, "COMPLETED", "FAILED")
    output = (tmp_path / "job.out").read_text()
    logs = [(tmp_path / "logs" / job / f"process-{k}.log").read_text() for k in (0, 1)]
    assert ended["JobState"] == "COMPLETED", output + logs[0]
    assert ended["Restarts"] == "1"
    assert "ended with code 75: requeued" in output
    assert "start 2: 2 processes, 2 devices" in output
    assert all("received SIGTERM: stopping" in log for log in logs)
    assert "resuming at step" in logs[0]

    alone = run_main(*flags, f"--workdir={tmp_path}/alone")
    assert alone.returncode == 0, alone.stderr
    resumed, uninterrupted = losses(tmp_path / "run"), losses(tmp_path / "alone")
    assert 2 <= interrupted_at < len(uninterrupted)
    assert [step for step, _ in resumed] == [step for step, _ in uninterrupted]
    assert [loss for _, loss in resumed] == pytest.approx([loss for _, loss in uninterrupted], rel=LOSS_TOLERANCE)
    results = [json.loads(text.strip().splitlines()[-1]) for text in (logs[0], alone.stdout)]
    assert results[0]["wer"] == results[1]["wer"]
    assert results[0]["cer"] == pytest.approx(results[1]["cer"], abs=0.02)  # one or two symbols of 120


def test_a_cancelled_job_saves_a_checkpoint_and_is_not_requeued(cluster, clips, tmp_path):
    flags = [*small_flags(clips), "--config.train.epochs=3000", f"--workdir={tmp_path}/run"]
    job = cluster.run("launch/slurm.sbatch", *flags, **variables(tmp_path)).split()[-1]
    wait_for_steps(cluster, job, tmp_path / "run", 2)
    cluster.run("scancel", job)
    cluster.wait(job, "CANCELLED")
    cluster.run("sleep", "3")
    ended = cluster.job(job)
    assert (ended["JobState"], ended["Restarts"]) == ("CANCELLED", "0")
    assert "stopped at step" in (tmp_path / "logs" / job / "process-0.log").read_text()


def test_variables_apply_with_sbatch_and_an_unexpected_number_of_devices_is_refused(cluster, clips, tmp_path):
    flags = [*small_flags(clips), f"--workdir={tmp_path}/run", "--expect_devices=5"]
    one_core = ("sbatch", "--parsable", "--cpus-per-task=1")  # the default of 8 exceeds the cores of these nodes
    first = cluster.run(*one_core, "--partition=high", "launch/slurm.sbatch", *flags, **variables(tmp_path))
    cluster.wait(first, "COMPLETED")
    second = (tmp_path / "job.out").read_text().split("Submitted batch job ")[1].split()[0]
    ended = cluster.wait(second, "COMPLETED", "FAILED")
    assert (ended["JobState"], ended["NumNodes"], ended["Restarts"], ended["ExitCode"]) == ("FAILED", "2", "0", "1:0")
    assert ended["Partition"] == "high"
    assert "5 devices were expected, but JAX found 2" in (tmp_path / "logs" / second / "process-0.log").read_text()


def test_a_job_with_fewer_nodes_than_requested_does_not_start(cluster, tmp_path):
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


def test_a_job_killed_twice_without_a_new_checkpoint_is_not_requeued(cluster, tmp_path):
    killed = tmp_path / "killed"
    killed.write_text("#!/bin/sh\nkill -KILL $$\n")
    killed.chmod(0o755)
    options = variables(tmp_path) | {"PYTHON": str(killed)}
    job = cluster.run("launch/slurm.sbatch", f"--workdir={tmp_path}/run", **options).split()[-1]
    ended = cluster.wait(job, "COMPLETED", "FAILED")
    output = (tmp_path / "job.out").read_text()
    assert (ended["JobState"], ended["Restarts"]) == ("FAILED", "1"), output
    assert "ended with code 137: requeued" in output
    assert "killed (code 137) twice without a new checkpoint" in output


def test_the_number_of_tasks_given_to_sbatch_is_started(cluster, tmp_path):
    options = {name: value for name, value in variables(tmp_path).items() if name not in ("NODES", "CPUS_PER_PROCESS")}
    line = ("--cpus-per-task=1", "--nodes=2", "--ntasks=4", "launch/slurm.sbatch", "--workdir=x")
    job = cluster.run("sbatch", "--parsable", *line, **(options | {"PYTHON": "/bin/echo"}))
    assert cluster.wait(job, "COMPLETED", "FAILED")["JobState"] == "COMPLETED"
    logs = sorted((tmp_path / "logs" / job).glob("process-*.log"))
    assert [log.read_text() for log in logs] == ["main.py --expect_processes=4 --expect_devices=4 --workdir=x\n"] * 4
