"""The search for alpha and beta: grid, stored points, messages and the command line."""

import csv
import json
import math
import os
import re
import shlex
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure

from decoding.scoring import tune
from decoding.scoring.tune import Grid, Point, PointFile, Task, TuningError, best_point, search
from decoding.settings import BeamSettings
from ds2_jax.cli import settings
from ds2_jax.cli import tune as main_tune
from ds2_jax.configs import base
from input_pipeline.text import ScoringRules, Vocabulary
from tests.arpa import write_arpa
from tests.decoding.engines import LIBRARIES, needs_pyctcdecode
from tests.runs import ROOT, run_main, slow, start_main

LETTERS = Vocabulary((" ", "a", "b", "c"))
SMALL = Grid.regular((0.0, 1.0, 0.5), (0.0, 1.0, 1.0))
PNG = b"\x89PNG"


@dataclass(frozen=True)
class Fragile(Task):
    """A task whose process is killed at one point, as by the kernel when memory runs out."""

    def measure(self, engine, alpha, beta):
        """Exit at alpha 1."""
        if alpha == 1.0:
            os._exit(9)
        return super().measure(engine, alpha, beta)


@pytest.fixture
def make_task(tmp_path):
    """Return a function that builds a task: two utterances that are right if the language model's weight exceeds 0.1."""
    lm = write_arpa(tmp_path / "lm.arpa", ["ab cab", "cab ab ab", "ab ab cab"])
    rows = np.full((7, LETTERS.size), 0.02)
    for frame, symbol in enumerate((2, 0, 2, 1, 4, 2, 3)):  # aa cab; the second a is almost b
        rows[frame, symbol] = 0.92
    rows[2, [2, 3]] = 0.50, 0.44
    log_probs = np.log(rows / rows.sum(1, keepdims=True)).astype(np.float32)

    def make(kind=Task, engine="ctc_beam_decoder", **changes):
        settings = BeamSettings(engine=engine, lm=str(lm), lexicon="open", unknown_score=0.0, threads=2)
        values = {
            "symbols": LETTERS.symbols,
            "settings": settings,
            "frame_s": 0.03,
            "log_probs": [log_probs, log_probs],
            "references": ["ab cab", "ab cab"],
            "rules": ScoringRules.for_language("en"),
        }
        return kind(**values | changes)

    return make


def rows_of(path) -> list[dict]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_grid_includes_both_ends_and_has_alpha_in_the_outer_loop():
    grid = Grid.regular((0.0, 0.3, 0.1), (-1.0, 1.0, 1.0))
    assert grid.alphas == (0.0, 0.1, 0.2, 0.3)
    assert grid.points()[:4] == [(0.0, -1.0), (0.0, 0.0), (0.0, 1.0), (0.1, -1.0)]
    assert len(grid) == len(grid.points()) == 12
    assert len(Grid.regular((1.0, 1.0, 0.0), (2.0, 2.0, 0.5))) == 1


def test_the_command_line_in_the_docs_gives_the_grid_of_the_original():
    """The original's tune.py has 8 betas and 45 alphas for log10 scores, which are divided by ln 10 here."""
    page = (ROOT / "docs" / "language_models.md").read_text(encoding="utf-8")
    flags = {name: float(value) for name, value in re.findall(r"--config\.tune\.(\w+)=([\d.]+)", page)}
    config = base.get_config()
    config.tune.update({name: int(value) if name == "refine" else value for name, value in flags.items()})
    alphas = [round(alpha / math.log(10), 6) for alpha in np.linspace(1.0, 3.2, 45)]
    betas = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45)
    assert settings.read_grid(config) == Grid(tuple(alphas), betas, refine=0)


@pytest.mark.parametrize(
    "alpha", [(1.0, 0.5, 0.1), (0.0, 1.0, 0.0), (0.0, 1.0, -0.5), (math.nan, 1.0, 0.1), (0.0, math.inf, 0.1)]
)
def test_an_empty_grid_is_refused(alpha):
    with pytest.raises(ValueError, match=r"config\.tune\.alpha_from=.*empty grid"):
        Grid.regular(alpha, (0.0, 1.0, 0.5))


