"""Evaluation of manifests: long utterances do not change the others, and memory is bounded whatever a row's length."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

import ds2_jax
from decoding.scoring.error_rate import summarise
from ds2_jax.artifacts.bundle import ModelMeta
from ds2_jax.network.model import ModelSettings, init_variables
from ds2_jax.parallel import sharding
from ds2_jax.recognition.evaluation import EvaluationSettings, Evaluator, evaluate
from input_pipeline import manifest as manifests
from input_pipeline.audio.features import FeatureSettings
from input_pipeline.batches.plan import BatchSettings
from input_pipeline.manifest import Manifest
from input_pipeline.text import ScoringRules, Vocabulary
from tests.runs import ROOT

GIB = 2**30


def settings(seconds: float) -> EvaluationSettings:
    return EvaluationSettings(BatchSettings(size=6, seconds=seconds, buckets=2, shuffle="none"))


@pytest.fixture(scope="module")
def model():
    """A small network with random parameters."""
    network = ModelSettings(conv="5x5/3x2:4", rnn_size=12, rnn_layers=1)
    features = FeatureSettings(kind="fbank", mel_bins=20)
    meta = ModelMeta(network, features, "utterance", None, Vocabulary(tuple("abcdefghijklmnopqrstuvwxyz ")), "en")
    return meta, init_variables(meta.network, meta.feature_size, seed=0)


def among_clips(clips: Path, path: Path, rows: list[dict]) -> Manifest:
    """Write and read a manifest of the clips with other rows between them."""
    own = [json.loads(line) for line in clips.read_text().splitlines()]
    own = [row | {"audio_filepath": str(clips.parent / row["audio_filepath"])} for row in own]
    manifests.write(path, [*own[:5], *rows, *own[5:]])
    return manifests.read(path)


def joined(clips: Path, path: Path, seconds: float) -> dict:
    """Write a recording of the clips, joined and repeated; return its row."""
    parts = [soundfile.read(clips.parent / row["audio_filepath"], dtype="int16")[0] for row in manifests.records(clips)]
    once = np.concatenate(parts)
    samples = int(seconds * 16000)
    soundfile.write(path, np.resize(once, samples), 16000)
    return {"audio_filepath": str(path), "duration": seconds, "text": "a"}


def test_long_utterances_do_not_change_the_others(model, clips, tmp_path):
    rows = [joined(clips, tmp_path / "20.flac", 20.0), joined(clips, tmp_path / "40.flac", 40.0)]
    meta, variables = model
    evaluator = Evaluator(meta, sharding.make_mesh(), settings(seconds=30.0), all_symbols=True)
    alone, _ = evaluator.log_probs(variables, evaluator.corpus(manifests.read(clips)))
    mixed = among_clips(clips, tmp_path / "mixed.jsonl", rows)
    corpus = evaluator.corpus(mixed)
    found, problems = evaluator.log_probs(variables, corpus)
    assert all(bucket.rows == 1 or bucket.rows * bucket.frames <= 3000 for bucket in corpus.buckets)
    assert sorted(found) == [row for row in range(14) if row != 6]
    assert problems.keys() == {6}
    assert "40 s are more than config.batch.eval_seconds=30" in problems[6]
    for row, log_probs in alone.items():
        np.testing.assert_array_equal(found[row if row < 5 else row + 2], log_probs)


def test_what_cannot_be_used_is_reported_once_with_file_and_line(model, clips, tmp_path, caplog):
    manifest = among_clips(
        clips, tmp_path / "mixed.jsonl", [{"audio_filepath": "none.wav", "duration": 1.0, "text": "a"}]
    )
    meta, variables = model
    evaluator = Evaluator(meta, sharding.make_mesh(), settings(seconds=30.0))
    for _ in range(2):
        assert evaluator.measure(variables, manifest).problems.keys() == {5}
    [warning] = [record.getMessage() for record in caplog.records if "cannot be used" in record.getMessage()]
    assert warning.startswith("1 of 13 utterances cannot be used")
    assert "mixed.jsonl:6" in warning


def test_a_batch_that_exceeds_the_memory_names_its_longest_utterance(model, clips, tmp_path):
    row = {"audio_filepath": "endless.wav", "duration": 9e8, "text": "a"}
    manifest = among_clips(clips, tmp_path / "mixed.jsonl", [row])
    meta, variables = model
    evaluator = Evaluator(meta, sharding.make_mesh(), settings(seconds=1e9))
    with pytest.raises(MemoryError, match=r"mixed\.jsonl:6 \(endless\.wav\).*9e\+08 s.*eval_seconds"):
        evaluator.probe(variables, manifest)


def test_texts_that_the_network_cannot_write_are_named_and_have_no_loss(clips, tmp_path, caplog):
    folder = clips.parent
    rows = [
        row | {"audio_filepath": str(folder / row["audio_filepath"]), "text": "你好"}
        for row in manifests.records(clips)
    ]
    manifests.write(tmp_path / "zh.jsonl", rows)
    manifest = manifests.read_many(str(tmp_path / "zh.jsonl"))
    evaluation = evaluate(ds2_jax.load("an4", engine="greedy"), manifest, settings(seconds=16))
    assert math.isnan(evaluation.loss)
    [warning] = [record.getMessage() for record in caplog.records if "cannot be written" in record.getMessage()]
    assert f"{len(rows)} of {len(rows)} texts of" in warning
    assert "zh.jsonl:1" in warning


def test_long_utterances_are_recognised_in_parts(clips, tmp_path):
    rows = [*manifests.records(clips)] * 2
    seconds = sum(row["duration"] for row in rows)
    long = joined(clips, tmp_path / "long.flac", seconds) | {"text": " ".join(row["text"] for row in rows)}
    manifest = among_clips(clips, tmp_path / "mixed.jsonl", [long])
    evaluation = evaluate(ds2_jax.load("an4", engine="greedy"), manifest, settings(seconds=seconds - 1))
    assert not evaluation.problems
    assert evaluation.references[5] == long["text"]
    rules = ScoringRules.for_language("en")
    assert summarise(evaluation.references[5:6], evaluation.hypotheses[5:6], rules=rules).as_dict()["wer"] < 0.1
    assert math.isfinite(evaluation.loss)


@pytest.mark.slow
def test_the_memory_of_an_evaluation_is_bounded_with_an_hour_among_short_clips(clips, tmp_path):
    peaks = []
    lengths_s = [(), (60.0, 290.0, 3600.0)]
    for name, lengths in zip(("short", "long"), lengths_s, strict=True):
        rows = [joined(clips, tmp_path / f"{length:g}.flac", length) for length in lengths]
        manifest = tmp_path / f"{name}.jsonl"
        among_clips(clips, manifest, rows)
        flags = ["--mode=eval", "--config.restore=models/an4", f"--config.data.test={manifest}"]
        environment = os.environ | {"XLA_FLAGS": ""}
        with subprocess.Popen(
            [sys.executable, "main.py", *flags], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL
        ) as process:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        peaks.append(usage.ru_maxrss * 1024)
    assert peaks[1] - peaks[0] < GIB
