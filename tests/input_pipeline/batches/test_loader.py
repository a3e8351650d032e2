"""Batches of real clips: their contract, the same results from threads and processes, and tolerance of bad clips."""

import itertools
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import grain
import jax
import numpy as np
import pytest

from input_pipeline import manifest
from input_pipeline.audio.features import FeatureSettings
from input_pipeline.audio.front_end import FrontEnd
from input_pipeline.augment import Augmentation
from input_pipeline.batches.corpus import Corpus
from input_pipeline.batches.labels import Labels, encode_transcripts
from input_pipeline.batches.loader import BatchLoader, BatchSpec, LoadSettings, RowShare
from input_pipeline.batches.plan import BatchSettings
from input_pipeline.columns import Strings
from input_pipeline.text import TextRules, Vocabulary
from tests.runs import slow

CONTRACT = {
    "spectrogram": np.float32,
    "frames": np.int32,
    "labels": np.int32,
    "label_lengths": np.int32,
    "valid": np.bool_,
    "utterance": np.int32,
}


@pytest.fixture(scope="module")
def augmentation(tmp_path_factory, clips) -> Augmentation:
    """Return an augmentation of speed and masks, with the clips as noise and as impulse responses."""
    path = tmp_path_factory.mktemp("augment") / "a.json"
    speed = {"type": "speed", "params": {"min_speed_rate": 0.9, "max_speed_rate": 1.1}, "prob": 0.8}
    masks = {
        "type": "specaugment",
        "params": {"n_freq_masks": 1, "F": 5, "n_time_masks": 1, "T": 9, "p": 0.2},
        "prob": 1,
    }
    noise_params = {"min_snr_dB": 5, "max_snr_dB": 20, "noise_manifest_path": str(clips)}
    noise = {"type": "noise", "params": noise_params, "prob": 0.7}
    room = {"type": "impulse", "params": {"impulse_manifest_path": str(clips)}, "prob": 0.5}
    path.write_text(json.dumps([room, speed, noise, masks]))
    return Augmentation.load(path, 16000)


def make_corpus(path, augmentation=None, size=5, share=None, transfer="", **load) -> Corpus:
    utterances = manifest.read(path)
    labels, _ = encode_transcripts(utterances, Vocabulary.build(utterances.text), TextRules())
    front_end = FrontEnd(FeatureSettings(kind="fbank", mel_bins=20), "utterance")
    batch = BatchSettings(size=size, buckets=2)
    return Corpus(
        utterances,
        labels,
        front_end,
        batch,
        augmentation or Augmentation(),
        load=LoadSettings(**load),
        share=share or RowShare(),
        transfer=transfer,
    )


def load(corpus: Corpus, epoch=1, first=0) -> list[dict]:
    return list(corpus.batches(corpus.plan_epoch(epoch)[first:]))


