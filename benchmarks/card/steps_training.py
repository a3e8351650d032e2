"""A real training for `benchmarks.card.steps`: the start, the speed of the loop, and the time that it waits for data."""

import argparse
import functools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.card.journal import Figures, Journal
from input_pipeline.cores import usable_cores
from input_pipeline.storage import console

ROOT = Path(__file__).resolve().parents[2]
COPIES = 3000  # of each clip in the manifest: more than one epoch would start workers again
ROWS, UNITS = 256, 1024
STEPS = 120
LIMIT_S, ENDING_S = 90, 5  # of a training, and within it for what follows


def write_manifest(folder: Path, copies: int) -> Path:
    """Write a manifest that names the repository's clips many times; return its path."""
    clips = ROOT / "tests" / "clips"
    rows = [json.loads(line) for line in (clips / "manifest.jsonl").read_text().splitlines()]
    rows = [row | {"audio_filepath": str(clips / row["audio_filepath"])} for row in rows]
    manifest = folder / "train.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows * copies))
    return manifest


def command(manifest: Path, workdir: Path, rows: int, units: int, *options: str) -> list[str]:
    """Return the command of a training with augmentation, without evaluation."""
    settings = {
        "data.train": manifest,
        "data.dev": "",
        "data.test": "",
        "batch.size": rows,
        "batch.buckets": 2,
        "batch.sortagrad": False,
        "features.stats_samples": 200,
        "model.rnn_size": units,
        "model.compute_dtype": "bfloat16",
        "optim.ema": 0.0,
    }
    flags = [f"--config.{name}={value}" for name, value in settings.items()]
    return [sys.executable, "main.py", "--config=configs/an4.py", f"--workdir={workdir}", *flags, *options]


def train(log: Path, command: list[str], workdir: Path, steps: int) -> Figures:
    """Train for some steps. Returns seconds of the process, and the speed after the first lines of its metrics.

    Its output is appended to the log. Raises subprocess.SubprocessError if the training fails or takes too long.
    """
    begin = time.perf_counter()
    with log.open("a") as file:
        file.write(f"$ {' '.join(command)}\n")
        file.flush()
        subprocess.run(
            [*command, f"--config.train.max_steps={steps}"],
            cwd=ROOT,
            stdout=file,
            stderr=subprocess.STDOUT,
            timeout=LIMIT_S - ENDING_S,
            check=True,
        )
    seconds = time.perf_counter() - begin
    figures: Figures = {"process_s": round(seconds, 1), "steps": steps}
    lines = read_metrics(workdir / "metrics.jsonl")
    steady = lines[len(lines) // 3 :]
    if steady:
        figures |= {
            name: round(sum(line[name] for line in steady) / len(steady), 4)
            for name in ("audio_s_per_s", "waiting_for_data", "padding")
        }
        figures["loss"] = round(lines[-1]["loss"], 3)
    return figures


def read_metrics(path: Path) -> list[Figures]:
    """Return the lines of training steps."""
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [line for line in lines if "audio_s_per_s" in line]


@console.command
def main() -> None:
    """Measure, and write the journal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--journal", type=Path, required=True, help="file for the lines; logs go beside it")
    parser.add_argument("--until", type=float, required=True, help="time at which the process has to end, Unix seconds")
    parser.add_argument("--shrink", type=int, default=1, help="divide all sizes by this, for a trial")
    a = parser.parse_args()
    journal, folder = Journal(a.journal, a.until), Path(tempfile.mkdtemp())
    sys.stdin.readline()
    manifest = write_manifest(folder, max(1, COPIES // a.shrink))
    rows, units, steps = (max(1, size // a.shrink) for size in (ROWS, UNITS, STEPS))
    workers = max(1, usable_cores() - 2)
    variants = {  # the first compiles; the others find its programs in the cache
        "start": (1, f"--config.data.threads={workers}"),
        "start again": (1, f"--config.data.threads={workers}"),
        f"{workers} threads": (steps, f"--config.data.threads={workers}"),
        f"{workers} workers": (steps, f"--config.data.workers={workers}"),
    }
    for name, (count, option) in variants.items():
        workdir, log = folder / name, a.journal.with_suffix(".log")
        arguments = command(manifest, workdir, rows, units, option)
        journal.run(f"training {name}", LIMIT_S, functools.partial(train, log, arguments, workdir, count))


if __name__ == "__main__":
    main()
