"""The batch plan: each utterance once, in a shape that fits, with little padding, reproducible from its seed."""

import dataclasses
import itertools
import json
import pickle
import time
import tracemalloc

import numpy as np
import pytest

from input_pipeline import manifest
from input_pipeline.audio.features import FeatureSettings
from input_pipeline.audio.front_end import FrontEnd
from input_pipeline.augment import Augmentation
from input_pipeline.batches.corpus import Corpus
from input_pipeline.batches.labels import Labels
from input_pipeline.batches.plan import (
    SHUFFLES,
    BatchSettings,
    _minimise_padding,
    choose_buckets,
    epoch_rows,
    padding_share,
    plan_epoch,
)

FRAME_S = 0.01


@pytest.fixture(scope="module")
def lengths() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    frames = rng.integers(50, 700, 203)
    return frames, frames // 12


def plan_of(lengths, epoch=1, seed=3, **settings):
    chosen = BatchSettings(**{"size": 8, "buckets": 5, **settings})
    buckets = choose_buckets(lengths[0], lengths[1], chosen, FRAME_S)
    return plan_epoch(lengths[0], buckets, chosen, seed, epoch)


@pytest.mark.parametrize("shuffle", [name for name in SHUFFLES if name != "batch_shuffle_clipped"])
@pytest.mark.parametrize("batch", [{"size": 8}, {"size": 0, "seconds": 30.0}])
def test_each_row_is_in_the_plan_once(lengths, shuffle, batch):
    plan = plan_of(lengths, shuffle=shuffle, **batch)
    assert sorted(itertools.chain(*(b.rows for b in plan))) == list(range(203))


@pytest.mark.parametrize("batch", [{"size": 8}, {"size": 0, "seconds": 30.0}, {"size": 0, "seconds": 60.0}])
def test_clipping_skips_only_rows_at_both_ends(lengths, batch):
    largest = choose_buckets(lengths[0], lengths[1], BatchSettings(**batch, buckets=5), FRAME_S)[0].rows
    for epoch in range(1, 6):
        plan = plan_of(lengths, epoch, shuffle="batch_shuffle_clipped", **batch)
        assert all(len(b.rows) == b.bucket.rows for b in plan)
        rows = np.concatenate([b.rows for b in plan])
        assert len(set(rows)) == len(rows) >= 203 - 2 * (largest - 1)
        kept, skipped = lengths[0][rows], np.delete(lengths[0], rows)
        assert ((skipped <= kept.min()) | (skipped >= kept.max())).all()


