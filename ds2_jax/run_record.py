"""What was run, on what, with what: `run.json` and `config.json` in the workdir, a record more for each start."""

import json
import os
import platform
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import jax
from ml_collections import ConfigDict

from ds2_jax import distributed

SHARED_S = 20  # for a network file system to show a new file everywhere
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "soundfile", "soxr")


def make_workdir(workdir: str) -> None:
    """Create the workdir and make sure that it can be written. Raises OSError saying what to do."""
    if not workdir:
        raise ValueError("--workdir is empty: name the folder for checkpoints and curves, --workdir=runs/my_run")
    probe = Path(workdir, f".writable-{distributed.rank()}-{os.getpid()}")
    try:
        Path(workdir).mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise OSError(f"--workdir={workdir} cannot be written ({error.strerror}); name a folder that can") from error
    _require_shared(workdir)


def _require_shared(workdir: str) -> None:
    """Raise where not all processes see the same folder: all of them write the checkpoints."""
    if distributed.count() == 1:
        return
    token = Path(workdir, f".shared-{distributed.from_first(lambda: uuid.uuid4().hex)}")
    if distributed.rank() == 0:
        token.write_text("")
    distributed.barrier()
    deadline = time.monotonic() + SHARED_S
    while not (seen := token.exists()) and time.monotonic() < deadline:
        time.sleep(0.5)
        os.listdir(workdir)  # some network file systems look again then
    blind = [rank for rank, answer in enumerate(distributed.exchange(str(seen))) if answer != "True"]
    if distributed.rank() == 0:
        token.unlink()
    if blind:
        raise OSError(
            f"--workdir={workdir} is not the same folder for {distributed.name(blind[0])} and process 0: name one that all "
            "machines share"
        )


def write_run_record(workdir: str, config: ConfigDict, step: int, digests: Mapping[str, str]) -> None:
    """Add this start to `run.json`, and write the resolved config beside it."""
    path = Path(workdir, "run.json")
    try:
        starts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        starts = []
    starts.append(
        {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "from_step": step,
            "command": sys.argv,
            "commit": commit(),
            "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
            "machine": platform.platform(),
            "devices": [str(device) for device in jax.devices()],
            "processes": jax.process_count(),
            "manifests": dict(digests),
        }
    )
    _write(path, starts)
    _write(Path(workdir, "config.json"), config.to_dict())


def commit() -> str:
    """Return the commit of this checkout, with '-changed' where files differ from it; '' outside of git."""
    here = Path(__file__).parent
    try:
        head, state = (
            subprocess.run(["git", *command], cwd=here, capture_output=True, text=True, check=True).stdout.strip()
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head + ("-changed" if state else "")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _write(path: Path, value) -> None:
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    os.replace(unfinished, path)
