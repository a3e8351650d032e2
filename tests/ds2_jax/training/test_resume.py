"""Resuming with other settings or data: what is refused, what is reset, what is kept."""

import json
import logging
import shutil
from pathlib import Path

import pytest

from ds2_jax.artifacts.bundle import ModelFileError
from ds2_jax.artifacts.load import load_meta, load_model
from ds2_jax.cli.train import run_train as train
from ds2_jax.training.checkpoint import Checkpoints
from input_pipeline import manifest
from input_pipeline.storage.digests import LISTING
from tests.runs import ROOT, slow, small_config, small_flags, start_main, wait_until


@pytest.fixture(scope="module")
def whole(clips, tmp_path_factory) -> Path:
    """Return a finished run with one evaluation on dev."""
    config = small_config(clips)
    config.data.dev = str(clips)
    config.train.epochs = 1
    workdir = tmp_path_factory.mktemp("whole") / "run"
    train(config, str(workdir))
    return workdir


@pytest.fixture
def run(whole, tmp_path) -> str:
    """Return a copy of the finished run, to resume from."""
    shutil.copytree(whole, tmp_path / "run")
    return str(tmp_path / "run")


@pytest.fixture
def config(clips):
    """Return the settings of the run, with one more epoch."""
    config = small_config(clips)
    config.data.dev = str(clips)
    config.train.epochs = 2
    return config


def newest(run: str) -> Path:
    return max(Path(run, "checkpoints").iterdir(), key=lambda path: int(path.name))


def change_progress(run: str, **changes) -> None:
    file = newest(run) / "progress" / "metadata"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    (newest(run) / LISTING).unlink()  # the change is intended


def first_rows(clips, count: int, path: Path) -> str:
    rows = manifest.read(clips)
    manifest.write(
        path,
        ({"audio_filepath": rows.audio[i], "duration": rows.duration[i], "text": rows.text[i]} for i in range(count)),
    )
    return str(path)


def test_a_changed_manifest_weight_is_refused(run, config, clips):
    config.data.train = f"{clips}:0.5"
    with pytest.raises(ValueError, match="batches, weights of manifests, seed or augmentation changed"):
        train(config, run)


def test_an_epoch_with_fewer_batches_than_already_processed_is_refused(run, config):
    change_progress(run, batch=1000)
    with pytest.raises(ValueError, match="written after 1000"):
        train(config, run)


@pytest.mark.slow
def test_an_augmentation_file_may_be_moved(run, config, tmp_path, caplog):
    volume = {"type": "volume", "params": {"min_gain_dBFS": 0, "max_gain_dBFS": 0}, "prob": 1.0}
    for name in ("a", "b"):
        (tmp_path / f"{name}.json").write_text(json.dumps([volume]))
        config.augment.file = str(tmp_path / f"{name}.json")
        train(config, str(tmp_path / "augmented"))
        config.train.epochs += 1
    assert "config.data.dev has changed" not in caplog.text


@pytest.mark.parametrize(("setting", "value"), [("ema", 0.9), ("name", "adamw")])
def test_the_error_for_an_optimiser_with_another_state_states_both_settings(run, config, setting, value):
    config.optim[setting] = value
    expected = r"was trained with config\.optim\.name=adam, without averaged.*but the settings are config\.optim\.name="
    with pytest.raises(ValueError, match=expected) as error:
        train(config, run)
    assert "damaged" not in str(error.value)


@pytest.mark.slow
def test_bad_rows_of_the_old_manifest_are_forgotten_when_it_changes(run, config, clips, tmp_path):
    rows = len(manifest.read(clips))
    change_progress(run, bad_utterances=[rows - 1])
    config.data.train = first_rows(clips, rows - 1, tmp_path / "shorter.jsonl")
    config.train.allow_changed_data = True
    train(config, run)
    with Checkpoints(run, read_only=True) as checkpoints:
        assert checkpoints.progress(checkpoints.latest() or 0).bad_utterances == []


def test_a_due_evaluation_is_dropped_without_a_dev_set(run, config):
    change_progress(run, evaluation_due=True)
    config.data.dev = ""
    train(config, run)