def test_an_epoch_too_small_for_a_full_batch_is_not_clipped():
    frames = np.array([50, 60, 70])
    plan = plan_of((frames, frames // 12), shuffle="batch_shuffle_clipped")
    assert sorted(itertools.chain(*(b.rows for b in plan))) == [0, 1, 2]


@pytest.mark.parametrize("shuffle", SHUFFLES)
@pytest.mark.parametrize("batch", [{"size": 8}, {"size": 0, "seconds": 20.0}])
def test_each_batch_fits_its_bucket(lengths, shuffle, batch):
    for planned in plan_of(lengths, shuffle=shuffle, **batch):
        assert lengths[0][planned.rows].max() <= planned.bucket.frames
        assert lengths[1][planned.rows].max() <= planned.bucket.labels
        assert 0 < len(planned.rows) <= planned.bucket.rows
        if "seconds" in batch:
            assert planned.bucket.rows * planned.bucket.frames * FRAME_S <= 20.0


def flat(plan) -> list[tuple[int, ...]]:
    return [tuple(b.rows) for b in plan]


@pytest.mark.parametrize("shuffle", [name for name in SHUFFLES if name != "none"])
def test_the_order_depends_on_seed_and_epoch(lengths, shuffle):
    assert flat(plan_of(lengths, shuffle=shuffle)) == flat(plan_of(lengths, shuffle=shuffle))
    assert flat(plan_of(lengths, shuffle=shuffle)) != flat(plan_of(lengths, shuffle=shuffle, epoch=2))
    assert flat(plan_of(lengths, shuffle=shuffle)) != flat(plan_of(lengths, shuffle=shuffle, seed=4))


def test_sortagrad_sorts_only_the_first_epoch_by_length(lengths):
    longest = [lengths[0][b.rows].max() for b in plan_of(lengths, epoch=0)]
    assert longest == sorted(longest)
    assert flat(plan_of(lengths, epoch=0)) != flat(plan_of(lengths, epoch=0, sortagrad=False))
    later = [lengths[0][b.rows].max() for b in plan_of(lengths, epoch=1)]
    assert later != sorted(later)


@pytest.mark.parametrize("buckets", [1, 2, 4, 9, 12])
def test_bucket_lengths_minimise_padding(buckets):
    rng = np.random.default_rng(buckets)
    lengths = np.sort(rng.choice(np.arange(1, 60), 9, replace=False))
    counts = rng.integers(1, 20, 9)

    def cost(ends):
        return sum(c * min(e for e in ends if e >= n) for n, c in zip(lengths, counts, strict=True))

    inner = itertools.combinations(lengths[:-1], min(buckets, 9) - 1)
    assert cost(_minimise_padding(lengths, counts, buckets)) == min(cost((*ends, lengths[-1])) for ends in inner)


def test_stretched_utterances_and_their_labels_fit(lengths):
    settings = BatchSettings(size=8, buckets=5)
    buckets = choose_buckets(lengths[0], lengths[1], settings, FRAME_S, stretch=(0.8, 1.3))
    for factor in (0.8, 1.3, np.random.default_rng(2).uniform(0.8, 1.3, 203)):
        stretched = np.ceil(lengths[0] * factor).astype(int)
        for planned in plan_epoch(stretched, buckets, settings, 0, 1):
            assert stretched[planned.rows].max() <= planned.bucket.frames
            assert lengths[1][planned.rows].max() <= planned.bucket.labels


def corpus_of(tmp_path, durations, label_lengths=None, weights=(1,), speed=None, window_ms=20.0, **batch) -> Corpus:
    """Build a corpus of clips that are never read, from durations [source][clip] in seconds."""
    paths = []
    for source, clips in enumerate(durations):
        path = tmp_path / f"{source}.jsonl"
        lines = [json.dumps({"audio_filepath": "x.wav", "duration": float(d), "text": "a"}) for d in clips]
        path.write_text("\n".join(lines))
        paths.append(f"{path}:{weights[source]}")
    augment = ""
    if speed is not None:
        augment = tmp_path / "augment.json"
        params = {"min_speed_rate": speed, "max_speed_rate": speed}
        augment.write_text(json.dumps([{"type": "speed", "params": params, "prob": 1}]))
    labels = None
    if label_lengths is not None:
        labels = Labels(np.ones(sum(label_lengths), np.int32), np.cumsum([0, *label_lengths]))
    return Corpus(
        manifest.read_many(",".join(paths)),
        labels,
        FrontEnd(FeatureSettings(window_ms=window_ms), "utterance"),
        BatchSettings(**{"size": 1, "shuffle": "none", **batch}),
        Augmentation.load(augment, 16000),
    )


@pytest.mark.parametrize("window_ms", [10.0, 20.0, 40.0])  # frames overlap by 0, 1 and 3 strides
@pytest.mark.parametrize("speed", [0.5, 0.85, 1.0, 1.15, 2.0])
def test_clips_and_labels_fit_at_any_speed_and_window(tmp_path, window_ms, speed):
    for longest in np.arange(0.3, 0.38, 0.002):  # with and without spare frames in the longest bucket
        durations = np.arange(0.2, longest, 0.007).round(3)
        label_lengths = np.random.default_rng(0).integers(1, 40, len(durations))
        corpus = corpus_of(tmp_path, [durations], label_lengths, speed=speed, window_ms=window_ms, buckets=12)
        for spec in corpus.plan_epoch(1):  # raises if a clip is longer than the longest bucket
            assert label_lengths[spec.utterances].max() <= spec.labels


def test_labels_of_a_clip_that_just_fits_a_bucket_fit_too(tmp_path):
    # 16 and 15 frames: the bucket of 16 must fit the 14 labels of the first
    corpus = corpus_of(tmp_path, [[0.175, 0.165, 1.0]], [14, 1, 3], buckets=3)
    labels = {int(spec.utterances[0]): spec.labels for spec in corpus.plan_epoch(1)}
    assert labels[0] >= 14


def test_a_share_of_a_manifest_is_planned_with_the_duration_unit_of_the_whole(tmp_path):
    # One clip of the second manifest is drawn: 1.5 s alone looks rounded to 0.1 s, which would add 5 frames to every
    # clip, so that the longest, of 679 frames, would not fit the bucket of 680.
    corpus = corpus_of(tmp_path, [[2.03, 6.803], [1.5, 2.53]], weights=(1, 0.5), buckets=2)
    assert corpus.buckets[-1].frames == 680
    drawn = [int(u) for epoch in range(1, 9) for spec in corpus.plan_epoch(epoch) for u in spec.utterances if u >= 2]
    assert set(drawn) == {2, 3}


def test_weights_repeat_and_sample_utterances():
    source = np.repeat([0, 1, 2], [10, 6, 8])
    utterance, copy = epoch_rows(source, (1.0, 2.0, 0.5), seed=0, epoch=1)
    counts = np.bincount(utterance, minlength=24)
    assert (counts[:10] == 1).all()
    assert (counts[10:16] == 2).all()
    assert counts[16:].sum() == 4
    assert sorted(copy[utterance == 10]) == [0, 1]
    again, _ = epoch_rows(source, (1.0, 2.0, 0.5), seed=0, epoch=1)
    assert again.tolist() == utterance.tolist()
    other, _ = epoch_rows(source, (1.0, 2.0, 0.5), seed=0, epoch=2)
    assert set(other[other >= 16]) != set(utterance[utterance >= 16])


def test_weights_that_leave_no_utterance_are_refused():
    with pytest.raises(ValueError, match=r"weights.*0\.3"):
        epoch_rows(np.zeros(1, np.int32), (0.3,), seed=0, epoch=1)


def test_an_utterance_beyond_the_longest_bucket_is_refused(lengths):
    settings = BatchSettings(size=8, buckets=5)
    buckets = choose_buckets(lengths[0], lengths[1], settings, FRAME_S)
    with pytest.raises(ValueError, match="9999 frames"):
        plan_epoch(np.array([60, 9999]), buckets, settings, 0, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 8, "seconds": -9.0}, r"batch\.size is 8 .*batch\.seconds is -9"),
        ({"size": 0, "seconds": 0.0}, r"batch\.size is 0"),
        ({"size": -1}, r"batch\.size is -1"),
        ({"buckets": 0}, r"batch\.buckets is 0"),
        ({"shuffle": "riffle"}, r"batch\.shuffle is 'riffle'.*batch_shuffle_clipped"),
    ],
)
def test_errors_for_invalid_settings_state_field_and_value(settings, message):
    with pytest.raises(ValueError, match=message):
        BatchSettings(**settings)


