"""Environments with real clients, which the tests install from the package index."""

import subprocess
import sys
from pathlib import Path

import pytest


def install(folder: Path, *packages: str) -> str:
    """Create an environment with packages; return its Python. Skips the test if the package index cannot be reached."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = str(folder / "bin" / "python")
    done = subprocess.run([python, "-m", "pip", "install", "-q", *packages], capture_output=True, text=True)
    if done.returncode and ("No matching distribution" in done.stderr or "onnection" in done.stderr):
        pytest.skip(f"{' '.join(packages)} cannot be installed here")
    assert done.returncode == 0, done.stderr
    return python
