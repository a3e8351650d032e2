"""Training end to end on a few real utterances: resuming, overfitting, bad input, the files in the workdir."""

import json
import logging
import os
import shutil
import signal
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from ds2_jax.artifacts.load import load_model
from ds2_jax.artifacts.ranking import Score
from ds2_jax.artifacts.workdir import Workdir
from ds2_jax.cli import settings
from ds2_jax.cli.train import run_train as train
from ds2_jax.training.checkpoint import Checkpoints
from ds2_jax.training.data import describe_model, read_manifests
from input_pipeline import manifest
from input_pipeline.augment.clip_cache import Clips
from input_pipeline.corpora import prepare
from input_pipeline.manifest import stats
from tests import corpus_archives
from tests.runs import run_main, small_config, small_flags, start_main


def parameters_of(workdir) -> list[np.ndarray]:
    _, variables = load_model(str(workdir))
    return [np.asarray(leaf) for leaf in jax.tree.leaves(variables)]


def loss_curve(workdir) -> list[tuple[int, float]]:
    file = Path(workdir, "metrics.jsonl")
    lines = file.read_text().splitlines() if file.exists() else []
    return [(record["step"], record["loss"]) for record in map(json.loads, lines) if "loss" in record]


def assert_same_run(workdir, expected) -> None:
    assert loss_curve(workdir) == loss_curve(expected)
    for actual, parameter in zip(parameters_of(workdir), parameters_of(expected), strict=True):
        np.testing.assert_array_equal(actual, parameter)