def test_planned_padding_on_an4_is_below_a_tenth_with_the_recipes_augmentation(speech):
    # The 5 frames added for durations rounded to 0.1 s are padding too, but are not counted here.
    an4 = manifest.read(speech / "an4" / "train.jsonl")
    frames = np.ceil((an4.duration + an4.duration_unit_s / 2) * 100).astype(int)
    settings = BatchSettings(size=16, buckets=12, shuffle="batch_shuffle_clipped")
    buckets = choose_buckets(frames, np.array([len(t) for t in an4.text]), settings, FRAME_S, (1 / 1.15, 1 / 0.85))
    stretched = np.ceil(frames / np.random.default_rng(0).uniform(0.85, 1.15, len(frames))).astype(int)
    shares = [padding_share(plan_epoch(stretched, buckets, settings, 0, epoch), stretched) for epoch in range(1, 6)]
    assert np.mean(shares) < 0.10


def cut_one_by_one(order, frames, buckets) -> list[tuple[list[int], int]]:
    """Cut batches one at a time, each in the smallest bucket that fits all its rows: a slow reference."""
    batches, start = [], 0
    while start < len(order):
        for bucket in buckets:
            rows = order[start : start + bucket.rows]
            if frames[rows[0]] <= bucket.frames and frames[rows].max() <= bucket.frames:
                break
        batches.append((rows.tolist(), bucket.frames))
        start += len(rows)
    return batches


