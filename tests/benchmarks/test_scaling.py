"""The scaling benchmark on simulated devices, and expected speed-ups against manual calculations."""

import json
import subprocess
import sys

import pytest

from benchmarks.communication import MACHINES, Machine, exchange_s, speed_up, table
from benchmarks.scaling import add_speed_up
from tests.runs import ROOT

PLAIN = Machine("plain", peak=1e12, share=0.5, inside=1e9, between=1e8, start_s=0.01, size=4)
RESULT: dict = {"flop": 1e12, "collectives": {"all-reduce": {"runs": 3, "bytes": 2e9, "overlapped_bytes": 1e9}}}


def test_the_time_of_an_exchange_within_and_between_machines():
    assert exchange_s(1e9, 3, 2, PLAIN) == pytest.approx(2 * 1 / 2 * 1 + 0.03)
    assert exchange_s(1e9, 3, 8, PLAIN) == pytest.approx(2 * 3 / 4 * 1 + 2 * 1 / 2 * 0.25e9 / 1e8 + 0.03)


def test_only_communication_that_is_not_overlapped_reduces_the_speed_up():
    assert speed_up(RESULT, 2, PLAIN) == pytest.approx(2 * 2.0 / (2.0 + 1.03))  # the computation of a step takes 2 s
    silent: dict = {"flop": 1e12, "collectives": {}}
    assert speed_up(silent, 16, PLAIN) == 16


def test_the_table_has_a_row_for_each_machine_and_the_original():
    lines = table(RESULT | {"estimated_s": 0.1}).splitlines()
    assert len(lines) == 2 + len(MACHINES) + 1
    assert lines[-1].endswith("1.97 | 3.74 | 6.21 | 10.70 |")


def test_a_program_for_one_chip_is_refused(tmp_path):
    alone = {"config": "mine.py:1", "step": "train", "shape": [4, 30, 2], "rows_of_a_chip": 4.0, "estimated_s": 0.1}
    (tmp_path / "figures.json").write_text(json.dumps([alone | {"flop": 1e12, "collectives": {}}]))
    command = ["-m", "benchmarks.communication", f"{tmp_path}/figures.json", "--config=mine.py:1", "--frames=30"]
    result = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (2, "")
    assert "mine.py:1 is compiled for one chip, which exchanges nothing" in result.stderr.splitlines()[-1]


def test_speed_up_is_relative_to_the_fewest_devices_on_which_the_batch_fits():
    weak: list[dict] = [{"rows": 4, "step_s": 1.0}, {"rows": 8, "step_s": 1.25}]
    strong: list[dict] = [{"rows": 8, "step_s": None}, {"rows": 8, "step_s": 3.0}]
    results = [{"devices": n, "weak": w, "strong": s} for n, w, s in zip((1, 2), weak, strong, strict=True)]
    add_speed_up(results)
    assert weak[1]["speed_up"] == pytest.approx(1.6)
    assert weak[1]["efficiency"] == pytest.approx(0.8)
    assert strong[1]["speed_up"] == 2
    assert "speed_up" not in strong[0]


@pytest.mark.slow  # two compilations of the whole step
def test_scaling_on_a_cpu_says_that_devices_are_simulated_and_plots_the_speed_up(tmp_path):
    sizes = ["--batch=1", "--frames=30", "--labels=2", "--hidden=4", "--steps=2"]
    command = ["-m", "benchmarks.scaling", "--devices=1,2", "--config=configs/tiny.py", f"--picture={tmp_path}/s.png"]
    result = subprocess.run([sys.executable, *command, *sizes], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "Simulated devices that share" in result.stdout
    measured = json.loads(result.stdout.splitlines()[-1])["results"]
    assert [r["devices"] for r in measured] == [1, 2]
    assert [r["weak"]["rows"] for r in measured] == [1, 2]
    assert [r["strong"]["rows"] for r in measured] == [2, 2]
    assert all(r["fake"] and r["weak"]["step_s"] > 0 for r in measured)
    assert (tmp_path / "s.png").stat().st_size > 1000
