"""Signals during training: a checkpoint, an exit code that requests a restart, and no loss of progress."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import jax
import pytest

from ds2_jax.cli.train import run_train as train
from ds2_jax.parallel.stopping import Stopped
from ds2_jax.recognition.evaluation import Evaluator
from ds2_jax.training import train as training
from ds2_jax.training.checkpoint import Checkpoints
from tests.runs import ROOT, run_main, slow, small_config, small_flags, start_main


def config_for(clips):
    config = small_config(clips)
    config.data.dev = str(clips)
    config.batch.buckets = 1
    config.train.epochs = 2
    config.optim.schedule = "constant"
    return config


def records(workdir) -> list[dict]:
    """Return the metrics without those that depend on clocks."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    clocks = {"audio_s_per_s", "waiting_for_data", "trained_s"}
    return [{k: v for k, v in json.loads(line).items() if k not in clocks} for line in lines]


def test_a_signal_during_an_evaluation_saves_at_once_and_evaluates_at_the_next_start(clips, tmp_path, monkeypatch):
    """Both evaluations are interrupted, the second after the last step; the metrics are those of an undisturbed run."""
    whole, run, measure = tmp_path / "whole", tmp_path / "run", Evaluator.measure
    train(config_for(clips), str(whole))

    def start(*interrupted: bool) -> None:
        """Train, and send a signal at the start of each evaluation marked true."""
        signals = iter(interrupted)

        def measured(*arguments, **names):
            if next(signals):
                os.kill(os.getpid(), signal.SIGTERM)
            return measure(*arguments, **names)

        monkeypatch.setattr(Evaluator, "measure", measured)
        train(config_for(clips), str(run))

    for step, interrupted in zip(
        [r["step"] for r in records(whole) if "dev_wer" in r], [(True,), (False, True)], strict=True
    ):
        with pytest.raises(Stopped) as stopped:
            start(*interrupted)
        assert stopped.value.step == step
        with Checkpoints(str(run), read_only=True) as checkpoints:
            assert checkpoints.latest() == step
    start(False)
    assert records(run) == records(whole)
    with Checkpoints(str(whole), read_only=True) as expected, Checkpoints(str(run), read_only=True) as actual:
        assert actual.best() == expected.best()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), slow(signal.SIGINT, 0)])
def test_the_exit_code_distinguishes_a_launcher_from_a_person(number, code, clips, tmp_path):
    flags = [*small_flags(clips), "--config.batch.buckets=1", "--config.train.epochs=100000", f"--workdir={tmp_path}"]
    with start_main(*flags, devices=jax.device_count()) as process:
        deadline = time.monotonic() + 200
        while not (tmp_path / "metrics.jsonl").exists() or not records(tmp_path):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(number)
        out, err = process.communicate(timeout=200)
    assert process.returncode == code, err
    stopped = json.loads(out.splitlines()[-1])["stopped_at_step"]
    assert (tmp_path / "checkpoints" / str(stopped) / "_CHECKPOINT_METADATA").is_file()
    assert f"stopped at step {stopped}; run the same command again" in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_program_immediately_with_a_message(number):
    program = (
        "import os, signal\n"
        "from ds2_jax.cli import exit_codes\nfrom ds2_jax.parallel import sharding, stopping\n"
        "with exit_codes.report_errors(''), stopping.Stopping(sharding.make_mesh()):\n"
        f"    for _ in range(2): os.kill(os.getpid(), {int(number)})\n"
        "    signal.pause()\n"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert result.returncode == 128 + number
    message = f"error: received a second signal, {number.name}: ended without a checkpoint"
    assert result.stderr.splitlines()[-1] == message
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_before_the_first_step_is_a_failure(number, code):
    program = (
        "from ds2_jax.cli import exit_codes\nfrom ds2_jax.parallel import stopping\n"
        f"with exit_codes.report_errors(''): raise stopping.Stopped({int(number)})\n"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert (result.returncode, result.stdout) == (code, "")
    assert "nothing new to save" in result.stderr


def test_ctrl_c_with_nothing_to_save_ends_with_one_line(tmp_path):
    """The program reads its manifest from a pipe without data."""
    pipe = tmp_path / "test.jsonl"
    os.mkfifo(pipe)
    model = f"--config.restore={ROOT / 'models' / 'an4'}"
    with start_main("--mode=infer", model, f"--config.data.test={pipe}") as process:
        end = -1
        while end < 0:
            assert process.poll() is None
            time.sleep(0.05)
            with contextlib.suppress(OSError):  # until the program opens it
                end = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        time.sleep(1)  # until it waits for data: a signal between opening and reading would not end the reading
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=100)
        os.close(end)
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1] == "interrupted"
    assert "Traceback" not in err


@pytest.mark.slow
def test_a_checkpoint_interrupted_by_a_kill_is_never_used(clips, tmp_path):
    """A checkpoint at each step; the program is killed several times while one is written, and resumes from the last."""
    flags = [
        *small_flags(clips),
        "--config.batch.buckets=1",
        "--config.train.checkpoint_every_s=0",
        f"--workdir={tmp_path}",
    ]
    interrupted = 0
    for _ in range(3):
        with start_main(*flags, "--config.train.epochs=100000", devices=jax.device_count()) as process:
            deadline = time.monotonic() + 200
            while not (unfinished := list(tmp_path.glob("checkpoints/*orbax-checkpoint-tmp*"))):
                assert process.poll() is None
                assert time.monotonic() < deadline
            process.kill()
            process.communicate()
        interrupted += any(path.exists() for path in unfinished)
        whole = [
            int(p.parent.name)
            for p in tmp_path.glob("checkpoints/[0-9]*/_CHECKPOINT_METADATA")
            if p.parent.name.isdigit()
        ]
        if whole:
            with Checkpoints(str(tmp_path), read_only=True) as checkpoints:
                assert checkpoints.latest() == max(whole)
    assert interrupted, "no kill left an unfinished checkpoint: the test proves nothing"
    result = run_main(
        *flags,
        f"--config.train.max_steps={max(whole, default=0) + 2}",
        "--config.train.epochs=100000",
        devices=jax.device_count(),
    )
    assert result.returncode == 0, result.stderr
    assert not list(tmp_path.glob("checkpoints/*tmp*"))


def test_a_signal_during_compilation_skips_the_remaining_shapes(clips, tmp_path, monkeypatch):
    compiled = []

    def compile_steps(*arguments, on_shape: Callable[[], None]):
        def interrupted():
            compiled.append(1)
            os.kill(os.getpid(), signal.SIGTERM)
            on_shape()

        return compiling(*arguments, on_shape=interrupted)

    compiling: Callable = training.compile_steps
    monkeypatch.setattr(training, "compile_steps", compile_steps)
    config = config_for(clips)
    config.batch.buckets = 4
    with pytest.raises(Stopped) as stopped:
        train(config, str(tmp_path / "run"))
    assert (stopped.value.signal, stopped.value.step, len(compiled)) == (signal.SIGTERM, None, 1)
