"""The measurements on a GPU, as far as a machine without one can run them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from benchmarks.card import layers_ours, steps_ours, table, trace
from benchmarks.card.children import Child
from benchmarks.card.journal import FAILED, RESTART, Journal, read
from benchmarks.card.sizes import Layer, Loss, Network, Sizes
from benchmarks.hlo import Program
from ds2_jax.network import conv, ctc, recurrence
from tests.runs import ROOT

SOON_S = 100
PADDING = 0.1  # of the products, by padding, as a share


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "figures.jsonl"


def program_of(lowered: jax.stages.Lowered) -> Program:
    return Program(lowered.compile().as_text() or "")


def steps_of(file: Path) -> list[str]:
    return [line["step"] for line in read(file)]


def test_a_failure_is_written_and_does_not_stop_the_next_step(file):
    journal = Journal(file, time.time() + SOON_S)
    assert not journal.run("first", SOON_S, lambda: {"speed": int("x")})
    assert journal.run("second", SOON_S, lambda: {"speed": 3})
    first, second = read(file)
    assert (first["step"], first[FAILED]) == ("first", "ValueError: invalid literal for int() with base 10: 'x'")
    assert (second["step"], second["speed"]) == ("second", 3)


def test_steps_that_ended_are_not_repeated(file):
    Journal(file, time.time() + SOON_S).run("first", SOON_S, lambda: {"speed": 3})
    assert Journal(file, time.time() + SOON_S).run("first", SOON_S, lambda: {"speed": 4})
    assert [line["speed"] for line in read(file)] == [3]


def test_nothing_is_measured_after_the_end(file):
    assert not Journal(file, time.time() - 1).run("late", SOON_S, lambda: {"speed": 3})
    assert read(file) == []


def test_a_cut_line_is_left_out(file):
    file.write_text('{"step": "first"}\n{"step": "sec')
    assert steps_of(file) == ["first"]


CHILD = """
import os, pathlib, subprocess, sys, time
from benchmarks.card.journal import Journal
path, until = pathlib.Path(sys.argv[1]), float(sys.argv[-1].removeprefix("--until="))
sys.stdin.readline()
journal = Journal(path, until)
journal.run("before", 9, lambda: {"speed": 1})
with journal.marked("meanwhile"):
    journal.run("bad", LIMIT, lambda: BAD)
