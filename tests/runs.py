"""Small training runs for tests: a config, its flags, and main.py in one or several processes."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from ds2_jax.configs import base

ROOT = Path(__file__).parent.parent
OWN_MOUNTS = shutil.which("unshare") is not None and (  # for tests with small disks that fill up
    subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode == 0
)


def slow(*values: object) -> object:
    """Return a case of a parametrised test that only `make test-slow` runs."""
    return pytest.param(*values, marks=pytest.mark.slow)


def small_config(manifest: str | Path) -> ConfigDict:
    """Return a config that trains a network of a few thousand parameters on a manifest within seconds."""
    config = base.get_config()
    config.data.train = str(manifest)
    config.batch.size = 4
    config.batch.buckets = 2
    config.batch.eval_buckets = 1
    config.features.kind = "fbank"
    config.features.mel_bins = 20
    config.model.conv = "5x5/3x2:4"
    config.model.rnn_size = 12
    config.model.rnn_layers = 1
    config.optim.warmup_steps = 5
    config.train.epochs = 4
    config.train.log_every = 1
    return config


def small_flags(manifest: str | Path) -> list[str]:
    """Return the same settings as flags of main.py."""
    config, default = small_config(manifest), base.get_config()
    flags = []
    for section, values in config.items():
        if isinstance(values, ConfigDict):
            flags += [f"--config.{section}.{k}={v}" for k, v in values.items() if v != default[section][k]]
    return flags


class Program(subprocess.Popen):
    """A program that is waited for at exit, and ended first if the test fails, because it may run for hours."""

    def __exit__(self, kind, value, traceback):
        if kind is not None and self.poll() is None:
            self.terminate()
            try:
                self.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()
        return super().__exit__(kind, value, traceback)


def start_main(*arguments: str, devices: int = 1) -> Program:
    """Start main.py as users do, with this many simulated devices."""
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, str(ROOT / "main.py"), *arguments]
    return Program(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run_main(*arguments: str, devices: int = 1) -> subprocess.CompletedProcess:
    """Run main.py and wait for it to finish."""
    with start_main(*arguments, devices=devices) as process:
        out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def run_with_mount(options: str, folder: Path, code: str) -> list[str]:
    """Run Python code with a disk of its own at `folder`, sys.argv[1]; return the lines that it prints."""
    folder.mkdir(exist_ok=True)
    mount = f'mount -t tmpfs -o {options} none "$0" && exec "$@"'
    command = ["unshare", "-rm", "sh", "-c", mount, str(folder), sys.executable, "-c", code, str(folder)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


class Cluster:
    """Several processes of main.py that form a cluster on this machine; processes still running at exit are killed.

    own: additional flags of single processes, by rank. roots: checkouts that single processes run, and their working
    directories, by rank.
    """

    def __init__(
        self,
        count: int,
        *arguments: str,
        devices: int = 1,
        own: Mapping[int, Sequence[str]] | None = None,
        roots: Mapping[int, Path] | None = None,
    ):
        environment = os.environ | {
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            "JAX_PLATFORMS": "cpu",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # compiles in half the time
            "DS2_COORDINATOR": f"127.0.0.1:{free_port()}",
            "DS2_NUM_PROCESSES": str(count),
        }
        self.processes: list[subprocess.Popen] = []
        self._files = [(tempfile.TemporaryFile("w+"), tempfile.TemporaryFile("w+")) for _ in range(count)]  # noqa: SIM115
        for rank, (out, err) in enumerate(self._files):
            root = (roots or {}).get(rank, ROOT)
            command = [sys.executable, str(root / "main.py"), *arguments, *(own or {}).get(rank, ())]
            self.processes.append(
                subprocess.Popen(
                    command, cwd=root, env=environment | {"DS2_PROCESS_ID": str(rank)}, stdout=out, stderr=err
                )
            )

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *_):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()
        for file in sum(self._files, ()):
            file.close()

    def wait_until(self, condition: Callable[[], bool], timeout_s: float = 300) -> None:
        """Wait for a condition that the processes bring about; fail if one of them ends first."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            for rank, process in enumerate(self.processes):
                assert process.poll() is None, self.stderr(rank)
            assert time.monotonic() < deadline, self.stderr(0)
            time.sleep(0.05)

    def finish(self, timeout_s: float = 300) -> list[int]:
        """Wait for all processes to end and return their exit codes."""
        deadline = time.monotonic() + timeout_s
        return [process.wait(max(deadline - time.monotonic(), 0)) for process in self.processes]

    def stdout(self, rank: int) -> str:
        """Return what a process has printed so far."""
        return self._read(rank, 0)

    def stderr(self, rank: int) -> str:
        """Return what a process has logged so far."""
        return self._read(rank, 1)

    def _read(self, rank: int, which: int) -> str:
        file = self._files[rank][which]
        return os.pread(file.fileno(), 1 << 24, 0).decode()


def wait_until(condition: Callable[[], bool], timeout_s: float = 100) -> None:
    """Wait for a condition that another thread or process brings about; the timeout allows for a busy machine."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"the condition was not met within {timeout_s} s"
        time.sleep(0.01)


def wait_until_printed(text: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Wait until another thread has printed a text, to either stream; return everything printed so far."""
    printed: list[str] = []

    def is_printed() -> bool:
        printed.append("".join(capsys.readouterr()))
        return text in "".join(printed)

    wait_until(is_printed)
    return "".join(printed)


def free_port() -> int:
    """Return a port on which no process is listening."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