def test_invalid_grids_are_refused():
    with pytest.raises(ValueError, match=r"config\.tune\.alpha_from is -1"):
        Grid.regular((-1.0, 1.0, 0.5), (0.0, 1.0, 0.5))
    with pytest.raises(ValueError, match="larger step"):
        Grid.regular((0.0, 1.0, 1e-9), (0.0, 1.0, 0.5))
    with pytest.raises(ValueError, match="larger steps"):
        Grid.regular((0.0, 1.0, 1e-3), (0.0, 1.0, 1e-3))
    with pytest.raises(ValueError, match=r"config\.tune\.refine is -1"):
        Grid.regular((0.0, 1.0, 0.5), (0.0, 1.0, 0.5), refine=-1)


def test_the_neighbourhood_is_searched_at_half_the_step_within_the_grid():
    grid = Grid.regular((0.0, 2.0, 0.5), (0.0, 3.0, 1.0))
    around = grid.around(0.0, 2.0, times=1)
    assert sorted({alpha for alpha, _ in around}) == [0.0, 0.25, 0.5]
    assert sorted({beta for _, beta in around}) == [1.0, 1.5, 2.0, 2.5, 3.0]
    assert sorted({alpha for alpha, _ in grid.around(1.0, 1.0, times=2)}) == [0.75, 0.875, 1.0, 1.125, 1.25]


def test_a_minimum_at_an_edge_names_the_limit_except_for_alpha_0():
    grid = Grid.regular((0.0, 2.0, 0.5), (0.0, 3.0, 1.0))
    assert grid.edges(2.0, 0.0) == ["config.tune.alpha_to", "config.tune.beta_from"]
    assert grid.edges(0.0, 1.0) == []


def test_the_best_point_has_fewest_word_errors_then_character_errors():
    points = [Point(0.0, 0.0, 3, 10, 1, 50), Point(0.5, 0.0, 2, 10, 9, 50), Point(1.0, 0.0, 2, 10, 8, 50)]
    assert best_point(points, characters=False).alpha == 1.0
    assert best_point(points, characters=True).alpha == 0.0


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """Collect the figures that are drawn."""
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", _collect(figures, Figure.savefig))
    return figures


def _collect(figures: list[Figure], save: Callable) -> Callable:
    def collect(figure: Figure, *args, **options) -> None:
        figures.append(figure)
        save(figure, *args, **options)

    return collect


@pytest.mark.parametrize("engine", LIBRARIES)
def test_a_search_finds_weights_and_writes_points_summary_and_picture(make_task, engine, tmp_path, capsys, drawn):
    best = search(make_task(engine=engine), Grid.regular((0.0, 1.0, 0.5), (0.0, 1.0, 1.0), refine=1), tmp_path, "d")
    assert best["wer"] == 0.0
    assert best["alpha"] > 0
    rows = rows_of(tmp_path / tune.POINTS)
    assert best["points"] == len(rows) > len(SMALL)
    assert {float(row["wer"]) for row in rows if float(row["alpha"]) == 0} != {0.0}
    summary = json.loads((tmp_path / tune.SUMMARY).read_text())
    assert (summary["alpha"], len(summary["all"])) == (best["alpha"], len(rows))
    assert (tmp_path / tune.PICTURE).read_bytes()[:4] == PNG
    assert pyplot.get_fignums() == []
    printed = capsys.readouterr()
    assert printed.out.count("WER") == len(rows)
    assert f"{len(SMALL)}/{len(SMALL)}" in printed.err  # the bar has come to its end
    assert [axes.get_ylabel() for axes in drawn[0].axes[1:]] == ["word error rate, %"]


