"""The benchmarks run on tiny sizes and print one JSON line each."""

import json
import subprocess
import sys

from tests.runs import ROOT


def run(*command: str) -> dict:
    result = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_train_step():
    sizes = [
        "--batch=2",
        "--frames=40",
        "--hidden=4",
        "--layers=1",
        "--labels=3",
        "--steps=2",
        "--bins=9",
        "--cell=rnn",
    ]
    result = run("benchmarks.train_step", *sizes)
    assert 0 < result["step_min_s"] <= result["step_median_s"]
    assert result["forward_s"] > 0
    assert result["audio_s_per_s"] > 0


def test_input_pipeline(clips):
    result = run("benchmarks.input_pipeline", f"--manifest={clips}")
    assert min(result["decode"], result["features"], result["end_to_end"]) > 0
    assert 0 <= result["padding"] < 1