@pytest.mark.slow
def test_a_postponed_evaluation_is_stored_with_its_checkpoint(run, config):
    shutil.rmtree(newest(run) / "metrics")
    change_progress(run, evaluation_due=True, best_error_rate=None, evaluations_since_best=7)
    config.train.epochs = 1
    for _ in range(2):
        train(config, run)
        with Checkpoints(run, read_only=True) as checkpoints:
            progress = checkpoints.progress(checkpoints.latest() or 0)
        assert (progress.evaluation_due, progress.evaluations_since_best) == (False, 0)
        assert progress.best_error_rate is not None
    lines = [json.loads(line) for line in Path(run, "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "dev_wer" in line].count(progress.step) == 1


def test_an_evaluation_that_fails_loses_no_step_and_is_made_at_the_next_start(clips, tmp_path, caplog):
    rows = manifest.read(clips)
    dev = tmp_path / "dev.jsonl"
    dev.write_text(json.dumps({"audio_filepath": "later.flac", "duration": rows.duration[0], "text": rows.text[0]}))
    config = small_config(clips)
    config.data.dev = str(dev)
    config.train.epochs = 1
    with pytest.raises(ValueError, match="none of the 1 utterances can be used"):
        train(config, str(tmp_path / "run"))
    steps = int(newest(str(tmp_path / "run")).name)
    shutil.copy(rows.audio[0], tmp_path / "later.flac")
    with caplog.at_level(logging.INFO):
        train(config, str(tmp_path / "run"))
    assert f"resuming at step {steps} (epoch 1, batch 0)" in caplog.text
    assert f"finished at step {steps}: config.train.epochs=1 is reached" in caplog.text
    assert json.loads((newest(str(tmp_path / "run")) / "metrics" / "metrics").read_text())["step"] == steps


@pytest.mark.parametrize("content", [slow(""), '{"error_rate": null}'])
def test_a_damaged_dev_result_is_named_and_the_checkpoint_counts_as_not_evaluated(run, config, content, caplog):
    file = newest(run) / "metrics" / "metrics"
    file.write_text(content)
    train(config, run)
    assert caplog.text.count(f"{file} cannot be read") == 1
    with Checkpoints(run, read_only=True) as checkpoints:
        assert checkpoints.best() != int(file.parent.parent.name)


def test_the_best_checkpoint_is_chosen_on_the_current_dev_set(run, config, clips, tmp_path, caplog):
    """Otherwise an error rate on another dev set might stay the best forever."""
    file = newest(run) / "metrics" / "metrics"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"error_rate": 0.0}))
    old = int(newest(run).name)
    config.data.dev = first_rows(clips, 5, tmp_path / "dev.jsonl")
    config.train.keep = 1
    with caplog.at_level(logging.WARNING):
        train(config, run)
    assert "config.data.dev has changed" in caplog.text
    with Checkpoints(run, read_only=True) as checkpoints:
        assert checkpoints.best() == checkpoints.latest() != old


@pytest.fixture
def source(run, config, tmp_path) -> str:
    """Return a run with the model of `run`, and change the settings to a finished fine-tuning of it."""
    shutil.copytree(run, tmp_path / "source")
    config.restore = str(tmp_path / "source")
    config.model.rnn_size = 512  # as without a recipe: the restored model has its own
    config.train.epochs = 1
    return config.restore


def test_a_fine_tuning_started_again_goes_on_and_records_the_settings_of_its_model(run, config, source):
    train(config, run)
    recorded = json.loads(Path(run, "config.json").read_text())
    assert (recorded["restore"], recorded["model"]["rnn_size"], recorded["features"]["kind"]) == (source, 12, "fbank")


def test_a_fine_tuning_goes_on_with_a_warning_when_its_source_is_gone(run, config, source, caplog):
    shutil.rmtree(source)
    train(config, run)
    assert f"the model '{source}' does not exist" in caplog.text


def test_checkpoints_of_another_model_than_the_restored_one_are_refused(run, config, source, tmp_path):
    record = Path(run, "config.json").read_text()
    config.restore = str(ROOT / "models" / "an4")
    with pytest.raises(ValueError, match="rnn_size is 12 here and 384 there"):
        train(config, run)
    (tmp_path / "more.txt").write_text("é\n")
    config.restore, config.vocabulary = source, str(tmp_path / "more.txt")
    with pytest.raises(ValueError, match=r"with config.vocabulary=.*vocabulary is (\d+) symbols"):
        train(config, run)
    config.vocabulary = ""
    meta = newest(source) / "meta" / "metadata"
    values = json.loads(meta.read_text())
    values["stats"]["mean"][0] += 1.0  # of a training on other data
    meta.write_text(json.dumps(values))
    with pytest.raises(ValueError, match="feature statistics"):
        train(config, run)
    assert Path(run, "config.json").read_text() == record


