"""What the training loop reports: averages, speed and padding of its steps, and those with non-finite values."""

import json
import re
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from ds2_jax.cli.train import run_train as train
from ds2_jax.training import meter as module
from ds2_jax.training.meter import Meter
from ds2_jax.training.metrics_log import MetricsLog
from ds2_jax.training.progress import Progress
from ds2_jax.training.settings import TrainSettings
from tests.input_pipeline.batches.test_plan import corpus_of
from tests.runs import small_config

T = 40


@pytest.fixture
def metered(tmp_path):
    """Return a function that adds one step with two rows of T frames to a meter, and one that ends it and reads its lines."""
    progress = Progress(epoch=3, bad_utterances=[7])
    log = MetricsLog(str(tmp_path), 0)
    meter = Meter(
        TrainSettings(log_every=2), corpus_of(tmp_path, [[1.0, 2.0]]), log, lambda step: 0.5 + step, progress, 10
    )

    def add(*, frames: int, **metrics: float) -> None:
        progress.step += 1
        batch = {"spectrogram": np.zeros((2, T, 3)), "valid": np.array([True, True]), "utterance": np.array([0, 1])}
        values = {"loss": 6.0, "count": 2, "infeasible": 0, "grad_norm": 1.0, "skipped": False} | metrics
        meter.add(
            batch, np.array(["", ""]), {k: jnp.asarray(v) for k, v in values.items()} | {"frames": jnp.asarray(frames)}
        )

    def finish() -> list[dict]:
        meter.flush()
        log.__exit__()
        return [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]

    with meter:
        yield add, finish


def test_a_line_has_the_averages_of_its_steps(metered):
    add, finish = metered
    add(frames=2 * T, loss=6.0, count=2, grad_norm=1.0, infeasible=1)
    add(frames=T, loss=3.0, count=1, grad_norm=3.0)
    add(frames=2 * T)
    add(frames=2 * T)
    first, second = finish()
    assert (first["step"], first["epoch"], second["step"]) == (2, 3, 4)
    assert first["loss"] == pytest.approx(9 / 3)
    assert first["grad_norm"] == pytest.approx(2.0)
    assert (first["infeasible"], first["skipped_utterances"], second["infeasible"]) == (1, 1, 0)
    assert first["padding"] == pytest.approx(0.25)
    assert second["padding"] == 0
    assert (first["learning_rate"], second["learning_rate"]) == (1.5, 3.5)  # of the last step of each line
    assert first["audio_s_per_s"] > 0
    assert 0 <= first["waiting_for_data"] <= 1


def test_speed_and_waiting_are_shares_of_the_time_without_pauses(tmp_path, monkeypatch):
    now = 100.0
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now))
    progress = Progress(trained_s=1000.0)
    log = MetricsLog(str(tmp_path), 0)
    batch = {"spectrogram": np.zeros((2, T, 3)), "valid": np.array([True, True]), "utterance": np.array([0, 1])}
    values = {"loss": 6.0, "count": 2, "infeasible": 0, "grad_norm": 1.0, "skipped": False, "frames": 2 * T}

    def batches():
        nonlocal now
        for _ in range(4):
            now += 0.5  # waiting for data
            yield batch

    with Meter(
        TrainSettings(log_every=4), corpus_of(tmp_path, [[1.0, 2.0]]), log, lambda step: 0.1, progress, 4
    ) as meter:
        for loaded in meter.timed(batches()):
            now += 1.5
            progress.step += 1
            meter.add(loaded, np.array(["", ""]), {k: jnp.asarray(v) for k, v in values.items()})
            if progress.step == 2:
                with meter.paused():
                    now += 30.0
        meter.flush()
    log.__exit__()
    (line,) = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert line["audio_s_per_s"] == pytest.approx(4 * 2 * T * 0.01 / 8)
    assert line["waiting_for_data"] == pytest.approx(0.25)
    assert line["trained_s"] == pytest.approx(1000 + 38)
    assert meter.interval == {}


def test_waiting_is_a_share_of_at_most_1_in_lines_of_one_step(tmp_path, monkeypatch):
    """The first batch takes long, and the steps are read later than they are started."""
    now = 100.0
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now))
    progress, log = Progress(), MetricsLog(str(tmp_path), 0)
    batch = {"spectrogram": np.zeros((2, T, 3)), "valid": np.array([True, True]), "utterance": np.array([0, 1])}
    values = {"loss": 6.0, "count": 2, "infeasible": 0, "grad_norm": 1.0, "skipped": False, "frames": 2 * T}

    def batches():
        nonlocal now
        for seconds in (9.0, 0.1, 0.1, 0.1):
            now += seconds
            yield batch

    settings, corpus = TrainSettings(log_every=1), corpus_of(tmp_path, [[1.0, 2.0]])
    with Meter(settings, corpus, log, lambda step: 0.1, progress, 4) as meter:
        for loaded in meter.timed(batches()):
            now += 0.1
            progress.step += 1
            meter.add(loaded, np.array(["", ""]), {k: jnp.asarray(v) for k, v in values.items()})
        meter.flush()
    log.__exit__()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 4
    assert all(0 < line["waiting_for_data"] <= 1 for line in lines)


def test_a_skipped_step_counts_only_as_padding_and_frames(metered):
    add, finish = metered
    add(frames=T, loss=np.nan, skipped=True)
    add(frames=T, loss=4.0, count=2)
    (line,) = finish()
    assert (line["loss"], line["grad_norm"], line["padding"]) == (2.0, 1.0, 0.5)


def test_non_finite_steps_are_skipped_and_reported_until_there_are_too_many(clips, tmp_path, caplog):
    config = small_config(clips)
    config.optim.learning_rate = 1e38
    config.train.nonfinite = "skip"
    config.train.max_nonfinite = 2
    with pytest.raises(FloatingPointError, match=r"Non-finite steps so far: 3\. Lower config\.optim\.learning_rate"):
        train(config, str(tmp_path / "run"))
    skipped = [record.getMessage() for record in caplog.records if "the step was skipped" in record.getMessage()]
    assert len(skipped) == 2
    first = re.fullmatch(r"step (\d+): loss .*, utterances (.*): the loss or gradient is not finite; .*", skipped[0])
    assert first
    assert first[2].count(f"{clips}:") == 4  # all of the batch
