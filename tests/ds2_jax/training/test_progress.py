"""Progress: steps, epochs and evaluations; no other module changes it."""

import ast
import dataclasses

import pytest

from ds2_jax.artifacts.ranking import Score
from ds2_jax.parallel import processes
from ds2_jax.training.progress import Progress
from ds2_jax.training.settings import TrainSettings
from ds2_jax.training.train import _merge_bad_utterances
from tests.input_pipeline.batches.test_plan import corpus_of
from tests.runs import ROOT

LIMITS = TrainSettings(epochs=2)


def train(progress: Progress, limits: TrainSettings, batches: int, *, has_dev: bool = True) -> list[int]:
    """Count steps to the end; return those after which an evaluation is due."""
    due = []
    while not progress.finished:
        progress.count_step()
        progress.update(limits, batches, has_dev=has_dev)
        if progress.evaluation_due:
            due.append(progress.step)
            progress.record_evaluation(Score(0.5), limits)
    return due


@pytest.mark.parametrize(
    ("limits", "end", "due"),
    [
        (LIMITS, (6, 2, 0), [3, 6]),
        (dataclasses.replace(LIMITS, eval_every=2), (6, 2, 0), [2, 4, 6]),
        (dataclasses.replace(LIMITS, eval_every=4), (6, 2, 0), [4, 6]),  # always after the last step
        (dataclasses.replace(LIMITS, max_steps=4), (4, 1, 1), [3, 4]),
        (dataclasses.replace(LIMITS, epochs=9, patience=2), (9, 3, 0), [3, 6, 9]),
    ],
)
def test_the_limits_determine_the_end_and_the_evaluations(limits, end, due):
    progress = Progress()
    assert train(progress, limits, batches=3) == due
    assert (progress.step, progress.epoch, progress.batch) == end


def test_without_a_dev_set_no_evaluation_is_due():
    assert train(Progress(), LIMITS, batches=3, has_dev=False) == []


def test_the_first_of_equal_error_rates_is_the_best():
    progress = Progress(step=3)
    assert progress.record_evaluation(Score(0.4), LIMITS)
    progress.count_step()
    assert not progress.record_evaluation(Score(0.4), LIMITS)
    assert (progress.best_step, progress.evaluations_since_best) == (3, 1)
    progress.count_step()
    assert progress.record_evaluation(Score(0.3), LIMITS)
    assert (progress.best_error_rate, progress.best_step, progress.evaluations_since_best) == (0.3, 5, 0)


def test_patience_does_not_run_out_while_cer_and_loss_fall():
    """A network that writes nothing has a WER of 100 %, less than the same network when it begins to learn."""
    limits = dataclasses.replace(LIMITS, epochs=99, patience=2)
    progress = Progress(step=1, best_error_rate=1.0, best_step=1)  # of an earlier version, without CER and loss
    for rates in [(1.0, 1.0, 90.0), (1.6, 0.9, 60.0), (1.3, 0.85, 50.0), (1.0, 0.8, 40.0)]:
        progress.count_step()
        assert progress.record_evaluation(Score(*rates), limits)
    assert (progress.best_step, progress.best_cer, progress.best_loss) == (5, 0.8, 40.0)
    for _ in range(2):
        assert not progress.finished
        progress.count_step()
        assert not progress.record_evaluation(Score(0.95, 0.9, 45.0), limits)
    assert progress.finished
    assert progress.describe_end(limits) == (
        "the last 2 evaluations on dev were no better than that of step 5 (config.train.patience=2)"
    )


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (LIMITS, "config.train.epochs=2 is reached"),
        (dataclasses.replace(LIMITS, max_steps=4), "config.train.max_steps=4 is reached"),
    ],
)
def test_the_reason_of_the_end_names_the_setting(limits, reason):
    progress = Progress()
    train(progress, limits, batches=3)
    assert progress.describe_end(limits) == reason


@pytest.mark.parametrize(
    ("fresh", "changed"),
    [
        (Progress(data_digest="d", plan_digest="p", dev_digest="v"), {}),
        (Progress(data_digest="d", plan_digest="q", dev_digest="v"), {"plan_digest": "q", "batch": 0}),
        (
            Progress(data_digest="e", plan_digest="p", dev_digest="v"),
            {"data_digest": "e", "batch": 0, "bad_utterances": []},
        ),
        (
            Progress(data_digest="d", plan_digest="p", dev_digest="w"),
            {
                "dev_digest": "w",
                "best_error_rate": None,
                "best_cer": None,
                "best_loss": None,
                "best_step": 0,
                "evaluations_since_best": 0,
            },
        ),
        (Progress(data_digest="d", plan_digest="p"), {"evaluation_due": False}),
    ],
)
def test_changes_only_reset_the_values_that_depend_on_them(fresh, changed):
    saved = Progress(
        step=7,
        epoch=1,
        batch=2,
        best_error_rate=0.5,
        best_cer=0.4,
        best_loss=3.0,
        best_step=5,
        evaluations_since_best=1,
        data_digest="d",
        plan_digest="p",
        dev_digest="v",
        bad_utterances=[3],
        evaluation_due=True,
    )
    assert saved.resumed(fresh) == dataclasses.replace(saved, **changed)


def test_no_other_module_assigns_to_progress():
    assignments = []
    for path in sorted((ROOT / "ds2_jax").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            if any("progress." in ast.unparse(target) for target in targets if target is not None):
                assignments.append(f"{path.name}:{node.lineno}")  # type: ignore[attr-defined]
    assert assignments == []


def test_unusable_utterances_of_all_processes_count_together(tmp_path, monkeypatch):
    corpus = corpus_of(tmp_path, [[1.0] * 10])
    monkeypatch.setattr(processes, "gather", lambda rows: [rows, [7, 2]])  # as from another process
    progress = Progress(bad_utterances=[2])
    _merge_bad_utterances(progress, corpus, 0.2)
    assert progress.bad_utterances == [2, 7]
    with pytest.raises(
        ValueError, match=r"2 of 10 training utterances cannot be used, more than config\.data\.max_bad_share=0\.1"
    ):
        _merge_bad_utterances(Progress(bad_utterances=[2]), corpus, 0.1)
