"""The benchmarks run on tiny sizes and print one JSON line each."""

import json
import subprocess
import sys

import pytest

from input_pipeline import manifest
from tests.runs import ROOT

ROUNDING = 0.02  # a step of a few ms is printed to 0.1 ms


def run(*command: str) -> dict:
    result = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stderr
    (line,) = result.stdout.splitlines()
    return json.loads(line)


def test_train_step():
    sizes = {"batch": 2, "frames": 40, "hidden": 4, "layers": 1, "labels": 3, "vocab": 7, "bins": 9, "steps": 2}
    result = run("benchmarks.train_step", "--cell=rnn", *(f"--{name}={size}" for name, size in sizes.items()))
    assert 0 < result["step_min_s"] <= result["step_median_s"]
    assert result["forward_s"] > 0
    # 2 utterances of 40 frames of 10 ms; both numbers are rounded
    assert result["audio_s_per_s"] * result["step_median_s"] == pytest.approx(0.8, rel=ROUNDING)
    assert result["parameters"] > 11 * 41 * 32 + 11 * 21 * 32 * 32  # the convolutions of the peer alone
    assert result["versions"].keys() >= {"jax", "jaxlib", "flax", "optax", "numpy"}
    assert result["devices"]
    assert result["sizes"].items() >= sizes.items()


@pytest.mark.parametrize("workers", [0, 1])
def test_input_pipeline(clips, workers, tmp_path):
    augment = tmp_path / "augment.json"
    params = {"min_speed_rate": 0.9, "max_speed_rate": 1.1}
    augment.write_text(json.dumps([{"type": "speed", "params": params, "prob": 1}]))
    options = [f"--manifest={clips}", "--limit=5", f"--augment={augment}", f"--workers={workers}"]
    result = run("benchmarks.input_pipeline", *options)
    utterances = manifest.read(clips)
    assert result["audio_s"] == pytest.approx(utterances.duration[:5].sum(), abs=5 * utterances.duration_unit_s)
    assert min(result[part] for part in ("decode", "features", "end_to_end", "audio_s_per_s")) > 0
    assert 0 <= result["padding"] < 1
