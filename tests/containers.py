"""Container images, built and run on this machine with podman and runc; their bases are made of Debian's packages.

Needs root and Debian (`make test-containers` installs the programs). Images stay in podman's store, so that later runs build
only what has changed.
"""

import contextlib
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.runs import ROOT

PROGRAMS = ("podman", "runc", "mmdebstrap")
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")  # also those of a proxy between here and the package index
CERTIFIED = (f"--volume={CERTIFICATES}:{CERTIFICATES}:ro",) if CERTIFICATES.is_file() else ()
RUN = "python3,python3-venv,ca-certificates"  # packages of a base to run in, and of one to build in
BUILD = f"{RUN},python3-dev,python3-pip,make,g++"
TOOLS = f"{BUILD},git,zlib1g-dev,libbz2-dev,liblzma-dev"  # to install and test a checkout
LIMITS = ("--ulimit=nofile=1024:1024", "--ulimit=nproc=4096:4096")  # podman's own are refused where limits are lower
LOCKED = ("--read-only", "--cap-drop=all", "--security-opt=no-new-privileges")  # as in launch/kubernetes
BUILD_S, RUN_S = 2400, 900


@functools.cache
def why_not() -> str:
    """Return the reason why containers cannot run on this machine, or '' if they can."""
    if os.geteuid() != 0:
        return "containers need root here"
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (make test-containers installs them on Debian)"
    command = ("run", "--rm", "--network=bridge", *LIMITS, "--rootfs", "/:O", "true")  # a copy of this machine
    result = subprocess.run([*_PODMAN, *command], capture_output=True, text=True)
    return "" if result.returncode == 0 else f"podman cannot run here: {' '.join(result.stderr.split())[-300:]}"


_PODMAN = ("podman", "--runtime=runc")  # crun refuses machines with both versions of cgroups


def podman(*arguments: str | Path, timeout_s: float = RUN_S) -> subprocess.CompletedProcess[str]:
    """Run podman and return what it printed."""
    return subprocess.run([*_PODMAN, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=timeout_s)


def checked(*arguments: str | Path, timeout_s: float = RUN_S) -> str:
    """Run podman, which must succeed, and return its standard output."""
    result = podman(*arguments, timeout_s=timeout_s)
    assert result.returncode == 0, (result.stdout + result.stderr)[-5000:]
    return result.stdout.strip()


@functools.cache
def base(packages: str, release: str = "trixie") -> str:
    """Return the name of an image with these packages of a release of Debian, made if it does not exist."""
    name = f"localhost/ds2-test-{hashlib.sha256(packages.encode()).hexdigest()[:8]}:{release}"
    if podman("image", "exists", name).returncode:
        with tempfile.TemporaryDirectory() as folder:
            archive = Path(folder, "base.tar")
            options = (
                "--quiet",
                "--variant=minbase",
                '--aptopt=Acquire::Check-Valid-Until "false"',
            )  # clocks are wrong
            command = ("mmdebstrap", *options, f"--include={packages}", release, archive)
            made = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_S)
            assert made.returncode == 0, made.stderr[-3000:]
            checked("import", "--quiet", archive, name)
    return name


@functools.cache
def image(target: str = "", accelerator: str = "cpu") -> str:
    """Build launch/Dockerfile on the bases of Debian 13, and return the image's name."""
    name = f"localhost/ds2-jax-test:{target or accelerator}"
    values = {"BASE": base(RUN), "BUILD_BASE": base(BUILD), "ACCELERATOR": accelerator}
    checked(
        *("build", "--format=docker", "--network=host", *CERTIFIED, "--file=launch/Dockerfile", f"--tag={name}"),
        *(f"--build-arg={argument}={value}" for argument, value in values.items()),
        *("--ignorefile=launch/Dockerfile.dockerignore", *([f"--target={target}"] if target else []), "."),
        timeout_s=BUILD_S,
    )
    return name


def megabytes(name: str) -> float:
    """Return the size of an image in MB."""
    return int(checked("image", "inspect", "--format={{.Size}}", name)) / 1e6


def run(name: str, *arguments: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run an image without network and privileges until it ends."""
    return podman("run", "--rm", "--network=none", *LIMITS, *LOCKED, *options, name, *arguments)


@contextlib.contextmanager
def started(name: str, *arguments: str, options: tuple[str, ...] = ()) -> Iterator[str]:
    """Start an image without privileges, and return the name of the container, which is removed at the end."""
    container = checked("run", "--detach", *LIMITS, *LOCKED, *options, name, *arguments)
    try:
        yield container
    finally:
        podman("rm", "--force", "--time=5", container)
