"""Settings and fixtures for all tests: four simulated CPU devices, real speech, an S3-compatible store."""

import importlib.metadata
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
# Half of the processor time of a first run is compilation. Programs of less than a second, which JAX leaves out by default, are most.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.expanduser("~/.cache/ds2_jax_tests"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import numpy as np
import pytest
import soundfile
from absl import flags

from tests.runs import ROOT

if TYPE_CHECKING:
    from benchmarks.local_store import LocalStore

# A shell that starts the tests with `&` makes them ignore SIGINT, and child processes inherit that. With a handler, children
# get the default action.
signal.signal(signal.SIGINT, signal.default_int_handler)

CLIPS = Path(__file__).parent / "clips"  # a few AN4 utterances and their licence
flags.FLAGS.mark_as_parsed()  # grain reads flags


@pytest.fixture(scope="session")
def speech() -> Path:
    """Folder of speech corpora (an4/train.jsonl, ...), from DS2_SPEECH_DATA; tests that need it are skipped without it."""
    folder = os.environ.get("DS2_SPEECH_DATA", "")
    if not folder or not Path(folder, "an4").is_dir():
        pytest.skip("DS2_SPEECH_DATA is not set to a folder that contains an4/")
    return Path(folder)


@pytest.fixture(scope="session")
def clips() -> Path:
    """Manifest of a few AN4 utterances in the repository."""
    return CLIPS / "manifest.jsonl"


@pytest.fixture(autouse=True)
def new_process(monkeypatch):
    """Let each test log the warnings that a process logs once."""
    monkeypatch.setattr("input_pipeline.manifest.sample_rates._warned", set())


@pytest.fixture
def tone(tmp_path):
    """Return a function that writes a tone with noise to a file and returns its path."""

    def write(name: str = "tone.wav", seconds: float = 1.0, rate: int = 16000, hertz: float = 440.0) -> str:
        n = np.arange(int(seconds * rate))
        noise = np.random.default_rng(0).normal(0, 0.01, len(n))
        path = tmp_path / name
        soundfile.write(path, (0.1 * np.sin(2 * np.pi * hertz * n / rate) + noise).astype(np.float32), rate)
        return str(path)

    return write


@pytest.fixture(scope="session")
def store() -> Iterator["LocalStore"]:
    """Run an S3-compatible server with the bucket s3://speech, and configure this process to use it."""
    import fsspec

    from benchmarks.local_store import BUCKET, LocalStore

    with LocalStore() as server, pytest.MonkeyPatch.context() as environment:
        for name, value in server.environment.items():
            environment.setenv(name, value)
        fsspec.filesystem("s3").mkdir(BUCKET)
        yield server


@pytest.fixture(scope="session")
def tpu_compiler() -> dict[str, str]:
    """Install the compiler for TPUs if it is missing (480 MB); return the environment of a process that uses it."""
    from benchmarks.accelerators import LIBTPU

    requirement = next(r for r in importlib.metadata.requires("jax") or [] if r.startswith("libtpu"))
    _install(LIBTPU.parent.parent, [requirement.partition(";")[0].strip()])
    return {k: v for k, v in os.environ.items() if not k.startswith("XLA")} | {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}


@pytest.fixture(scope="session")
def cuda_compiler() -> dict[str, str]:
    """Install the compiler for NVIDIA GPUs if it is missing (132 MB); return the environment of a process that uses it."""
    from benchmarks.accelerators import CUDA, cuda_requirements

    _install(CUDA, cuda_requirements())
    return {k: v for k, v in os.environ.items() if not k.startswith(("XLA", "JAX"))}


def _install(folder: Path, requirements: list[str]) -> None:
    if not (ROOT / folder).exists():
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(ROOT / folder)]
        result = subprocess.run([*install, *requirements], capture_output=True, text=True)
        if result.returncode:
            pytest.skip(f"the compiler cannot be installed here: {result.stderr.strip().splitlines()[-1]}")
