"""Record each start of a run in its workdir: command, versions, machine and data in `run.json`, settings in `config.json`."""

import json
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax

from ds2_jax.parallel.processes import flatten_settings
from input_pipeline.storage import whole_file

PACKAGES = ("ds2-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "soundfile", "soxr")


def write_run_record(workdir: str, settings: Mapping[str, Any], step: int, digests: Mapping[str, str]) -> None:
    """Append this start to `run.json` and write the settings to `config.json`."""
    path = Path(workdir, "run.json")
    try:
        starts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        starts = []
    starts.append(
        {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "from_step": step,
            "command": sys.argv,
            "commit": commit(),
            "versions": {
                "python": platform.python_version(),
                **{name: number for name in PACKAGES if (number := _version(name))},
            },
            "machine": platform.platform(),
            "devices": [str(device) for device in jax.devices()],
            "processes": jax.process_count(),
            "manifests": dict(digests),
        }
    )
    _write(path, starts)
    _write(Path(workdir, "config.json"), dict(settings))


def changed_settings(workdir: str, settings: Mapping[str, Any]) -> list[str]:
    """Describe how settings differ from those of the last start, in `config.json`; nothing if it cannot be read."""
    try:
        before = flatten_settings(json.loads(Path(workdir, "config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, AttributeError):
        return []
    now = flatten_settings(json.loads(json.dumps(dict(settings))))
    return [
        f"config.{name} is {value!r}, was {before[name]!r}"
        for name, value in now.items()
        if name in before and before[name] != value
    ]


def commit() -> str:
    """Return the commit of this checkout, with '-changed' if files differ from it; '' outside a checkout."""
    here = Path(__file__).parent
    try:
        # The first command fails if this package is installed inside the repository of another project.
        _, head, state = (
            subprocess.run(["git", *command], cwd=here, capture_output=True, text=True, check=True).stdout.strip()
            for command in (
                ["ls-files", "--error-unmatch", Path(__file__).name],
                ["rev-parse", "HEAD"],
                ["status", "--porcelain", "--untracked-files=no"],
            )
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
    with whole_file.open_text(path) as file:
        file.write(json.dumps(value, indent=1) + "\n")
