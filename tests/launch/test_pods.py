"""The pods of launch/kubernetes, run as containers that lose each other, against a training without interruption."""

import itertools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml
from jax._src.clusters.cloud_tpu_cluster import GkeTpuCluster

from ds2_jax.artifacts.load import load_model
from ds2_jax.parallel.discovery import ProcessInfo, discover
from tests import containers
from tests.containers import checked, image, podman
from tests.launch.pods import Pod, Pods, decide, expand, started_pods
from tests.runs import ROOT, wait_until

KUBERNETES = ROOT / "launch" / "kubernetes"
USER = 10001
SMALL = (  # instead of the recipe
    "--config=configs/tiny.py",
    *("--config.batch.size=4", "--config.batch.buckets=1", "--config.model.rnn_size=32"),
    *("--config.train.epochs=60", "--config.train.eval_every=120"),  # 4 steps an epoch
    *("--config.train.checkpoint_every_s=2", "--config.train.log_every=5"),
)
REPLACED = {  # flags of main.py; those that are not here stay as they are
    "config": SMALL,
    "config.data.train": ("--config.data.train=/data/clips/manifest.jsonl",),
    "config.data.dev": ("--config.data.dev=/data/clips/manifest.jsonl",),
    "config.data.test": ("--config.data.test=/data/clips/manifest.jsonl",),
    "expect_devices": ("--expect_devices=2",),
}
ENVIRONMENT = {"JAX_PLATFORMS": "cpu"}
ADDED = [{"name": "JAX_DISABLE_MOST_OPTIMIZATIONS", "value": "1"}]  # compiles in half the time


def adapted(name: str) -> dict:
    """Return a JobSet for this machine: image, recipe, data, platform, expected devices and resources replaced."""
    jobset = yaml.safe_load((KUBERNETES / name).read_text())
    pod = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    container["image"] = image()
    arguments = [(argument.partition("=")[0].removeprefix("--"), argument) for argument in container["args"]]
    assert {flag for flag, _ in arguments} >= set(REPLACED)
    container["args"] = [new for flag, given in arguments for new in REPLACED.get(flag, (given,))]
    for variable in container["env"]:
        if variable["name"] in ENVIRONMENT:
            variable["value"] = ENVIRONMENT[variable["name"]]
    container["env"] += ADDED
    del container["resources"]
    return jobset


@pytest.fixture(scope="module")
def network():
    """Make a network on which containers find each other by name."""
    name = f"ds2-test-{os.getpid()}"
    checked("network", "create", name)
    yield name
    podman("network", "rm", "--force", name)


@pytest.fixture
def volume(tmp_path) -> Path:
    """Return a volume that belongs to root, after the first container of volume.yaml and the upload of clips."""
    return make_volume(tmp_path / "volume")


def make_volume(folder: Path) -> Path:
    folder.mkdir()
    _, pod = yaml.safe_load_all((KUBERNETES / "volume.yaml").read_text())
    [first] = pod["spec"]["initContainers"]
    rights = first["securityContext"]
    checked(
        *("run", "--rm", *containers.LIMITS, f"--user={rights['runAsUser']}", "--security-opt=no-new-privileges"),
        *(f"--cap-drop={name}" for name in rights["capabilities"]["drop"]),
        *(f"--cap-add={name}" for name in rights["capabilities"]["add"]),
        *(f"--volume={folder}:{mount['mountPath']}" for mount in first["volumeMounts"]),
        *(f"--entrypoint={json.dumps(first['command'])}", image()),
    )
    assert {(folder / name).stat().st_uid for name in ("data", "runs")} == {USER}
    shutil.copytree(ROOT / "tests" / "clips", folder / "data" / "clips")
    return folder


def train(network: str, volume: Path, disturb: Callable[[Pods], None] | None = None) -> list[list[int]]:
    """Run the JobSet until it is complete, and restart it when its policy says so; return the exit codes of each start.

    disturb: called once, after the first checkpoint.
    """
    jobset = adapted("jobset.yaml")
    pods = expand(jobset, {"ds2": volume})
    starts: list[list[int]] = []
    while not starts or any(starts[-1]):
        assert len(starts) <= 2, starts
        with started_pods(pods, network) as running:
            if disturb is not None and not starts:
                wait_until(lambda: saved(volume) or any(running.code(k) for k in (0, 1)), 600)
                disturb(running)
            starts.append(running.wait())
            failed = next((code for code in starts[-1] if code), 0)
            print(*(running.logs(k)[-3000:] for k in (0, 1)), sep="\n--\n")
        assert not failed or decide(jobset, failed) == "RestartJobSet"
    return starts


def saved(volume: Path) -> bool:
    return bool(list(volume.glob("runs/librispeech/checkpoints/[0-9]*/progress/metadata")))


