"""The curves of a run: content of the picture, drawing time, and trainings that continue if drawing fails."""

import json
import math
import sys
import time

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure

from ds2_jax.cli.train import run_train as train
from ds2_jax.training import metrics_log
from ds2_jax.training.curves import FILE, draw_curves
from ds2_jax.training.metrics_log import MetricsLog, read_metrics
from tests.runs import small_config

MOST_TIMES = 2  # as long as reading the lines and drawing a short run; 0.6 to 0.9 were measured


def write_run(path, steps: int, evaluations: int, epochs: int = 5) -> None:
    """Write the metrics of a run; its error rate is lowest at the second to last evaluation."""
    with open(path, "w") as file:
        for step in range(1, steps + 1):
            line = {
                "step": step,
                "epoch": (step - 1) * epochs // steps,
                "loss": 100 * math.exp(-6 * step / steps),
                "learning_rate": 1e-3 * (1 - step / steps),
                "audio_s_per_s": 90.0 + step % 7,
                "trained_s": 1.3 * step,
            }
            file.write(json.dumps(line) + "\n")
            if step % (steps // evaluations) == 0:
                rate = abs(step / steps - (evaluations - 1) / evaluations) + 0.05
                file.write(json.dumps({"step": step, "dev_wer": rate, "dev_cer": rate / 2, "dev_loss": 9.0}) + "\n")


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """Collect the figures that are drawn."""
    figures: list[Figure] = []
    save = Figure.savefig

    def collect(figure: Figure, *args, **options) -> None:
        figures.append(figure)
        save(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", collect)
    return figures


def test_the_picture_shows_four_panels_with_the_best_point_marked(tmp_path, drawn):
    write_run(tmp_path / "metrics.jsonl", steps=60, evaluations=5)
    draw_curves(read_metrics(tmp_path / "metrics.jsonl"), tmp_path / FILE)
    loss, rates, rate, speed = drawn[0].axes[:4]
    assert [line.get_label() for line in loss.lines] == ["train", "dev"]
    assert [panel.get_yscale() for panel in (loss, rates, rate, speed)] == ["log", "log", "linear", "linear"]
    assert (rate.get_ylim()[0], speed.get_ylim()[0]) == (0, 0)
    assert [len(panel.lines) for panel in (loss, rates, rate, speed)] == [2, 4, 1, 1]
    assert [text.get_text() for text in rates.get_legend().get_texts()] == [
        "WER: best 5.00 % at step 48",
        "CER: best 2.50 % at step 48",
    ]
    assert (rate.get_title(), speed.get_title()) == ("Learning rate", "Speed, seconds of audio per second")
    epochs = loss.child_axes[0]
    assert [tick.get_text() for tick in epochs.get_xticklabels()] == ["1", "2", "3", "4"]
    assert list(epochs.get_xticks()) == [13, 25, 37, 49]
    pixels = matplotlib.image.imread(tmp_path / FILE)
    assert pixels.shape[:2] == (715, 1100)
    assert len(np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0)) > 20
    assert sorted(path.name for path in tmp_path.iterdir()) == [FILE, "metrics.jsonl"]


def test_long_curves_are_drawn_faintly_with_their_average(tmp_path, drawn):
    write_run(tmp_path / "metrics.jsonl", steps=400, evaluations=5)
    draw_curves(read_metrics(tmp_path / "metrics.jsonl"), tmp_path / FILE)
    faint, average = drawn[0].axes[3].lines  # of the speed, 90 to 96
    assert faint.get_alpha() == 0.3
    assert len(average.get_ydata()) == len(faint.get_ydata()) == 400
    assert np.asarray(average.get_ydata()).std() < 0.3 * np.asarray(faint.get_ydata()).std()
    np.testing.assert_allclose(average.get_ydata(), 93, atol=1)


@pytest.mark.parametrize(
    "records",
    [
        [{"step": 1, "loss": 2.0, "epoch": 0, "learning_rate": 1e-4, "audio_s_per_s": 3.0}],
        [{"step": 1, "loss": math.nan, "epoch": 0}, {"step": 2, "loss": math.inf, "epoch": 0}],
        [{"step": 1, "dev_wer": 1.0, "dev_cer": 1.0, "dev_loss": math.inf}],
        [{"step": 5, "dev_wer": 0.0, "dev_cer": 0.0, "dev_loss": -0.5}, {"step": 6, "loss": -1.0, "epoch": 1}],
    ],
    ids=["one step", "not finite", "evaluation only", "zero and negative"],
)
@pytest.mark.filterwarnings("error")
def test_runs_with_little_to_show_are_drawn(records, tmp_path):
    draw_curves(records, tmp_path / FILE)
    assert (tmp_path / FILE).stat().st_size > 10_000


def test_a_run_without_lines_has_no_picture(tmp_path):
    draw_curves([], tmp_path / FILE)
    assert list(tmp_path.iterdir()) == []


def processor_s(work) -> float:
    start = time.thread_time()  # threads of other tests may still run
    work()
    return time.thread_time() - start


def test_a_long_run_is_drawn_as_fast_as_a_short_one_and_all_its_evaluations_are_kept(tmp_path):
    write_run(tmp_path / "metrics.jsonl", steps=100_000, evaluations=400)
    write_run(tmp_path / "short.jsonl", steps=2000, evaluations=400)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    draw_curves(read_metrics(tmp_path / "short.jsonl", most=2000), tmp_path / FILE)  # fonts are loaded once
    short_s = processor_s(lambda: draw_curves(read_metrics(tmp_path / "short.jsonl", most=2000), tmp_path / FILE))
    parsing_s = processor_s(lambda: [json.loads(line) for line in lines])
    records: list[dict] = []

    def draw() -> None:
        records.extend(read_metrics(tmp_path / "metrics.jsonl", most=2000))
        draw_curves(records, tmp_path / FILE)

    assert processor_s(draw) < MOST_TIMES * (short_s + parsing_s)
    assert sum("dev_wer" in record for record in records) == 400
    losses = [record["step"] for record in records if "loss" in record]
    assert 1000 < len(losses) <= 2000
    assert max(np.diff(losses)) <= 2 * 100_000 / len(losses)


def test_the_picture_is_redrawn_after_an_evaluation_but_not_too_often(tmp_path, monkeypatch):
    with MetricsLog(str(tmp_path), 0) as log:
        log.write(1, loss=1.0, epoch=0)
        log.write(1, dev_wer=0.5, dev_cer=0.2, dev_loss=1.0)
        assert not (tmp_path / FILE).exists()  # the run is younger than metrics_log.DRAW_EVERY_S
        monkeypatch.setattr(metrics_log, "DRAW_EVERY_S", 0.0)
        log.write(2, loss=0.5, epoch=0)
        assert not (tmp_path / FILE).exists()
        log.write(2, dev_wer=0.4, dev_cer=0.1, dev_loss=0.9)
        first = (tmp_path / FILE).read_bytes()
        log.write(3, loss=0.4, epoch=0)
    assert (tmp_path / FILE).read_bytes() != first


@pytest.mark.slow
def test_a_training_draws_its_curves_and_continues_if_that_fails(clips, tmp_path, monkeypatch, caplog, drawn):
    monkeypatch.setattr(metrics_log, "DRAW_EVERY_S", 0.0)
    config = small_config(clips)
    config.data.dev = str(clips)
    config.train.epochs = 2
    train(config, str(tmp_path / "run"))
    assert (tmp_path / "run" / FILE).stat().st_size > 10_000
    assert len(drawn) == 2  # one for each evaluation; nothing is logged after the last one
    assert "could not be drawn" not in caplog.text

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)  # not installed
    (tmp_path / "run" / FILE).unlink()
    config.train.epochs = 4
    train(config, str(tmp_path / "run"))
    assert not (tmp_path / "run" / FILE).exists()
    assert caplog.text.count("curves.png could not be drawn") == 1
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert steps.count(max(steps)) == 2  # one line of training, one of dev


def test_a_picture_that_cannot_be_written_causes_one_warning(tmp_path, caplog):
    (tmp_path / FILE).mkdir()
    with MetricsLog(str(tmp_path), 0) as log:
        for step in (1, 2):
            log.write(step, loss=1.0, epoch=0)
            log.draw_curves()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert str(tmp_path / FILE) in caplog.text
    assert sorted(path.name for path in tmp_path.iterdir()) == [FILE, "metrics.jsonl", "tensorboard"]