journal.run("meanwhile", 9, lambda: {"speed": 3})
journal.run("after", 9, lambda: {"speed": 2})
"""


@pytest.fixture
def child(tmp_path, file, monkeypatch):
    """Return a function that starts a module whose second step is the given expression."""

    def start(bad: str, limit_s: float) -> Child:
        (tmp_path / "measuring.py").write_text(CHILD.replace("BAD", bad).replace("LIMIT", str(limit_s)))
        monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
        return Child("measuring", [str(file)], time.time() + SOON_S)

    return start


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("os.kill(os.getpid(), 9)", "it ended the process"),
        ("time.sleep(60)", "it took longer than 0.3 s"),
        (f"os._exit({RESTART})", "it ended the process"),
    ],
)
def test_a_process_that_crashes_or_hangs_is_started_again_without_the_step_that_ended_it(child, file, bad, reason):
    assert child(bad, 0.3).run() == 0
    lines = {line["step"]: line for line in read(file)}
    assert lines["bad"][FAILED] == reason
    assert (lines["before"]["speed"], lines["after"]["speed"]) == (1, 2)
    assert len(read(file)) == 4
    crashed = reason == "it ended the process"  # without a word about what else was in progress
    assert lines["meanwhile"].get(FAILED) == (reason if crashed else None)


@pytest.mark.slow
def test_a_process_and_those_that_it_started_are_killed_when_its_time_is_up(child, file, tmp_path):
    pid = tmp_path / "pid"
    grandchild = f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    bad = f"[subprocess.Popen([sys.executable, '-c', {grandchild!r}]), time.sleep(60)]"
    assert child(bad, SOON_S).run(limit_s=5) == -signal.SIGKILL
    assert steps_of(file) == ["before"]
    assert not is_running(int(pid.read_text()))


def is_running(pid: int, patience_s: float = 5) -> bool:
    """Return whether a process runs; the system needs a moment to remove one."""
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        time.sleep(patience_s / 100)
    return True


def test_each_program_has_a_name_of_its_own(tmp_path):
    for waves in (layers_ours.waves(Sizes(), str(tmp_path)), steps_ours.waves(Sizes(), tmp_path)):
        names = [program.name for wave in waves for program in wave]
        assert len(set(names)) == len(names) > 20


def test_variants_are_other_programs_for_a_gpu_than_the_present_one(monkeypatch):
    """The form for CPUs does not depend on the constants."""
    jit = jax.jit

    def for_gpus(f):
        return SimpleNamespace(lower=lambda *arguments: jit(f).trace(*arguments).lower(lowering_platforms=("cuda",)))

    monkeypatch.setattr(jax, "jit", for_gpus)

    def frames_of_a_turn(text: str) -> int:
        return text.count("call @")  # a frame is a function of the module

    def of_layer(unroll: int) -> int:
        return frames_of_a_turn(layers_ours.trace_layer(Layer("gru", 3, 2, 16), "float32", unroll, "").as_text())

    def of_loss(turn: int) -> int:
        return frames_of_a_turn(layers_ours.trace_loss("ours", turn, "", Loss(2, 16, 3)).as_text())

    assert of_layer(1) < of_layer(4) < of_layer(0) == of_layer(recurrence.UNROLL)
    assert of_loss(1) < of_loss(0) == of_loss(ctc.TURN) < of_loss(8)


def test_a_version_in_a_folder_is_measured_beside_the_present_one(tmp_path):
    source = (ROOT / "ds2_jax" / "network" / "ctc.py").read_text()
    (tmp_path / "ctc.py").write_text(source + "\nVERSION = 'before'\n")
    assert layers_ours.module("ctc", str(tmp_path)).VERSION == "before"
    assert not hasattr(layers_ours.module("ctc", ""), "VERSION")


def test_operations_are_those_of_the_compiled_programs():
    layer = Layer("lstm", 8, 2, 9)
    assert program_of(layers_ours.trace_layer(layer, "float32", 0, "")).flop() == pytest.approx(layer.flop, rel=0.01)


def inside(size: int, taps: int, stride: int) -> int:
    """Count the pairs of an output and a tap of a convolution whose input is no padding."""
    inputs = (output * stride + tap - taps // 2 for output in range(-(-size // stride)) for tap in range(taps))
    return sum(0 <= at < size for at in inputs)


@pytest.mark.slow
def test_operations_of_a_network_are_those_of_the_compiled_step(monkeypatch):
    monkeypatch.setattr(conv, "_spectral_forward", conv._plain)  # a card computes convolutions directly
    monkeypatch.setattr(conv, "_spectral_backward", conv._plain_backward)
    network = Network("gru", 64, 2, batch=2, frames=600, labels=3)
    flop = program_of(steps_ours.trace_step("train", network, "float32")).flop()
    # the network's formula counts the products by padding, the program's operations do not
    first = 200 * 81 * 11 * 41 - inside(600, 11, 3) * inside(161, 41, 2)
    second = (200 * 41 * 11 * 21 - inside(200, 11, 1) * inside(81, 21, 2)) * 32
    padding = 2 * network.batch * 32 * (2 * first + 3 * second)
    assert flop == pytest.approx(network.train_flop - padding, rel=0.005)
    assert padding < PADDING * network.train_flop


def test_covered_time_counts_overlapping_kernels_once():
    assert trace.covered([(5, 7), (0, 3), (1, 2), (2, 4)]) == 6


def test_a_trace_without_a_gpu_is_reported_as_such(tmp_path):
    with jax.profiler.trace(str(tmp_path)):
        jnp.ones(3).block_until_ready()
    assert "no kernel of a GPU" in trace.summary(tmp_path, 1)


def test_the_table_compares_the_best_variant_with_the_peer(tmp_path):
    def write(name: str, *lines: tuple[str, dict]) -> None:
        (tmp_path / name).write_text("".join(json.dumps({"step": step, **figures}) + "\n" for step, figures in lines))

    def figures(ms: float) -> dict:
        return {"median_ms": ms, "us_a_frame": ms * 10, "peak_mb": 100, "tflops": 80}

    write(
        "layers_torch.jsonl",
        ("product bfloat16", {"tflops": 800.0}),
        ("layer gru 1024 B64 torch bfloat16", figures(6)),
        ("layer gru 1024 B64 torch autocast", figures(5)),
    )
    write(
        "layers_ours.jsonl",
        ("layer gru 1024 B64 ours bfloat16 present plain", figures(4)),
        ("layer gru 1024 B64 ours bfloat16 unroll=8 whole", figures(2)),
        ("layer gru 1024 B64 before bfloat16 present plain", figures(8)),
        ("layer gru 1024 B64 ours bfloat16 unroll=16 whole", {FAILED: "out of memory"}),
    )
    tables = table.format_tables(tmp_path)
    row = "| gru 1024 B64 | bfloat16 | 50 | 80 | 40 | 20 (unroll=8 whole) | 2.50 | 100 / 100 | 10.0% |"
    assert row in tables.splitlines()
    assert "unroll=16 whole: out of memory" in tables


@pytest.mark.slow
@pytest.mark.parametrize("part", ["layers", "steps"])
def test_without_pytorch_and_without_a_gpu_ours_is_measured(part, tmp_path):
    options = [f"--output={tmp_path}", "--budget=300", "--shrink=64", "--device=cpu", f"--torch={sys.executable}"]
    options += ["--no_training"] if part == "steps" else []
    command = [sys.executable, "-m", f"benchmarks.card.{part}", *options]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=340)
    assert result.returncode == 0, result.stderr
    lines = read(tmp_path / f"{part}_ours.jsonl")
    measured = [line["step"] for line in lines if "median_ms" in line]
    assert len(measured) >= 3, result.stdout
    assert not [line for line in lines if FAILED in line]
    assert (tmp_path / "tables.md").stat().st_size > 100
