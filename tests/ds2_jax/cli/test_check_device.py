"""The check after installation: the device that JAX uses, and the message if it is not the requested one."""

import os
import subprocess
import sys

import pytest

from tests.runs import ROOT


def check(accelerator: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "ds2_jax.cli.check_device", accelerator]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100)


def test_the_device_in_use_is_reported():
    result = check("cpu")
    assert result.returncode == 0, result.stderr
    assert "computes on" in result.stdout


@pytest.mark.parametrize(
    ("accelerator", "expected"),
    [("gpu", "unknown ACCELERATOR=gpu: choose one of cpu, cuda, tpu"), ("cuda", "but JAX computes on cpu")],
)
def test_another_device_is_refused_in_one_line(accelerator, expected):
    result = check(accelerator)
    assert result.returncode == 1
    [line] = result.stderr.splitlines()
    assert expected in line