@pytest.mark.slow
def test_a_restored_model_with_another_output_layer_goes_on(config, source, tmp_path):
    config.replace_output, config.text.language = True, "de"
    workdir = str(tmp_path / "german")
    train(config, workdir)
    meta = load_meta(workdir)
    assert (meta.language, load_meta(source).language) == ("de", "en")
    config.train.epochs = 2
    train(config, workdir)
    assert load_meta(workdir).vocabulary == meta.vocabulary


@pytest.mark.slow
def test_a_workdir_removed_during_the_training_is_named(clips, tmp_path):
    flags = [*small_flags(clips), "--config.train.epochs=400", "--config.train.checkpoint_every_s=1"]
    with start_main(*flags, f"--config.data.dev={clips}", f"--workdir={tmp_path}/run") as process:
        wait_until(lambda: bool(list(tmp_path.glob("run/checkpoints/[0-9]*"))), 200)
        (tmp_path / "run").rename(tmp_path / "elsewhere")
        _, err = process.communicate(timeout=200)
    assert process.returncode == 1
    last = err.splitlines()[-1]
    assert f"{tmp_path}/run/checkpoints" in last
    assert "has been removed or renamed during the training" in last


def test_changed_settings_are_named_when_a_run_resumes(run, config, caplog):
    config.train.epochs = 1
    config.optim.learning_rate = 1e-3
    config.train.log_every = 2
    with caplog.at_level(logging.INFO):
        train(config, run)
    assert (
        "settings that have changed since the last start: config.optim.learning_rate is 0.001, was 0.0005; "
        "config.train.log_every is 2, was 1"
    ) in caplog.text


@pytest.mark.slow
def test_a_trace_ends_with_a_shorter_training(run, config):
    step = int(newest(run).name)
    config.train.profile_step = step + 1
    config.train.max_steps = step + 2
    train(config, run)
    assert list(Path(run, "profile").rglob("*.xplane.pb"))
    config.train.max_steps = 0
    train(config, run)  # resumes within the steps to be traced


@pytest.mark.parametrize("damage", ["missing file", "truncated"])
def test_a_damaged_checkpoint_is_reported_when_it_is_evaluated(run, damage):
    if damage == "missing file":
        (newest(run) / "model" / "manifest.ocdbt").unlink()
    else:
        for file in (newest(run) / "model").glob("**/d/*"):
            file.write_bytes(file.read_bytes()[:10])
    with pytest.raises(ModelFileError, match=rf"checkpoints/{newest(run).name}"):
        load_model(str(newest(run)))


def test_unknown_values_in_a_checkpoint_are_ignored(run):
    change_progress(run, steps_per_epoch=0)
    with Checkpoints(run, read_only=True) as checkpoints:
        assert checkpoints.progress(checkpoints.latest() or 0).step == int(newest(run).name)


def test_a_manifest_without_usable_utterances_is_refused_whatever_the_limit(config, clips, tmp_path):
    rows = manifest.read(clips)
    path = tmp_path / "too_long.jsonl"
    text = "a" * 5000
    manifest.write(path, [{"audio_filepath": rows.audio[0], "duration": rows.duration[0], "text": text}] * 2)
    config.data.train, config.data.max_bad_share = str(path), 1.0
    with pytest.raises(ValueError, match="no training utterance can be used"):
        train(config, str(tmp_path / "new"))


@pytest.mark.slow
def test_metrics_include_the_steps_before_a_stop(clips, tmp_path):
    config = small_config(clips)
    config.train.log_every = 4
    config.optim.schedule = "constant"  # independent of the length of the run
    train(config, str(tmp_path / "whole"))
    config.train.max_steps = 6  # between two logged steps
    train(config, str(tmp_path / "run"))
    config.train.max_steps = 0
    train(config, str(tmp_path / "run"))

    def curve(run: Path) -> list[tuple]:
        lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        return [tuple(line[name] for name in ("step", "loss", "grad_norm", "padding")) for line in lines]

    assert len(curve(tmp_path / "whole")) >= 2
    assert curve(tmp_path / "run") == curve(tmp_path / "whole")
