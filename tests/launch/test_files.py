"""Files in launch/ other than the scripts for Slurm and one machine: Kubernetes manifests, the image's files, TPU commands.

No container engine, Kubernetes cluster or cloud is needed; the schemas are those of Kubernetes (kubernetes-validate) and JobSet.
"""

import json
import os
import re
import subprocess

import jsonschema
import kubernetes_validate
import pytest
import yaml
from absl import flags

from ds2_jax.cli import main as program
from ds2_jax.parallel.watch import RETRY
from tests.runs import ROOT

LAUNCH = ROOT / "launch"
SCHEMA = json.loads((ROOT / "tests" / "schemas" / "jobset_v1alpha2.json").read_text())
KUBERNETES = "1.34"
JOBSETS = sorted((LAUNCH / "kubernetes").glob("jobset*.yaml"))


def check_jobset(manifest: dict) -> None:
    """Raise a ValidationError if a JobSet or a job in it does not match its schema."""
    jsonschema.validate(manifest, SCHEMA)
    for job in manifest["spec"]["replicatedJobs"]:
        whole = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": job["name"]}, **job["template"]}
        kubernetes_validate.validate(whole, KUBERNETES, strict=True)


@pytest.fixture(params=JOBSETS, ids=lambda path: path.stem)
def jobset(request) -> dict:
    return yaml.safe_load(request.param.read_text())


def container_of(jobset: dict) -> dict:
    [container] = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"]
    return container


def value_of(arguments: list[str], flag: str) -> int:
    return int(next(argument for argument in arguments if argument.startswith(f"--{flag}=")).partition("=")[2])


def test_jobsets_match_their_schemas(jobset):
    check_jobset(jobset)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda m: m["spec"].update(replicas=2),
        lambda m: m["spec"]["failurePolicy"].update(maxRestarts="many"),
        lambda m: m["spec"]["failurePolicy"]["rules"][0].update(action="Restart"),
        lambda m: m["spec"]["replicatedJobs"][0].pop("name"),
        lambda m: m["spec"]["replicatedJobs"][0]["template"]["spec"].update(completion="Indexed"),
        lambda m: container_of(m).update(arg=[]),
    ],
)
def test_the_schemas_detect_mistakes(jobset, spoil):
    spoil(jobset)
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        check_jobset(jobset)


def test_the_numbers_in_a_jobset_are_consistent(jobset):
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    container = container_of(jobset)
    nodes, arguments = job["parallelism"], container["args"]
    limits = container["resources"]["limits"]
    devices = int(limits.get("nvidia.com/gpu") or limits["google.com/tpu"])
    assert job["completions"] == value_of(arguments, "expect_processes") == nodes
    assert value_of(arguments, "expect_devices") == nodes * devices
    environment = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert environment.get("DS2_NUM_PROCESSES", str(nodes)) == str(nodes)
    name, replicated = jobset["metadata"]["name"], jobset["spec"]["replicatedJobs"][0]["name"]
    coordinator = f"{name}-{replicated}-0-0.{jobset['spec']['network']['subdomain']}"
    assert environment.get("DS2_COORDINATOR", f"{coordinator}:8476") == f"{coordinator}:8476"


def test_a_jobset_restarts_on_the_exit_code_for_retries_and_not_on_errors(jobset):
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    codes = job["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"]
    assert RETRY in codes
    assert not {1, 2} & set(codes)
    retry, error = jobset["spec"]["failurePolicy"]["rules"]
    assert (retry["action"], retry["onJobFailureReasons"]) == ("RestartJobSet", ["PodFailurePolicy"])
    assert error["action"] == "FailJobSet"


def test_pods_have_no_privileges(jobset):
    pod = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container_of(jobset)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }


def test_the_shared_volume_matches_its_schema():
    for manifest in yaml.safe_load_all((LAUNCH / "kubernetes" / "volume.yaml").read_text()):
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


