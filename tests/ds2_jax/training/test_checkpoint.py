"""Checkpoints of a tiny state: which are kept, what is restored, what stops a save, and what processes wait for."""

import logging
import os
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ds2_jax.artifacts.bundle import ModelFileError
from ds2_jax.artifacts.ranking import Score
from ds2_jax.parallel import processes, sharding
from ds2_jax.training.checkpoint import OVERHEAD_BYTES, Checkpoints
from ds2_jax.training.progress import Progress
from ds2_jax.training.state import init_state
from tests.attack_targets import tiny_meta

META = tiny_meta()


def state_of(step: int, average: bool = True):
    variables = {"params": {"w": jnp.full(5, float(step))}, "batch_stats": {"mean": jnp.full(2, -float(step))}}
    return init_state(variables, optax.adam(0.1), None, average).replace(step=jnp.asarray(step, jnp.int32))


def save(checkpoints: Checkpoints, step: int, score: float | None = None, dev: str = "a") -> None:
    progress = Progress(step=step, dev_digest=dev)
    checkpoints.save(state_of(step), progress, META)
    if score is not None:
        checkpoints.add_score(progress, Score(score))
    checkpoints.wait()


def steps_in(folder) -> list[int]:
    return sorted(int(name) for name in os.listdir(folder / "checkpoints") if name.isdigit())


@pytest.mark.parametrize(("keep", "kept"), [(1, [3, 7]), (2, [3, 6, 7])])
def test_the_best_and_the_latest_checkpoints_are_kept(tmp_path, keep, kept):
    with Checkpoints(str(tmp_path), keep) as checkpoints:
        for step, score in ((2, 0.5), (3, 0.2), (5, 0.4), (6, 0.2), (7, 0.3)):
            save(checkpoints, step, score)
        assert (checkpoints.latest(), checkpoints.best()) == (7, 3)
    assert steps_in(tmp_path) == kept


def test_a_checkpoint_is_removed_as_soon_as_a_better_one_is_measured(tmp_path):
    with Checkpoints(str(tmp_path), 1) as checkpoints:
        save(checkpoints, 1, 0.5)
        save(checkpoints, 2)
        assert steps_in(tmp_path) == [1, 2]
        checkpoints.add_score(Progress(step=2, dev_digest="a"), Score(0.4))
        assert steps_in(tmp_path) == [2]


def test_without_any_checkpoint_there_is_neither_a_latest_nor_a_best(tmp_path):
    with Checkpoints(str(tmp_path)) as checkpoints:
        assert (checkpoints.latest(), checkpoints.best()) == (None, None)
        save(checkpoints, 4)
        assert (checkpoints.latest(), checkpoints.best()) == (4, 4)


@pytest.mark.parametrize("average", [True, False])
def test_all_arrays_and_the_progress_come_back(tmp_path, average):
    state = state_of(3, average)
    gradients = jax.tree.map(jnp.ones_like, state.parameters)
    state = state.replace(optimizer=optax.adam(0.1).update(gradients, state.optimizer)[1])
    progress = Progress(step=3, epoch=1, batch=2, interval={"loss": 1.5}, bad_utterances=[8])
    with Checkpoints(str(tmp_path)) as checkpoints:
        checkpoints.save(state, progress, META)
    template = state_of(0, average)
    with Checkpoints(str(tmp_path), read_only=True) as checkpoints:
        shardings = sharding.state_sharding(template, sharding.make_mesh(1))
        found = checkpoints.restore(3, template, shardings)
        assert checkpoints.progress(3) == progress
        assert checkpoints.meta(3).to_json() == META.to_json()
    jax.tree.map(np.testing.assert_array_equal, found, state)
    assert (found.averaged is None) == (not average)


@pytest.mark.parametrize("name", ["parameters", "batch_stats", "averaged"])
def test_arrays_that_are_not_finite_are_refused(tmp_path, name):
    state = state_of(3)
    broken = jax.tree.map(lambda leaf: leaf.at[-1].set(jnp.nan), getattr(state, name))
    with Checkpoints(str(tmp_path)) as checkpoints:
        checkpoints.save(state.replace(**{name: broken}), Progress(step=3), META)
        checkpoints.wait()
        with pytest.raises(ModelFileError, match="not finite"):
            checkpoints.restore(3, state, sharding.state_sharding(state, sharding.make_mesh(1)))


@pytest.mark.parametrize(("spare", "fits"), [(0, True), (-1, False)])
def test_a_checkpoint_is_not_begun_on_a_disk_without_room_for_it(tmp_path, monkeypatch, spare, fits):
    state = state_of(1)
    needed = int(1.1 * sum(leaf.nbytes for leaf in jax.tree.leaves(state))) + OVERHEAD_BYTES
    usage = shutil.disk_usage(tmp_path)._replace(free=needed + spare)
    with Checkpoints(str(tmp_path)) as checkpoints:
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
        if fits:
            checkpoints.save(state, Progress(step=1), META)
        else:
            with pytest.raises(OSError, match=r"it needs up to 0\.5 MB, but only 0\.5 MB are free.*free disk space"):
                checkpoints.save(state, Progress(step=1), META)
            assert steps_in(tmp_path) == []


def test_other_processes_wait_until_checkpoints_are_set_aside(tmp_path, monkeypatch):
    with Checkpoints(str(tmp_path), 2) as checkpoints:
        save(checkpoints, 1)
        save(checkpoints, 2)
    shutil.rmtree(tmp_path / "checkpoints" / "2" / "model")
    seen = []
    monkeypatch.setattr(processes, "barrier", lambda: seen.append(sorted(os.listdir(tmp_path / "checkpoints"))))
    with Checkpoints(str(tmp_path)):
        assert len(seen) == 1
        assert [re.sub(r"\d{5,}", "*", name) for name in seen[0]] == ["1", "2.partial-*"]


def test_incomplete_checkpoints_are_renamed_by_those_who_write_alone(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    with Checkpoints(str(tmp_path), 3) as checkpoints:
        for step in (1, 2, 10):
            save(checkpoints, step)
    shutil.rmtree(tmp_path / "checkpoints" / "10" / "progress")
    (tmp_path / "checkpoints" / "2" / "meta" / "metadata").write_text("{}")
    with Checkpoints(str(tmp_path), read_only=True) as checkpoints:
        assert checkpoints.latest() == 2
    assert steps_in(tmp_path) == [1, 2, 10]
    assert "renamed" not in caplog.text
    with Checkpoints(str(tmp_path)) as checkpoints:
        assert checkpoints.latest() == 1
    assert steps_in(tmp_path) == [1]
    assert "checkpoints/10 is incomplete (no progress" in caplog.text
    assert "checkpoints/2 is damaged (" in caplog.text


def test_the_progress_of_a_measured_checkpoint_is_the_one_given(tmp_path):
    with Checkpoints(str(tmp_path)) as checkpoints:
        save(checkpoints, 1)
        measured = Progress(step=1, best_error_rate=0.25, best_step=1, dev_digest="d")
        checkpoints.add_score(measured, Score(0.25, 0.1, 2.0))
        assert checkpoints.progress(1) == measured
