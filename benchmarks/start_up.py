"""Time the start of a training run, from the command to the end of its first step, without and with cached programs.

    python -m benchmarks.start_up --config=configs/an4.py --manifest=data/an4/train.jsonl

Runs `main.py` for one step in its own process, without evaluation: first with an empty compilation cache (`first_s`), then
with the cache of that run (`again_s`). Prints one JSON line, in seconds of wall time.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import measure
from input_pipeline.storage import console

ROOT = Path(__file__).resolve().parents[1]


def start(config: str, manifest: str, folder: str, cache: str) -> float:
    """Run one step in a new workdir and return its seconds. Raises SystemExit with the program's output if it fails.

    cache: folder for compiled programs, instead of the user's, which contains those of earlier runs.
    """
    command = [
        sys.executable,
        "main.py",
        f"--config={config}",
        f"--workdir={folder}",
        f"--config.data.train={manifest}",
    ]
    options = ["--config.data.dev=", "--config.data.test=", "--config.train.max_steps=1"]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache}
    begin = time.perf_counter()
    result = subprocess.run([*command, *options], cwd=ROOT, env=environment, capture_output=True, text=True)
    seconds = time.perf_counter() - begin
    if result.returncode:
        raise SystemExit(result.stderr)
    return seconds


@console.command
def main() -> None:
    """Run the benchmark and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/tiny.py")
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--runs", type=int, default=2, help="runs after the first")
    a = parser.parse_args()
    manifest = str(Path(a.manifest).absolute())
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        for run in range(a.runs + 1):
            seconds.append(start(a.config, manifest, f"{folder}/{run}", f"{folder}/cache"))
    result = {
        "benchmark": "start_up",
        "versions": measure.versions(),
        "first_s": round(seconds[0], 1),
        "again_s": round(min(seconds[1:]), 1),
    }
    print(json.dumps(result | {"options": vars(a)}))


if __name__ == "__main__":
    main()
