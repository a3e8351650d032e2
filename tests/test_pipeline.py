"""Batches of real clips: their contract, the same from threads and processes, and patient with bad clips."""

import functools
import itertools
import json
import operator
import subprocess
import sys

import grain
import numpy as np
import pytest

from input_pipeline import manifest
from input_pipeline.augment import Augmentation
from input_pipeline.batch_plan import BatchSettings
from input_pipeline.corpus import Corpus, Loading, describe_upsampling
from input_pipeline.features import FeatureSettings
from input_pipeline.pipeline import Labels, encode_transcripts
from input_pipeline.text import Vocabulary
from tests.runs import ROOT

CONTRACT = {
    "spectrogram": np.float32,
    "frames": np.int32,
    "labels": np.int32,
    "label_lengths": np.int32,
    "valid": np.bool_,
    "utterance": np.int32,
}


@pytest.fixture(scope="module")
def augmentation(tmp_path_factory) -> Augmentation:
    path = tmp_path_factory.mktemp("augment") / "a.json"
    speed = {"type": "speed", "params": {"min_speed_rate": 0.9, "max_speed_rate": 1.1}, "prob": 0.8}
    masks = {
        "type": "specaugment",
        "params": {"n_freq_masks": 1, "F": 5, "n_time_masks": 1, "T": 9, "p": 0.2},
        "prob": 1,
    }
    path.write_text(json.dumps([speed, masks]))
    return Augmentation.load(path, 16000)


def make_corpus(path, augmentation=None, size=5, **loading) -> Corpus:
    utterances = manifest.read(path)
    labels, _ = encode_transcripts(utterances, Vocabulary.build(utterances.text), "en")
    settings = FeatureSettings(kind="fbank", mel_bins=20)
    batch = BatchSettings(size=size, buckets=2)
    return Corpus(
        utterances,
        labels,
        settings,
        "utterance",
        None,
        batch,
        augmentation or Augmentation(),
        loading=Loading(**loading),
    )


def load(corpus: Corpus, epoch=1, first=0) -> list[dict]:
    return list(corpus.batches(corpus.epoch(epoch)[first:]))


def assert_equal(a: list[dict], b: list[dict]) -> None:
    assert len(a) == len(b)
    for one, other in zip(a, b, strict=True):
        for name in CONTRACT:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_batches_keep_their_contract(clips):
    corpus = make_corpus(clips, multiple=4)
    for spec, batch in zip(corpus.epoch(1), load(corpus), strict=True):
        assert batch["spectrogram"].shape == (8, spec.frames, 20)  # 5 rows, filled up to a multiple of 4
        for name, dtype in CONTRACT.items():
            assert batch[name].dtype == dtype
        filling = batch["utterance"] < 0
        assert filling.sum() == 8 - len(spec.utterances)
        assert not batch["valid"][filling].any()
        assert batch["valid"][~filling].all()
        for row in np.flatnonzero(~filling):
            assert (batch["spectrogram"][row, batch["frames"][row] :] == 0).all()
            assert corpus.labels is not None
            text = corpus.labels[batch["utterance"][row]]
            np.testing.assert_array_equal(batch["labels"][row, : batch["label_lengths"][row]], text)


def test_threads_and_processes_give_the_same_batches(clips, augmentation):
    one = load(make_corpus(clips, augmentation, threads=1))
    assert_equal(one, load(make_corpus(clips, augmentation, threads=4)))
    assert_equal(one, load(make_corpus(clips, augmentation, workers=2)))


def test_epochs_are_augmented_anew_and_resuming_repeats_the_rest(clips, augmentation):
    corpus = make_corpus(clips, augmentation)
    whole = load(corpus)
    assert_equal(whole[1:], load(corpus, first=1))
    by_utterance = [
        {u: f for b in load(corpus, e) for u, f in zip(b["utterance"], b["frames"], strict=True)} for e in (1, 2)
    ]
    assert by_utterance[0] != by_utterance[1]


def test_two_hosts_load_the_two_halves(clips, augmentation):
    whole = load(make_corpus(clips, augmentation, multiple=2))
    halves = [load(make_corpus(clips, augmentation, multiple=2, process=p, processes=2)) for p in (0, 1)]
    joined = [{n: np.concatenate([a[n], b[n]]) for n in CONTRACT} for a, b in zip(*halves, strict=True)]
    assert_equal(whole, joined)


def test_bad_clips_become_rows_that_do_not_count(clips, tmp_path):
    rows = [json.loads(line) for line in clips.read_text().splitlines()][:5]
    for row in rows:
        row["audio_filepath"] = str(clips.parent / row["audio_filepath"])
    (tmp_path / "empty.wav").write_bytes(b"")
    rows[1]["audio_filepath"] = str(tmp_path / "nowhere.wav")
    rows[2]["audio_filepath"] = str(tmp_path / "empty.wav")
    rows[3]["duration"] = 0.5  # it lies
    path = tmp_path / "m.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = {
        int(u): p
        for b in load(make_corpus(path, size=1))
        for u, v, p in zip(b["utterance"], b["valid"], b["problem"], strict=True)
        if not v and u >= 0
    }
    assert said.keys() == {1, 2, 3}
    assert "does not exist" in said[1]
    assert "empty" in said[2]
    assert "duration" in said[3]


def test_needed_frames_count_symbols_and_repeats():
    texts = [[1, 1, 2], [], [2, 2, 2, 2], [3], [3, 1]]
    labels = Labels(np.array(functools.reduce(operator.iadd, texts, []), np.int32), np.cumsum([0, *map(len, texts)]))
    expected = [len(t) + sum(a == b for a, b in itertools.pairwise(t)) for t in texts]
    assert labels.needed_frames().tolist() == expected


def test_upsampled_material_is_named(tone, tmp_path):
    path = tone("low.wav", rate=8000)
    line = {"audio_filepath": path, "duration": 1.0, "text": "a"}
    (tmp_path / "m.jsonl").write_text(json.dumps(line) + "\n")
    utterances = manifest.read(tmp_path / "m.jsonl")
    assert "8000" in describe_upsampling(utterances, 16000)
    assert describe_upsampling(utterances, 8000) == ""


def jax_backend_runs(batch: dict) -> dict:
    from jax._src import xla_bridge

    return {"runs": np.array([xla_bridge.backends_are_initialized()])}


def test_worker_processes_start_no_jax_backend(clips):
    corpus = make_corpus(clips)
    dataset = grain.MapDataset.source(load(corpus)).map(jax_backend_runs).to_iter_dataset()
    iterator = iter(dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=1)))
    assert not next(iterator)["runs"][0]
    iterator.close()


def test_reading_data_does_not_import_jax():
    modules = "audio features stats text manifest doctor augment batch_plan prepare"
    code = f"import sys, importlib; [importlib.import_module('input_pipeline.' + m) for m in '{modules}'.split()]"
    result = subprocess.run(
        [sys.executable, "-c", f"{code}; print('jax' in sys.modules)"], cwd=ROOT, capture_output=True, text=True
    )
    assert result.stdout.strip() == "False", result.stderr