def flags_in(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--(config|workdir|mode|expect_processes|expect_devices|output|audio)\b", text))


@pytest.mark.parametrize("path", [*JOBSETS, LAUNCH / "skypilot.yaml", LAUNCH / "slurm.sbatch"], ids=lambda p: p.name)
def test_flags_and_recipes_in_launchers_exist(path):
    text = path.read_text()
    assert flags_in(text) >= {"config", "workdir", "expect_processes", "expect_devices"}
    for flag in flags_in(text):
        assert flag in flags.FLAGS or flag in program.CLUSTER
    for recipe in re.findall(r"configs/\w+\.py", text):
        assert (ROOT / recipe).is_file()


def test_the_image_copies_existing_files_and_does_not_run_as_root():
    lines = (LAUNCH / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    copied = [line.split()[1:-1] for line in lines if line.startswith("COPY") and "--from" not in line]
    assert all((ROOT / name).exists() for names in copied for name in names)
    assert [line for line in lines if line.startswith("USER")][-1] == "USER 10001:10001"
    ignored = (LAUNCH / "Dockerfile.dockerignore").read_text().splitlines()
    kept = {line[1:] for line in ignored if line.startswith("!")}
    assert all((ROOT / name).exists() for name in kept)
    rooms = {"pyproject.toml", "setup.py", "configs", "ds2_jax", "input_pipeline", "decoding"}
    assert rooms <= kept
    assert "*" in ignored
    assert not {"data", "models", "main.py", "runs", ".git"} & kept  # of the models, only the one that the wheel holds


@pytest.fixture
def gcloud(tmp_path, monkeypatch):
    """Put a gcloud on PATH that logs its arguments; return a function that runs tpu_pod.sh and returns the calls."""
    log = tmp_path / "calls"
    fake = tmp_path / "gcloud"
    fake.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >> {log}\necho -- >> {log}\n')
    fake.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}

    def run(*arguments: str, **variables: str) -> tuple[subprocess.CompletedProcess, list[list[str]]]:
        log.write_text("")
        result = subprocess.run(
            [LAUNCH / "tpu_pod.sh", *arguments],
            env=environment | variables,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        return result, [call.strip().splitlines() for call in log.read_text().split("--\n") if call.strip()]

    return run


SLICE = {"TPU": "pod", "ZONE": "zone-a", "BUCKET": "gs://bucket/folder"}


def test_tpu_commands_reach_all_machines(gcloud):
    result, calls = gcloud("create", **SLICE, TYPE="v5litepod-16", SPOT="1")
    assert result.returncode == 0, result.stderr
    assert calls[0][:5] == ["compute", "tpus", "tpu-vm", "create", "pod"]
    assert {"--accelerator-type=v5litepod-16", "--spot", "--zone=zone-a"} <= set(calls[0])
    _, calls = gcloud("train", "--config=configs/librispeech.py:16", "--workdir=/bucket/runs/it's", **SLICE)
    assert "--worker=all" in calls[0]
    command = "\n".join(calls[0])
    assert "main.py --config=configs/librispeech.py:16" in command
    assert r"it\'s" in command  # quoted for the remote shell
    _, calls = gcloud("setup", **SLICE)
    assert any(word.startswith("pod:") for word in calls[0])
    assert "--only-dir=folder bucket /bucket" in "\n".join(calls[1])
    _, calls = gcloud("fetch", "runs/librispeech", **SLICE)
    assert calls[0][-2:] == ["gs://bucket/folder/runs/librispeech", "runs/librispeech"]


def test_tpu_commands_report_missing_variables_and_unknown_commands(gcloud):
    result, calls = gcloud("create")
    assert (result.returncode, calls) == (2, [])
    assert "ZONE is not set" in result.stderr
    result, _ = gcloud("fly", **SLICE)
    assert "'fly' is not a command" in result.stderr


@pytest.mark.parametrize("command", [["create"], ["train", "--workdir=x"]])
@pytest.mark.parametrize("name", ["v5litepod", "v5litepod-", "v5litepod-0", "v5litepod-2x4"])
def test_a_tpu_without_a_size_is_refused(command, name, gcloud):
    result, calls = gcloud(*command, **SLICE, TYPE=name)
    assert (result.returncode, calls) == (2, [])
    assert f"TYPE={name} does not say how large the slice is: write v5litepod-16" in result.stderr


@pytest.mark.parametrize(("name", "devices"), [("v5litepod-16", 16), ("v6e-8", 8), ("v3-32", 32), ("v4-32", 16)])
def test_the_expected_number_of_devices_is_that_of_the_slice(name, devices, gcloud):
    _, calls = gcloud("train", "--workdir=x", **SLICE, TYPE=name)
    assert f"--setenv=DS2_EXPECT_DEVICES={devices} " in "\n".join(calls[0])


@pytest.mark.parametrize("command", [["setup"], ["upload", "speech"], ["fetch", "runs/x"]])
@pytest.mark.parametrize("bucket", ["bucket", "s3://bucket", "gs://"])
def test_a_bucket_outside_google_cloud_storage_is_refused(command, bucket, gcloud, tmp_path):
    (tmp_path / "speech").mkdir()
    result, calls = gcloud(*command, **(SLICE | {"BUCKET": bucket}))
    assert (result.returncode, calls) == (2, [])
    assert "is not a bucket of Google Cloud Storage: write gs://my-bucket/ds2" in result.stderr


# /dev/null/x is an absolute path where nothing can be created
@pytest.mark.parametrize("folder", ["/dev/null/x", "../x", "runs/../../x", "./runs", ".", "", "runs//x", "--help"])
@pytest.mark.parametrize("command", ["upload", "fetch"])
def test_a_folder_outside_the_current_one_is_refused(command, folder, gcloud, tmp_path):
    result, calls = gcloud(command, folder, **SLICE)
    assert (result.returncode, calls) == (2, [])
    assert f"'{folder}': write the folder's path relative to the current folder" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["calls", "gcloud"]


def test_a_folder_has_the_same_relative_path_in_the_bucket(gcloud, tmp_path):
    (tmp_path / "data" / "it's..v2").mkdir(parents=True)
    _, calls = gcloud("upload", "data/it's..v2/", **(SLICE | {"BUCKET": "gs://bucket/"}))
    assert calls[0][-2:] == ["data/it's..v2/", "gs://bucket/data/it's..v2"]
    result, calls = gcloud("upload", "data/none", **SLICE)
    assert (result.returncode, calls) == (2, [])
    assert "there is no folder data/none" in result.stderr