def assert_equal(a: list[dict], b: list[dict]) -> None:
    assert len(a) == len(b)
    for one, other in zip(a, b, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_batches_keep_their_contract(clips):
    corpus = make_corpus(clips, share=RowShare(multiple=4))
    for spec, batch in zip(corpus.plan_epoch(1), load(corpus), strict=True):
        assert batch.keys() == {*CONTRACT, "problem"}
        assert batch["spectrogram"].shape == (8, spec.frames, 20)  # 5 rows, padded to a multiple of 4
        assert batch["labels"].shape == (8, spec.labels)
        for name, dtype in CONTRACT.items():
            assert batch[name].dtype == dtype
            assert len(batch[name]) == 8
        padding = batch["utterance"] < 0
        assert padding.sum() == 8 - len(spec.utterances)
        assert not batch["valid"][padding].any()
        assert batch["valid"][~padding].all()
        assert (batch["problem"] == "").all()
        for name in ("spectrogram", "frames", "labels", "label_lengths"):
            assert not batch[name][padding].any()
        for row in np.flatnonzero(~padding):
            assert (batch["spectrogram"][row, batch["frames"][row] :] == 0).all()
            assert corpus.labels is not None
            text = corpus.labels[batch["utterance"][row]]
            np.testing.assert_array_equal(batch["labels"][row, : batch["label_lengths"][row]], text)
            assert (batch["labels"][row, batch["label_lengths"][row] :] == 0).all()


SAMPLES = {"samples": np.float32, "gain": np.float32, "masks": np.int32}


@pytest.mark.parametrize("transfer", ["float32", "int16"])
def test_batches_of_samples_keep_their_contract(clips, augmentation, transfer):
    corpus = make_corpus(clips, augmentation, share=RowShare(multiple=4), transfer=transfer)
    contract = {**CONTRACT, **SAMPLES} | {"samples": np.dtype(transfer).type}
    del contract["spectrogram"]
    features = load(make_corpus(clips, augmentation, share=RowShare(multiple=4)))
    for spec, batch, other in zip(corpus.plan_epoch(1), load(corpus), features, strict=True):
        assert batch.keys() == {*contract, "problem"}
        for name, dtype in contract.items():
            assert batch[name].dtype == dtype
            assert len(batch[name]) == 8
        assert batch["samples"].shape == (8, (spec.frames + 1) * 160)  # windows of 320
        assert corpus.inputs.room(batch) == spec.frames
        for name in ("frames", "labels", "label_lengths", "valid", "utterance"):
            np.testing.assert_array_equal(batch[name], other[name])
        for row, frames in enumerate(batch["frames"]):
            assert not batch["samples"][row, (frames + 1) * 160 if frames else 0 :].any()


@pytest.mark.parametrize("transfer", ["", slow("float32"), "int16"])
def test_threads_and_processes_give_the_same_batches(clips, augmentation, transfer):
    one = load(make_corpus(clips, augmentation, transfer=transfer, threads=1))
    assert_equal(one, load(make_corpus(clips, augmentation, transfer=transfer, threads=1)))
    assert_equal(one, load(make_corpus(clips, augmentation, transfer=transfer, threads=4)))
    assert_equal(one, load(make_corpus(clips, augmentation, transfer=transfer, workers=2)))


@pytest.mark.parametrize("transfer", ["", "float32"])
def test_epochs_are_augmented_differently_and_resuming_repeats_the_rest(clips, augmentation, transfer):
    corpus = make_corpus(clips, augmentation, transfer=transfer)
    whole = load(corpus)
    for step in range(1, len(whole)):
        assert_equal(whole[step:], load(corpus, first=step))
    by_utterance = [
        {u: f for b in load(corpus, e) for u, f in zip(b["utterance"], b["frames"], strict=True)} for e in (1, 2)
    ]
    assert by_utterance[0] != by_utterance[1]


@pytest.mark.parametrize("transfer", ["", "float32"])
def test_two_hosts_load_the_two_halves(clips, augmentation, transfer):
    whole = load(make_corpus(clips, augmentation, share=RowShare(multiple=2), transfer=transfer))
    halves = [load(make_corpus(clips, augmentation, share=RowShare(2, p, 2), transfer=transfer)) for p in (0, 1)]
    assert all(2 * len(half["valid"]) == len(b["valid"]) for h in halves for half, b in zip(h, whole, strict=True))
    joined = [{n: np.concatenate([a[n], b[n]]) for n in a} for a, b in zip(*halves, strict=True)]
    assert_equal(whole, joined)


def test_bad_clips_become_rows_that_do_not_count(clips, tmp_path):
    rows = [json.loads(line) for line in clips.read_text().splitlines()][:5]
    for row in rows:
        row["audio_filepath"] = str(clips.parent / row["audio_filepath"])
    (tmp_path / "empty.wav").write_bytes(b"")
    rows[1]["audio_filepath"] = str(tmp_path / "nowhere.wav")
    rows[2]["audio_filepath"] = str(tmp_path / "empty.wav")
    rows[3]["duration"] = 0.5  # too short
    path = tmp_path / "m.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    batches = load(make_corpus(path, size=2))
    loaded = [
        (int(u), bool(v), str(p))
        for b in batches
        for u, v, p in zip(b["utterance"], b["valid"], b["problem"], strict=True)
    ]
    assert {u for u, valid, _ in loaded if valid} == {0, 4}  # not affected by bad rows in the same batch
    problems = {u: problem for u, valid, problem in loaded if not valid and u >= 0}
    assert problems.keys() == {1, 2, 3}
    assert "nowhere.wav does not exist" in problems[1]
    assert "empty" in problems[2]
    assert "correct the duration" in problems[3]
    for batch in batches:  # bad rows have no data
        assert not batch["spectrogram"][~batch["valid"]].any()
        assert not batch["label_lengths"][~batch["valid"]].any()


def test_needed_frames_count_symbols_and_repeats(monkeypatch):
    rng = np.random.default_rng(0)
    drawn = [rng.integers(1, 3, rng.integers(0, 7)).tolist() for _ in range(50)]
    texts = [[], [1, 1, 2], [], [2, 2, 2, 2], [2], [3, 1], *drawn, [1], []]
    symbols = np.array(list(itertools.chain(*texts)), np.int32)
    labels = Labels(symbols, np.cumsum([0, *map(len, texts)]))
    expected = [len(t) + sum(a == b for a, b in itertools.pairwise(t)) for t in texts]
    assert labels.needed_frames().tolist() == expected
    monkeypatch.setattr("input_pipeline.batches.labels.ROWS_AT_ONCE", 7)
    assert labels.needed_frames().tolist() == expected
    rows = rng.permutation(len(texts))[:20]
    assert [labels.select(rows)[i].tolist() for i in range(20)] == [texts[row] for row in rows]


@pytest.mark.parametrize(("characters", "bytes_each"), [(100, 1), (300, 2)])
def test_transcripts_are_stored_in_the_smallest_integer_type(clips, characters, bytes_each):
    vocabulary = Vocabulary(tuple(map(chr, range(ord(" "), ord(" ") + characters))))
    utterances = manifest.read(clips)
    labels, problems = encode_transcripts(utterances, vocabulary, TextRules("none"))
    assert not problems
    assert labels.symbols.nbytes == bytes_each * len(labels.symbols)
    assert [vocabulary.decode(labels[row]) for row in range(len(utterances))] == utterances.text


def test_transcripts_that_cannot_be_encoded_are_empty_and_reported(clips):
    utterances = manifest.read(clips)
    text = Strings(["ab", "", "a\u00e9b", "ba", *utterances.text[4:]])
    labels, problems = encode_transcripts(replace(utterances, text=text), Vocabulary(("a", "b")), TextRules())
    assert [labels[row].tolist() for row in range(4)] == [[1, 2], [], [], [2, 1]]
    assert "empty" in problems[1]
    assert "U+00E9" in problems[2]
    assert problems.keys().isdisjoint({0, 3})


def backend_state() -> np.ndarray:
    """Return whether this process has imported jax, and whether it has started a backend."""
    if "jax" not in sys.modules:
        return np.array([False, False])
    from jax._src import xla_bridge

    return np.array([True, xla_bridge.backends_are_initialized()])


@dataclass(frozen=True)
class LoadAndReport:
    """Function that loads a batch as a worker does, and returns the state of its process afterwards."""

    loader: BatchLoader

    def __call__(self, spec: BatchSpec) -> dict[str, np.ndarray]:
        return {"valid": self.loader(spec)["valid"], "state": backend_state()}


@dataclass(frozen=True)
class StartBackendAndReport:
    """Function that starts a backend, to show that it would be detected."""

    def __call__(self, spec: BatchSpec) -> dict[str, np.ndarray]:
        return {"devices": np.array([jax.device_count()]), "state": backend_state()}


def first_from_a_worker(specs: Sequence[BatchSpec], function: Callable) -> dict[str, np.ndarray]:
    dataset = grain.MapDataset.source(specs).map(function).to_iter_dataset()
    iterator = iter(dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=1)))
    try:
        return {name: np.array(array) for name, array in next(iterator).items()}
    finally:
        iterator.close()


def test_worker_processes_start_no_jax_backend(clips, augmentation):
    corpus = make_corpus(clips, augmentation)
    report = first_from_a_worker(corpus.plan_epoch(1), LoadAndReport(corpus.make_loader()))
    assert report["valid"].any()
    assert not report["state"][1]


def test_a_backend_in_a_worker_process_would_be_detected(clips):
    assert first_from_a_worker(make_corpus(clips).plan_epoch(1), StartBackendAndReport())["state"].all()