def test_mandarin_is_tuned_on_character_errors(make_task, tmp_path, drawn):
    task = make_task(rules=ScoringRules.for_language("zh"))
    assert task.by_characters
    best = search(task, SMALL, tmp_path, "d")
    summary = json.loads((tmp_path / tune.SUMMARY).read_text())
    assert best["cer"] == min(point["cer"] for point in summary["all"])
    assert [axes.get_ylabel() for axes in drawn[0].axes[1:]] == ["character error rate, %"]
    longer = search(make_task(rules=task.rules, references=["ab cab", "ab cab cccc"]), SMALL, tmp_path, "e")
    assert (longer["cer"], longer["wer"]) == (round(4 / 14, 6), 0.2)


@needs_pyctcdecode
def test_both_libraries_measure_the_same(make_task):
    points = []
    for name in ("ctc_beam_decoder", "pyctcdecode"):
        task = make_task(engine=name)
        points.append([task.measure(task.engine(1), *weights) for weights in SMALL.points()])
    assert points[0] == points[1]


def test_a_search_resumes_from_its_points(make_task, tmp_path, capsys):
    search(make_task(), Grid.regular((0.0, 0.5, 0.5), (0.0, 1.0, 1.0)), tmp_path, "d")
    first = capsys.readouterr().out
    search(make_task(), SMALL, tmp_path, "d")
    second = capsys.readouterr().out
    assert (first.count("WER"), second.count("WER")) == (4, 2)
    assert len(rows_of(tmp_path / tune.POINTS)) == 6


def test_points_of_other_settings_are_not_used_but_kept(make_task, tmp_path, capsys):
    search(make_task(), SMALL, tmp_path, "one")
    search(make_task(), SMALL, tmp_path, "other")
    assert capsys.readouterr().out.count("WER") == 12
    search(make_task(), SMALL, tmp_path, "one")
    assert capsys.readouterr().out.count("WER") == 0
    assert [row["digest"] for row in rows_of(tmp_path / tune.POINTS)] == ["one"] * 6 + ["other"] * 6


def test_a_truncated_line_is_dropped(tmp_path):
    file = PointFile(tmp_path / "points.csv", "d")
    file.add(Point(0.0, 0.5, 1, 2, 3, 4))
    file.add(Point(0.5, 0.5, 1, 2, 3, 4))
    content = file.path.read_text()
    file.path.write_text(content[: content.rindex("0.5,1") + 3])
    again = PointFile(file.path, "d")
    assert list(again.points) == [(0.0, 0.5)]
    again.add(Point(0.5, 0.5, 1, 2, 3, 4))
    assert len(rows_of(file.path)) == len(PointFile(file.path, "d").points) == 2


@needs_pyctcdecode
def test_the_death_of_a_process_is_reported_and_its_points_are_kept(make_task, tmp_path):
    with pytest.raises(TuningError, match=r"a process of the decoder died.* of 6 points are kept.*threads=1"):
        search(make_task(Fragile, "pyctcdecode"), SMALL, tmp_path, "d")
    kept = len(rows_of(tmp_path / tune.POINTS))
    assert search(make_task(engine="pyctcdecode"), SMALL, tmp_path, "d")["points"] == 6
    assert len(rows_of(tmp_path / tune.POINTS)) == 6 >= kept


def test_tuning_without_utterances_is_refused(make_task, tmp_path):
    with pytest.raises(TuningError, match=r"config\.data\.dev"):
        search(make_task(log_probs=[], references=[]), SMALL, tmp_path, "d")


def test_a_single_value_of_beta_gives_no_plot(make_task, tmp_path):
    assert search(make_task(), Grid.regular((0.0, 1.0, 0.5), (1.0, 1.0, 0.5)), tmp_path, "d")["points"] == 3
    assert not (tmp_path / tune.PICTURE).exists()