@pytest.mark.parametrize("shuffle", SHUFFLES)
@pytest.mark.parametrize("batch", [{"size": 8}, {"size": 1}, {"size": 0, "seconds": 30.0}, {"size": 300}])
def test_batches_equal_those_of_the_slow_reference(lengths, shuffle, batch):
    frames, settings = lengths[0], BatchSettings(**batch, buckets=5, shuffle=shuffle)
    buckets = choose_buckets(frames, lengths[1], settings, FRAME_S)
    rng = np.random.default_rng([3, 1])
    order = rng.permutation(203)
    if shuffle == "none":
        expected = cut_one_by_one(np.argsort(frames, kind="stable"), frames, buckets)
    elif shuffle == "instance_shuffle":
        smallest = np.searchsorted([bucket.frames for bucket in buckets], frames)
        whole = [cut_one_by_one(order[smallest[order] == index], frames, buckets) for index in range(len(buckets))]
        batches = list(itertools.chain(*whole))
        expected = [batches[i] for i in rng.permutation(len(batches))]
    else:
        order = order[np.argsort(frames[order], kind="stable")]
        first = int(rng.integers(min(buckets[0].rows, 203)))
        size = {bucket.frames: bucket.rows for bucket in buckets}
        batches = cut_one_by_one(order[first:], frames, buckets)
        full = [batch for batch in batches if len(batch[0]) == size[batch[1]]]
        expected = [full[i] for i in rng.permutation(len(full))]
        if shuffle == "batch_shuffle" or not full:
            expected += [batch for batch in batches if batch not in full]
            expected += cut_one_by_one(order[:first], frames, buckets)
    plan = plan_epoch(frames, buckets, settings, 3, 1)
    assert [(b.rows.tolist(), b.bucket.frames) for b in plan] == expected
    assert [(b.rows.tolist(), b.bucket.frames) for b in plan[2:]] == expected[2:]
    capacity = sum(b.bucket.rows * b.bucket.frames for b in plan)
    assert padding_share(plan, frames) == pytest.approx(1 - sum(frames[b.rows].sum() for b in plan) / capacity)


