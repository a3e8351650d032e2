"""The images of launch/Dockerfile, built and run here: sizes, a transcription, a training, the server, limits."""

import json
import os
import time
from pathlib import Path

import pytest

from input_pipeline.cores import usable_cores
from tests import containers
from tests.containers import checked, image, megabytes, podman, run, started
from tests.runs import ROOT

pytestmark = pytest.mark.containers

CLIPS = f"--volume={ROOT}/tests/clips:/data:ro"
CLIP = "/data/cen1-mtos-b.flac"
MOST_MB = {"": 1100, "serve": 800}  # on a base of 170 MB, Debian 13 with Python 3.13
TINY = (
    "--config=tiny",
    *(f"--config.data.{name}=/data/manifest.jsonl" for name in ("train", "dev", "test")),
    *("--config.batch.size=4", "--config.batch.buckets=1", "--config.train.epochs=1"),
)


@pytest.fixture
def runs(tmp_path) -> Path:
    """Return a folder for /runs that belongs to the user of the image."""
    folder = tmp_path / "runs"
    folder.mkdir()
    os.chown(folder, 10001, 10001)
    return folder


@pytest.mark.parametrize("target", MOST_MB)
def test_the_image_is_small(target):
    base = megabytes(containers.base(containers.RUN))
    assert megabytes(image(target)) <= MOST_MB[target], f"on a base of {base:.0f} MB"


@pytest.mark.parametrize("model", ["an4", "models/an4"])
def test_the_released_model_transcribes_a_mounted_clip_in_the_image(model):
    result = run(image(), "--mode=infer", f"--config.restore={model}", f"--audio={CLIP}", options=(CLIPS,))
    assert result.returncode == 0, result.stderr
    assert "hypothesis: s m i t h" in result.stdout
    assert "decoding: native" in result.stderr


@pytest.mark.slow
def test_the_image_for_gpus_is_built_and_has_their_libraries():
    name = image(accelerator="cuda")
    result = run(
        name, f"--audio={CLIP}", "--mode=infer", "--config.restore=an4", options=(CLIPS, "--env=JAX_PLATFORMS=cpu")
    )
    assert "hypothesis: s m i t h" in result.stdout, result.stderr
    code = "import jax_plugins.xla_cuda12; from nvidia import cudnn, nccl"
    assert run(name, "-c", code, options=("--entrypoint=python",)).returncode == 0


def test_a_network_is_trained_in_the_image_by_a_user_without_privileges(runs):
    result = run(image(), *TINY, "--workdir=runs/tiny", options=(CLIPS, f"--volume={runs}:/runs"))
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout.splitlines()[-1])["workdir"] == "runs/tiny"
    assert (runs / "tiny" / "checkpoints").stat().st_uid == 10001


def test_a_folder_of_runs_that_may_not_be_written_is_reported_in_one_line(tmp_path):
    result = run(image(), *TINY, "--workdir=/runs/tiny", options=(CLIPS, f"--volume={tmp_path}:/runs"))
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "/runs/tiny" in result.stderr.splitlines()[-1]


def test_a_training_that_will_not_fit_into_the_memory_of_the_container_says_so_with_numbers(runs):
    options = (CLIPS, f"--volume={runs}:/runs", "--memory=350m")
    result = run(image(), *TINY, "--workdir=/runs/tiny", options=options)
    assert result.returncode == 1, result.stderr
    line = result.stderr.splitlines()[-1]
    assert "this training does not fit into memory" in line
    assert "MB of the 367 MB of this container, pod or job" in line


def test_threads_are_as_many_as_the_cores_of_the_container():
    code = (
        "import os, ds2_jax, jax, numpy; from input_pipeline.cores import usable_cores; "
        "jax.numpy.ones(3).block_until_ready(); names = [open(f'/proc/self/task/{task}/comm').read().strip() "
        "for task in os.listdir('/proc/self/task')]; "
        "print(usable_cores(), os.environ.get('OPENBLAS_NUM_THREADS'), sum('Eigen' in name for name in names))"
    )
    counts = []
    for options in (("--cpus=0.5",), ()):
        result = run(image(), "-c", code, options=("--entrypoint=python", *options))
        assert result.returncode == 0, result.stderr
        counts.append(result.stdout.split())
    assert counts[0] == ["1", "1", "1"]
    assert counts[1] == [str(usable_cores()), "None", str(usable_cores())]


def wait_until_healthy(container: str) -> None:
    deadline = time.monotonic() + 300
    while podman("healthcheck", "run", container).returncode:
        assert time.monotonic() < deadline, podman("logs", container).stderr
        time.sleep(2)


def request(container: str, path: str, *arguments: str) -> str:
    """Return the status that the server in a container answers to a request from beside it."""
    code = (
        "import sys, urllib.request, urllib.error\n"
        f"request = urllib.request.Request('http://127.0.0.1:8086{path}', headers=dict([sys.argv[1:]]) if sys.argv[1:] else {{}})\n"
        "try: print(urllib.request.urlopen(request).status)\n"
        "except urllib.error.HTTPError as error: print(error.code)"
    )
    return checked("exec", container, "python", "-c", code, *arguments)


def test_the_server_does_not_start_without_a_token():
    for options in ((), ("--env=DS2_TOKEN=",)):
        result = run(image("serve"), options=options)
        assert result.returncode == 1
        assert "set DS2_TOKEN (or --token=...); --token=none serves without a token" in result.stderr


def test_the_server_is_healthy_and_asks_for_its_token():
    with started(image("serve"), options=("--env=DS2_TOKEN=secret",)) as container:
        wait_until_healthy(container)
        assert request(container, "/healthz") == "200"
        assert request(container, "/v1/models") == "401"
        assert request(container, "/v1/models", "Authorization", "Bearer secret") == "200"
        assert "0.0.0.0" not in checked("logs", container)
        before = time.monotonic()
        checked("stop", "--time=60", container)
        assert time.monotonic() - before < 30
        assert checked("inspect", "--format={{.State.ExitCode}}", container) == "0"


def test_the_server_starts_without_a_token_when_told_so():
    with started(image("serve"), "--config.restore=an4", "--token=none") as container:
        wait_until_healthy(container)
        assert request(container, "/v1/models") == "200"