def results(volume: Path) -> tuple[list, dict, list[np.ndarray]]:
    """Return the losses of all steps, the rates on the test set, and the arrays of the model that was measured."""
    run = volume / "runs" / "librispeech"
    records = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    losses = [(record["step"], record["loss"]) for record in records if "loss" in record]
    rates = json.loads((run / "test.json").read_text())
    return losses, rates, jax.tree.leaves(load_model(str(run))[1])


@pytest.fixture(scope="module")
def uninterrupted(network, tmp_path_factory):
    """Train without interruption, and return the results."""
    volume = make_volume(tmp_path_factory.mktemp("uninterrupted") / "volume")
    assert train(network, volume) == [[0, 0]]
    return results(volume)


def require_same(volume: Path, expected: tuple[list, dict, list[np.ndarray]]) -> None:
    losses, rates, arrays = results(volume)
    assert losses == expected[0]
    assert rates["wer"] == expected[1]["wer"]
    assert all(itertools.starmap(np.array_equal, zip(arrays, expected[2], strict=True)))


AGAIN = {75, 143}  # 143: SIGTERM, sent by Kubernetes when the other pod has failed, came before the program's own end
DISTURBANCES: dict[str, tuple[Callable[[Pods], None], tuple[set[int], set[int]]]] = {
    "SIGTERM to one": (lambda pods: pods.evict(0), ({75}, AGAIN)),
    "SIGKILL to one": (lambda pods: pods.kill(1), (AGAIN, {137})),
    "cut off": (lambda pods: pods.cut_off(1), (AGAIN, AGAIN)),
    "paused": (lambda pods: pods.freeze(1), ({75}, {137})),
}
SLOW = ("cut off", "paused")


class TestPods:
    """Five trainings of the same two pods; each needs a minute or two."""

    pytestmark = pytest.mark.containers

    @pytest.mark.parametrize(
        "case", [pytest.param(case, marks=pytest.mark.slow if case in SLOW else ()) for case in DISTURBANCES]
    )
    def test_pods_that_lose_each_other_start_again_and_end_as_if_nothing_had_happened(
        self, case, network, volume, uninterrupted
    ):
        disturb, expected = DISTURBANCES[case]
        interrupted, last = train(network, volume, disturb)
        assert all(code in codes for code, codes in zip(interrupted, expected, strict=True)), interrupted
        assert last == [0, 0]
        require_same(volume, uninterrupted)


def environment_of(pod: Pod) -> dict[str, str]:
    return dict(option.removeprefix("--env=").split("=", 1) for option in pod.options if option.startswith("--env="))


def test_the_pods_of_a_jobset_know_their_number_and_the_coordinator(tmp_path):
    jobset = yaml.safe_load((KUBERNETES / "jobset.yaml").read_text())
    pods = expand(jobset, {"ds2": tmp_path})
    assert [pod.dns for pod in pods] == ["ds2-train-0-0.ds2", "ds2-train-0-1.ds2"]
    found = [discover({}, environment_of(pod)) for pod in pods]
    source = "flags or DS2_* variables"
    assert found == [ProcessInfo(source, "ds2-train-0-0.ds2:8476", 2, k) for k in (0, 1)]


def test_the_pods_of_a_tpu_slice_are_found_by_the_variables_of_the_cloud(tmp_path, monkeypatch):
    jobset = yaml.safe_load((KUBERNETES / "jobset_tpu.yaml").read_text())
    pods = expand(jobset, {"YOUR-BUCKET": tmp_path})
    hosts = [f"ds2-tpu-train-0-{worker}.ds2-tpu" for worker in range(4)]
    assert [pod.dns for pod in pods] == hosts
    for worker, pod in enumerate(pods):
        environment = environment_of(pod) | {  # as Google Kubernetes Engine sets them
            "TPU_WORKER_ID": str(worker),
            "TPU_WORKER_HOSTNAMES": ",".join(hosts),
            "TPU_ACCELERATOR_TYPE": "v5litepod-16",
            "TPU_TOPOLOGY": "4x4",
            "TPU_SKIP_MDS_QUERY": "true",
        }
        assert discover({}, environment, on_tpu=True) == ProcessInfo("TPU pod")
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        workers = GkeTpuCluster._get_worker_list_in_slice()  # what JAX makes of them
        assert (GkeTpuCluster._get_process_id_in_slice(), workers) == (worker, hosts)
        assert len(workers) == value_of(pod.arguments, "expect_processes")


def value_of(arguments: tuple[str, ...], flag: str) -> int:
    [value] = [argument.partition("=")[2] for argument in arguments if argument.startswith(f"--{flag}=")]
    return int(value)


@pytest.mark.parametrize(
    ("code", "action"),
    [(75, "RestartJobSet"), (137, "RestartJobSet"), (143, "RestartJobSet"), (1, "FailJobSet"), (2, "FailJobSet")],
)
@pytest.mark.parametrize("name", ["jobset.yaml", "jobset_tpu.yaml"])
def test_the_policies_restart_after_a_loss_and_end_after_an_error(name, code, action):
    assert decide(yaml.safe_load((KUBERNETES / name).read_text()), code) == action