def test_a_changed_file_has_a_different_digest(tmp_path, monkeypatch):
    monkeypatch.setattr(main_tune, "SAMPLE_BYTES", 8)
    path = tmp_path / "lm.bin"
    digests = set()
    for content in (b"a" * 600, b"a" * 599, b"a" * 599 + b"b", b"b" + b"a" * 599, b"a" * 300 + b"b" * 20 + b"a" * 280):
        path.write_bytes(content)
        digests.add(main_tune.digest_file(str(path)))
    path.write_bytes(b"short")
    assert len(digests | {main_tune.digest_file(str(path))}) == 6


@pytest.fixture
def flags(clips, tmp_path):
    texts = [json.loads(line)["text"] for line in clips.read_text().splitlines()]
    lm = write_arpa(tmp_path / "lm.arpa", texts)
    model = [f"--config.restore={ROOT / 'models' / 'an4'}", f"--config.data.dev={clips}", f"--config.decode.lm={lm}"]
    return ["--mode=tune", *model, "--config.decode.engine=ctc_beam_decoder"]


@pytest.mark.slow
def test_the_command_line_tunes_and_resumes(flags, tmp_path):
    arguments = [*flags, f"--workdir={tmp_path / 'run'}", "--config.tune.alpha_to=1", "--config.tune.beta_to=1"]
    first = run_main(*arguments)
    assert first.returncode == 0, first.stderr
    *points, last = first.stdout.splitlines()
    result = json.loads(last)
    assert {"alpha", "beta", "wer", "cer"} <= set(result)
    assert result["points"] == len(points) == len(rows_of(tmp_path / "run" / "tune" / "points.csv"))
    names = {path.name for path in (tmp_path / "run" / "tune").iterdir()}
    assert names == {"log_probs.npz", "points.csv", "tune.json", "surface.png"}
    again = run_main(*arguments)
    assert "reading the network's probabilities from" in again.stderr
    assert f"{len(points)} points are read from" in again.stderr
    same = ("alpha", "beta", "wer", "cer", "points")
    assert {name: json.loads(again.stdout)[name] for name in same} == {name: result[name] for name in same}
    other = run_main(*arguments, "--config.decode.beam_size=5")
    assert len(other.stdout.splitlines()) > 2, other.stderr
    program, flags = first.stderr.splitlines()[-1].strip().split(" --mode=", 1)
    assert program == "python main.py"
    used = run_main(*shlex.split(f"--mode={flags}"))
    assert used.returncode == 0, used.stderr
    measured = json.loads(used.stdout)
    assert (measured["alpha"], measured["beta"], measured["engine"]) == (
        result["alpha"],
        result["beta"],
        "ctc_beam_decoder",
    )
    assert measured["wer"] == pytest.approx(result["wer"], abs=1e-6)


def test_an_interruption_keeps_the_points(flags, tmp_path):
    arguments = [
        *flags,
        f"--workdir={tmp_path / 'run'}",
        "--config.tune.alpha_step=0.01",
        "--config.tune.beta_step=0.01",
    ]
    points = tmp_path / "run" / "tune" / "points.csv"
    with start_main(*arguments) as process:
        deadline = time.monotonic() + 120
        while (not points.exists() or len(points.read_text().splitlines()) < 4) and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "points are kept" in errors.splitlines()[-1]
    assert "Traceback" not in errors
    assert len(rows_of(points)) >= 3


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("--workdir=", "--workdir is empty"),
        slow("--config.data.dev=", "config.data.dev is empty"),
        ("--config.decode.lm=none", "no language model to tune: give one"),
        slow("--config.decode.lm=nowhere.bin", "nowhere.bin"),
        ("--config.decode.engine=greedy", "uses no language model"),
        slow("--config.tune.alpha_to=-1.0", "empty grid"),
    ],
)
def test_missing_or_invalid_settings_are_reported(flags, change, expected, tmp_path):
    result = run_main(*flags, f"--workdir={tmp_path / 'run'}", change)
    assert result.returncode == 1
    assert expected in result.stderr.splitlines()[-1]