@pytest.mark.parametrize("batch", [{"size": 64}, {"size": 1}, {"size": 0, "seconds": 600.0}])
def test_a_million_utterances_are_planned_in_seconds_with_little_memory(batch):
    frames = np.random.default_rng(0).integers(100, 2700, 1_000_000)
    settings = BatchSettings(**batch, buckets=10)
    tracemalloc.start()
    start = time.process_time()
    plan = plan_epoch(frames, choose_buckets(frames, frames // 10, settings, FRAME_S), settings, 0, 1)
    assert time.process_time() - start < 30  # most of it is spent by tracemalloc; quadratic planning would take hours
    assert tracemalloc.get_traced_memory()[1] < 200e6
    tracemalloc.stop()
    assert np.array_equal(np.sort(np.concatenate([b.rows for b in plan])), np.arange(1_000_000))
    assert len(pickle.dumps(plan)) < 32 * 1_000_000 + 10_000  # columns


@pytest.mark.parametrize("shuffle", SHUFFLES)
@pytest.mark.parametrize("outliers", [(2990,), (2990, 2200, 5000), (2500,) * 12])
def test_an_outlier_costs_its_own_length_and_changes_no_other_batch(lengths, shuffle, outliers):
    settings = BatchSettings(size=8, buckets=5, shuffle=shuffle)
    frames = np.insert(lengths[0], 100, outliers)
    ordinary = choose_buckets(lengths[0], lengths[1], settings, FRAME_S)
    buckets = choose_buckets(frames, frames // 12, settings, FRAME_S)
    assert buckets[:5] == ordinary
    for bucket in buckets[5:]:
        assert bucket.rows <= len(outliers)
        assert bucket.rows == 1 or bucket.rows * bucket.frames <= 8 * 3 * 700
        assert bucket.frames < 2 * max(outliers)
    for epoch in range(3):
        plan = plan_epoch(frames, buckets, settings, 3, epoch)
        rows = np.concatenate([b.rows for b in plan])
        assert len(set(rows)) == len(rows)
        assert set(range(100, 100 + len(outliers))) <= set(rows.tolist())
        for planned in plan:
            is_long = frames[planned.rows] > 700
            assert is_long.all() if planned.bucket.outliers else not is_long.any()


def test_outliers_of_half_a_manifest_are_none():
    frames = np.repeat([200, 3000], [20, 20])
    buckets = choose_buckets(frames, frames // 12, BatchSettings(size=16, buckets=2), FRAME_S)
    assert [(bucket.rows, bucket.outliers) for bucket in buckets] == [(16, False), (16, False)]


def test_size_and_seconds_limit_a_batch_together(lengths):
    settings = BatchSettings(size=8, seconds=20.0, buckets=5)
    for bucket in choose_buckets(lengths[0], lengths[1], settings, FRAME_S):
        assert bucket.rows == min(8, int(20.0 / (bucket.frames * FRAME_S)))


def test_an_utterance_longer_than_the_seconds_of_a_batch_is_a_batch_of_its_own():
    frames = np.array([100, 100, 900, 2500])
    buckets = choose_buckets(frames, frames // 12, BatchSettings(size=0, seconds=4.0, buckets=3), FRAME_S)
    assert [bucket.rows for bucket in buckets] == [4.0 // (buckets[0].frames * FRAME_S), 1, 1]
    assert buckets[0].rows > 1
    settings = BatchSettings(size=0, seconds=4.0, buckets=3)
    plan = plan_epoch(frames, buckets, settings, seed=0, epoch=0)
    assert sorted(itertools.chain(*(planned.rows for planned in plan))) == [0, 1, 2, 3]


def test_the_rows_of_outliers_have_no_more_audio_than_a_batch_of_the_longest_others():
    frames = np.concatenate([np.full(97, 200), [2000, 2100], [50_000]])
    ordinary, *outliers = choose_buckets(frames, frames // 12, BatchSettings(size=16, buckets=1), FRAME_S)
    assert (ordinary.rows, ordinary.outliers) == (16, False)
    assert [(bucket.rows, bucket.outliers) for bucket in outliers] == [(2, True), (1, True)]
    both = choose_buckets(frames, frames // 12, BatchSettings(size=1, seconds=2000.0, buckets=1), FRAME_S)
    assert [bucket.rows for bucket in both] == [1, 1, 1]


def test_utterances_that_are_too_long_are_left_out(tmp_path):
    corpus = corpus_of(tmp_path, [[1.0, 30.0, 2.0, 3600.0]])
    whole = [(bucket.frames, bucket.rows) for bucket in corpus.buckets]
    limited = dataclasses.replace(corpus, longest_s=30.0)
    assert whole[-1][0] > 360_000
    assert limited.buckets[-1].frames < 3100
    assert sorted(int(row) for spec in limited.plan_epoch(0) for row in spec.utterances) == [0, 1, 2]
    assert len(dataclasses.replace(corpus, longest_s=0.5).plan_epoch(0)) == 0