@pytest.fixture(scope="module")
def augmentation(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("augment") / "augment.json"
    speed = {"type": "speed", "params": {"min_speed_rate": 0.9, "max_speed_rate": 1.1}, "prob": 1.0}
    path.write_text(json.dumps([speed]))
    return str(path)


def config_for(clips, augmentation) -> ConfigDict:
    config = small_config(clips)
    config.data.dev = str(clips)
    config.augment.file = augmentation
    config.model.dropout = 0.1
    config.optim.ema = 0.9
    config.optim.schedule = "constant"  # independent of the length of the run
    return config


@pytest.fixture(scope="module")
def uninterrupted(clips, augmentation, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("whole") / "run"
    train(config_for(clips, augmentation), str(workdir))
    return workdir


def test_a_run_writes_its_record(uninterrupted):
    files = {path.name for path in uninterrupted.iterdir()}
    assert {"config.json", "run.json", "metrics.jsonl", "tensorboard", "curves.png", "vocabulary.txt"} <= files
    assert "feature_stats.npz" in files
    record = json.loads((uninterrupted / "run.json").read_text())[0]
    assert record["manifests"].keys() == {"train", "dev"}
    assert record["versions"]["jax"] == jax.__version__
    steps = [step for step, _ in loss_curve(uninterrupted)]
    assert steps == list(range(1, len(steps) + 1))


def test_nothing_is_compiled_after_the_first_epoch(clips, augmentation, tmp_path):
    compiled_at = []

    def record(event: str, duration_secs: float, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled_at.append(len(loss_curve(tmp_path / "run")))

    jax.monitoring.register_event_duration_secs_listener(record)
    try:
        train(config_for(clips, augmentation), str(tmp_path / "run"))
    finally:
        jax.monitoring.unregister_event_duration_listener(record)
    steps = len(loss_curve(tmp_path / "run"))
    assert compiled_at
    assert max(compiled_at) <= steps // 4  # there are four epochs


@pytest.mark.slow
def test_a_stopped_and_resumed_run_equals_an_uninterrupted_one(clips, augmentation, uninterrupted, tmp_path):
    config = config_for(clips, augmentation)
    config.train.max_steps = 6  # in the middle of the second epoch, after the warm-up
    train(config, str(tmp_path / "run"))
    config.train.max_steps = 0
    train(config, str(tmp_path / "run"))
    assert_same_run(tmp_path / "run", uninterrupted)


def test_a_run_killed_and_started_again_equals_an_uninterrupted_one(clips, augmentation, uninterrupted, tmp_path):
    workdir = tmp_path / "run"
    flags = [
        *small_flags(clips),
        f"--config.data.dev={clips}",
        f"--config.augment.file={augmentation}",
        "--config.model.dropout=0.1",
        "--config.optim.ema=0.9",
        "--config.optim.schedule=constant",
        f"--workdir={workdir}",
    ]
    with start_main(*flags, devices=jax.device_count()) as process:
        deadline = time.monotonic() + 200
        while not list(workdir.glob("checkpoints/[0-9]*/_CHECKPOINT_METADATA")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    again = run_main(*flags, devices=jax.device_count())
    assert again.returncode == 0, again.stderr
    assert_same_run(workdir, uninterrupted)


def test_noise_is_read_once_before_the_training_starts(clips, tmp_path, monkeypatch):
    params = {"min_snr_dB": 20, "max_snr_dB": 20, "noise_manifest_path": str(clips)}
    (tmp_path / "a.json").write_text(json.dumps([{"type": "noise", "params": params, "prob": 1.0}]))
    config, checks = config_for(clips, str(tmp_path / "a.json")), []
    monkeypatch.setattr(Clips, "check", lambda clips, rate: checks.append(rate))
    monkeypatch.setattr(
        "ds2_jax.training.train.make_schedule", lambda *_: pytest.fail("was not reached", pytrace=False)
    )
    settings.check(config, [], "train", "")
    with pytest.raises(pytest.fail.Exception):
        train(config, str(tmp_path / "run"))
    assert checks == [config.features.sample_rate_hz]


def test_a_finished_run_is_not_trained_again(clips, augmentation, uninterrupted, tmp_path):
    shutil.copytree(uninterrupted, tmp_path / "run")
    before = parameters_of(tmp_path / "run")
    train(config_for(clips, augmentation), str(tmp_path / "run"))
    for a, b in zip(before, parameters_of(tmp_path / "run"), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_an_incomplete_checkpoint_is_renamed_and_the_previous_one_used(
    clips, augmentation, uninterrupted, tmp_path, caplog
):
    shutil.copytree(uninterrupted, tmp_path / "run")
    newest = max((tmp_path / "run" / "checkpoints").iterdir(), key=lambda path: int(path.name))
    shutil.rmtree(newest / "progress")  # as after an interrupted copy
    with caplog.at_level("WARNING", "ds2_jax"):
        train(config_for(clips, augmentation), str(tmp_path / "run"))
    assert f"{newest} is incomplete (no progress/metadata)" in caplog.text
    assert_same_run(tmp_path / "run", uninterrupted)


def test_a_damaged_checkpoint_is_renamed_and_the_previous_one_used(
    clips, augmentation, uninterrupted, tmp_path, caplog
):
    shutil.copytree(uninterrupted, tmp_path / "run")
    newest = max((tmp_path / "run" / "checkpoints").iterdir(), key=lambda path: int(path.name))
    for file in (newest / "optimizer").glob("**/d/*"):
        file.write_bytes(file.read_bytes()[:10])
    with caplog.at_level("WARNING", "ds2_jax"):
        train(config_for(clips, augmentation), str(tmp_path / "run"))
    assert f"{newest} is damaged (" in caplog.text
    assert_same_run(tmp_path / "run", uninterrupted)


def test_a_workdir_that_another_run_uses_is_refused(clips, augmentation, tmp_path):
    with Workdir(str(tmp_path / "run"), exclusive=True):
        result = run_main(*small_flags(clips), f"--workdir={tmp_path}/run")
        with Workdir(str(tmp_path / "run")):  # writing reports needs no lock
            pass
    assert result.returncode == 75
    assert f"is in use by process {os.getpid()}" in result.stderr.splitlines()[-1]
    train(config_for(clips, augmentation), str(tmp_path / "run"))


def test_changed_data_is_refused_unless_allowed(clips, augmentation, uninterrupted, tmp_path):
    shutil.copytree(uninterrupted, tmp_path / "run")
    config = config_for(clips, augmentation)
    config.batch.size = 3
    with pytest.raises(ValueError, match="allow_changed_data"):
        train(config, str(tmp_path / "run"))
    config.train.allow_changed_data = True
    config.train.epochs = 5
    train(config, str(tmp_path / "run"))


def test_the_error_for_a_different_network_in_the_workdir_states_both_values(
    clips, augmentation, uninterrupted, tmp_path
):
    shutil.copytree(uninterrupted, tmp_path / "run")
    config = config_for(clips, augmentation)
    config.model.rnn_size = 13
    with pytest.raises(ValueError, match="rnn_size is 12 here and 13 there"):
        train(config, str(tmp_path / "run"))


def test_the_best_checkpoint_and_the_last_ones_are_kept(uninterrupted):
    records = [json.loads(line) for line in (uninterrupted / "metrics.jsonl").read_text().splitlines()]
    names = ("dev_wer", "dev_cer", "dev_loss")
    scores = {record["step"]: Score(*(record[name] for name in names)) for record in records if "dev_wer" in record}
    with Checkpoints(str(uninterrupted), read_only=True) as checkpoints:
        best = checkpoints.best()
        kept = sorted(int(path.name) for path in (uninterrupted / "checkpoints").iterdir())
    assert best == min(scores, key=lambda step: (*scores[step].key, step))
    assert {best, *sorted(scores)[-2:]} == set(kept)


def test_clips_outside_the_duration_limits_are_excluded_from_the_statistics(clips, tmp_path):
    excluded = {"audio_filepath": "missing.wav", "duration": 3600.0, "text": "yes"}
    train_manifest = tmp_path / "train.jsonl"
    chosen = manifest.read(clips)
    manifest.write(
        train_manifest,
        [
            {"audio_filepath": chosen.audio[row], "duration": chosen.duration[row], "text": chosen.text[row]}
            for row in range(6)
        ]
        + [excluded] * 3,
    )
    config = small_config(train_manifest)
    config.data.max_duration_s = 60.0
    training = settings.read_training(config)
    meta = describe_model(training, read_manifests(training.data).train, str(tmp_path))
    alone = stats.compute(chosen.clips.take(np.arange(6)), meta.features)
    assert meta.stats is not None
    np.testing.assert_array_equal(meta.stats.mean, alone.mean)


def test_bad_utterances_are_skipped_and_reported(clips, tmp_path, caplog):
    rows = [json.loads(line) for line in clips.read_text().splitlines()]
    for row in rows:
        row["audio_filepath"] = str(clips.parent / row["audio_filepath"])
    rows[0]["text"] = "pay 5 €"  # characters outside the vocabulary
    rows[1]["audio_filepath"] = str(tmp_path / "missing.flac")
    rows[2]["text"] = "much too long for its audio " * 20
    manifest = tmp_path / "bad.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    vocabulary = tmp_path / "vocabulary.txt"
    vocabulary.write_text("".join(c + "\n" for c in " 'abcdefghijklmnopqrstuvwxyz"))
    config = small_config(manifest)
    config.vocabulary = str(vocabulary)
    config.data.max_bad_share = 0.5
    config.train.epochs = 1
    train(config, str(tmp_path / "run"))
    for line in (1, 2, 3):
        assert f"{manifest}:{line}" in caplog.text


def test_too_many_bad_utterances_stop_the_run(clips, tmp_path):
    rows = [json.loads(line) for line in clips.read_text().splitlines()]
    manifest = tmp_path / "missing.jsonl"  # in a folder without audio
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = small_config(manifest)
    config.features.normalisation = "utterance"
    with pytest.raises(ValueError, match="max_bad_share"):
        train(config, str(tmp_path / "run"))


def test_corpora_of_8_and_16_khz_train_together(clips, tmp_path, caplog):
    recordings = {
        f"recordings/{digit}_{speaker}_{number}.wav": corpus_archives.clip(number, "WAV", 8_000)
        for digit, speaker in enumerate(("george", "jackson"))
        for number in (0, 5, 10, 11)
    }
    source = corpus_archives.write_tree(tmp_path / "source", recordings)
    assert prepare.main(["fsdd", f"--source={source}", f"--target_dir={tmp_path / 'fsdd'}"]) == 0
    config = small_config(f"{tmp_path / 'fsdd' / 'train.jsonl'},{clips}")
    config.batch.buckets = 1
    config.train.epochs = 1
    train(config, str(tmp_path / "run"))
    losses = [loss for _, loss in loss_curve(tmp_path / "run")]
    assert len(losses) == 4  # 4 and 12 utterances, 4 per step
    assert np.isfinite(losses).all()
    assert "4 of 16 clips checked were recorded below the model's 16000 Hz and are upsampled" in caplog.text
    assert caplog.text.count("upsampled") == 1


def add_row(clips, path, tone, seconds: float) -> str:
    """Write a manifest of the clips and one of a tone of this length; return its path."""
    rows = [json.loads(line) for line in clips.read_text().splitlines()]
    rows = [row | {"audio_filepath": str(clips.parent / row["audio_filepath"])} for row in rows]
    manifest.write(path, [*rows, {"audio_filepath": tone("long.wav", seconds), "duration": seconds, "text": "a"}])
    return str(path)


def test_a_dev_row_that_is_too_long_is_reported_once_before_the_first_step(clips, tone, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    config = small_config(clips)
    config.data.dev = config.data.test = add_row(clips, tmp_path / "dev.jsonl", tone, 12.0)
    config.batch.eval_seconds = 10.0
    config.train.epochs = 2
    results = train(config, str(tmp_path / "run"))
    assert results["utterances"] == len(clips.read_text().splitlines())
    reported = [m for m in caplog.messages if "12 s are more than config.batch.eval_seconds=10" in m]
    assert len(reported) == 1
    assert "long.wav" in reported[0]
    assert caplog.messages.index(reported[0]) < min(i for i, m in enumerate(caplog.messages) if m.startswith("step "))


def test_a_dev_set_that_cannot_be_evaluated_stops_a_training_before_its_first_step(clips, tmp_path):
    config = small_config(clips)
    config.data.dev = str(clips)
    config.batch.eval_seconds = 0.2
    with pytest.raises(ValueError, match="none of the 12 utterances can be used"):
        train(config, str(tmp_path / "run"))
    assert not loss_curve(tmp_path / "run")


@pytest.mark.slow
def test_a_few_utterances_are_learnt_by_heart(clips, tmp_path):
    config = small_config(clips)
    config.data.dev = config.data.test = str(clips)
    config.model.conv = "11x11/3x2:8"
    config.model.rnn_size = 64
    config.optim.learning_rate = 5e-3
    config.train.epochs = 150
    config.train.eval_every = 50
    config.train.patience = 0
    results = train(config, str(tmp_path / "run"))
    assert results["wer"] == 0.0
