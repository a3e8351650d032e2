"""The batch plan: each utterance once, everything fits, little padding, and the same again from the same seed."""

import itertools
import time

import numpy as np
import pytest

from input_pipeline import manifest
from input_pipeline.batch_plan import (
    SHUFFLES,
    BatchSettings,
    _least_padding,
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
def test_each_row_stands_in_the_plan_once(lengths, shuffle, batch):
    plan = plan_of(lengths, shuffle=shuffle, **batch)
    assert sorted(itertools.chain(*(b.rows for b in plan))) == list(range(203))


def test_clipping_leaves_out_the_two_ends_only(lengths):
    plan = plan_of(lengths, shuffle="batch_shuffle_clipped")
    rows = list(itertools.chain(*(b.rows for b in plan)))
    assert len(set(rows)) == len(rows) >= 203 - 2 * (8 - 1)
    assert all(len(b.rows) == b.bucket.rows for b in plan)


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
def test_the_seed_and_the_epoch_decide_the_order(lengths, shuffle):
    assert flat(plan_of(lengths, shuffle=shuffle)) == flat(plan_of(lengths, shuffle=shuffle))
    assert flat(plan_of(lengths, shuffle=shuffle)) != flat(plan_of(lengths, shuffle=shuffle, epoch=2))
    assert flat(plan_of(lengths, shuffle=shuffle)) != flat(plan_of(lengths, shuffle=shuffle, seed=4))


def test_sortagrad_goes_from_short_to_long_in_the_first_epoch_only(lengths):
    longest = [lengths[0][b.rows].max() for b in plan_of(lengths, epoch=0)]
    assert longest == sorted(longest)
    assert flat(plan_of(lengths, epoch=0)) != flat(plan_of(lengths, epoch=0, sortagrad=False))
    later = [lengths[0][b.rows].max() for b in plan_of(lengths, epoch=1)]
    assert later != sorted(later)


def test_bucket_lengths_leave_the_least_padding():
    rng = np.random.default_rng(1)
    lengths = np.sort(rng.choice(np.arange(1, 60), 9, replace=False))
    counts = rng.integers(1, 20, 9)

    def cost(ends):
        return sum(c * min(e for e in ends if e >= n) for n, c in zip(lengths, counts, strict=True))

    best = min(cost((*ends, lengths[-1])) for ends in itertools.combinations(lengths[:-1], 3))
    assert cost(_least_padding(lengths, counts, 4)) == best


def test_stretched_utterances_and_their_labels_fit(lengths):
    settings = BatchSettings(size=8, buckets=5)
    buckets = choose_buckets(lengths[0], lengths[1], settings, FRAME_S, stretch=(0.8, 1.3))
    stretched = np.ceil(lengths[0] * np.random.default_rng(2).uniform(0.8, 1.3, 203)).astype(int)
    for planned in plan_epoch(stretched, buckets, settings, 0, 1):
        assert lengths[1][planned.rows].max() <= planned.bucket.labels


def test_weights_repeat_and_draw_utterances():
    source = np.repeat([0, 1, 2], [10, 6, 8])
    utterance, copy = epoch_rows(source, (1.0, 2.0, 0.5), seed=0, epoch=1)
    counts = np.bincount(utterance, minlength=24)
    assert (counts[:10] == 1).all()
    assert (counts[10:16] == 2).all()
    assert counts[16:].sum() == 4
    assert sorted(copy[utterance == 10]) == [0, 1]
    other, _ = epoch_rows(source, (1.0, 2.0, 0.5), seed=0, epoch=2)
    assert set(other[other >= 16]) != set(utterance[utterance >= 16])


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"size": 8, "seconds": 9.0}, "size"), ({"buckets": 0}, "buckets"), ({"shuffle": "riffle"}, "riffle")],
)
def test_settings_that_cannot_be_planned_are_named(settings, named):
    with pytest.raises(ValueError, match=named):
        BatchSettings(**settings)


def test_padding_on_an4_is_under_a_tenth_with_the_recipes_augmentation(speech):
    an4 = manifest.read(speech / "an4" / "train.jsonl")
    frames = np.ceil((an4.duration + an4.duration_unit_s / 2) * 100).astype(int)
    settings = BatchSettings(size=16, buckets=12, shuffle="batch_shuffle_clipped")
    buckets = choose_buckets(frames, np.array([len(t) for t in an4.text]), settings, FRAME_S, (1 / 1.15, 1 / 0.85))
    stretched = np.ceil(frames / np.random.default_rng(0).uniform(0.85, 1.15, len(frames))).astype(int)
    shares = [padding_share(plan_epoch(stretched, buckets, settings, 0, epoch), stretched) for epoch in range(1, 6)]
    assert np.mean(shares) < 0.10


def test_a_million_utterances_are_planned_in_seconds():
    frames = np.random.default_rng(0).integers(100, 2700, 1_000_000)
    settings = BatchSettings(size=64, buckets=10)
    start = time.perf_counter()
    plan = plan_epoch(frames, choose_buckets(frames, frames // 10, settings, FRAME_S), settings, 0, 1)
    assert time.perf_counter() - start < 5
    assert sum(len(b.rows) for b in plan) == 1_000_000
