"""The batch plan: the utterances of each batch, determined before any audio is read.

A plan is a pure function of lengths, settings, seed and epoch. It is the same for any number of hosts, devices and
workers; all shapes to compile are known before the first step; and a resumed epoch is `plan[batches_done:]`.

Letters: N rows of an epoch (an utterance may occur several times), T frames, L labels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple, overload

import numpy as np

SHUFFLES = ("instance_shuffle", "batch_shuffle", "batch_shuffle_clipped", "none")
FRAME_STEP = 8  # bucket lengths are multiples of it, for fewer candidates and aligned shapes
LABEL_STEP = 8
TYPICAL_SHARE, OUTLIER_FACTOR = 0.9, 3.0  # an outlier is longer than this factor times the length of this share


@dataclass(frozen=True)
class BatchSettings:
    """Settings of the batch plan.

    size: most utterances in a batch; 0 for no limit. seconds: most audio in a batch, including padding, so that long
    utterances get smaller batches; 0 for no limit. shuffle: one of SHUFFLES. sortagrad: sort epoch 0 from short to long
    (arXiv:1512.02595, section 3.3). buckets: number of batch lengths without those of outliers, each compiled once.
    """

    size: int = 16
    seconds: float = 0.0
    buckets: int = 8
    shuffle: str = "batch_shuffle"
    sortagrad: bool = True

    def __post_init__(self):
        """Refuse invalid values, naming the field, its value and what is allowed."""
        if self.size < 0 or self.seconds < 0 or not (self.size or self.seconds):
            raise ValueError(
                f"config.batch.size is {self.size} and config.batch.seconds is {self.seconds}: set one of them above 0 and "
                "the other to 0"
            )
        if self.buckets < 1:
            raise ValueError(f"config.batch.buckets is {self.buckets}: use 1 or more")
        if self.shuffle not in SHUFFLES:
            raise ValueError(f"config.batch.shuffle is {self.shuffle!r}: choose one of {', '.join(SHUFFLES)}")


@dataclass(frozen=True)
class Bucket:
    """A batch shape: frames T, labels L and rows. outliers: for utterances far longer than the others only."""

    frames: int
    labels: int
    rows: int
    outliers: bool = False


class PlannedBatch(NamedTuple):
    """Rows of the epoch in one batch: at most `bucket.rows`; the rest is padding."""

    rows: np.ndarray  # [n] int64
    bucket: Bucket


@dataclass(frozen=True)
class Plan(Sequence[PlannedBatch]):
    """Batches in order, as columns: batch i has rows order[starts[i]:ends[i]] and shape buckets[bucket_indices[i]]."""

    order: np.ndarray  # [N] int64, rows of the epoch
    starts: np.ndarray  # [batches] int64
    ends: np.ndarray  # [batches] int64
    bucket_indices: np.ndarray  # [batches] int64
    buckets: Sequence[Bucket]

    def __len__(self) -> int:
        return len(self.starts)

    @overload
    def __getitem__(self, index: int) -> PlannedBatch: ...
    @overload
    def __getitem__(self, index: slice) -> "Plan": ...
    def __getitem__(self, index):
        if isinstance(index, slice):
            return self.select(index)
        rows = self.order[self.starts[index] : self.ends[index]]
        return PlannedBatch(rows, self.buckets[self.bucket_indices[index]])

    def select(self, batches: slice | np.ndarray) -> "Plan":
        """Return a plan of these batches, in this order."""
        starts, ends, indices = self.starts[batches], self.ends[batches], self.bucket_indices[batches]
        return replace(self, starts=starts, ends=ends, bucket_indices=indices)


def epoch_rows(source: np.ndarray, weights: Sequence[float], seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the utterances of an epoch [N] int64, and the number of each copy [N] int64.

    source [M] int32: the manifest of each utterance, by index into weights. The integer part of a weight repeats all
    utterances of a manifest; its fraction draws that share of them, different in each epoch. Raises ValueError if no
    utterance is left.
    """
    if all(weight == 1 for weight in weights):
        return np.arange(len(source)), np.zeros(len(source), np.int64)
    utterances, copies = [], []
    for index, weight in enumerate(weights):
        members = np.flatnonzero(source == index)
        whole, rest = int(weight), weight - int(weight)
        for copy in range(whole):
            utterances.append(members)
            copies.append(np.full(len(members), copy))
        drawn = np.random.default_rng([seed, epoch, index]).permutation(members)[: round(rest * len(members))]
        utterances.append(np.sort(drawn))
        copies.append(np.full(len(drawn), whole))
    if not sum(map(len, utterances)):
        raise ValueError(f"the manifests' weights, {tuple(weights)}, leave no utterance for an epoch: increase one")
    return np.concatenate(utterances), np.concatenate(copies)


def choose_buckets(
    frames: np.ndarray,
    label_lengths: np.ndarray,
    settings: BatchSettings,
    frame_s: float,
    stretch: tuple[float, float] = (1.0, 1.0),
    slack: int = 0,
) -> list[Bucket]:
    """Choose the batch lengths with the least padding, shortest first; every augmented utterance fits one with its labels.

    frames [M], label_lengths [M]: without augmentation. stretch: the smallest and the largest factor by which augmentation
    changes the length of an utterance. slack: frames by which rounding may change it. Outliers get buckets of their own
    with fewer rows, and do not change those of the other utterances; none are sought in batches limited by seconds alone.
    """
    if not len(frames):
        return []
    shortest, longest = stretch
    limit = _longest_ordinary(frames) if settings.size else int(frames.max())
    ordinary = frames[frames <= limit] + slack
    spread = np.concatenate(
        [ordinary * factor for factor in np.linspace(shortest, longest, 5 if longest > shortest else 1)]
    )
    lengths, counts = np.unique(_round_up(np.ceil(spread).astype(np.int64), FRAME_STEP), return_counts=True)
    top = int(_round_up(np.ceil(np.max(ordinary) * longest), FRAME_STEP))
    if lengths[-1] < top:
        lengths, counts = np.append(lengths, top), np.append(counts, 0)

    def bucket(length: int, most: int, *, outliers: bool = False) -> Bucket:
        fitting = label_lengths[np.floor(frames * shortest) - slack <= length]
        labels = int(_round_up(max(int(fitting.max(initial=1)), 1), LABEL_STEP))
        rows = int(settings.seconds / (length * frame_s)) if settings.seconds else most
        return Bucket(length, labels, max(1, min(rows, most or rows)), outliers)

    buckets = [bucket(int(length), settings.size) for length in _minimise_padding(lengths, counts, settings.buckets)]
    for group in _group_outliers(frames[frames > limit], limit):
        length = int(_round_up(np.ceil((group.max() + slack) * longest), FRAME_STEP))
        rows = int(settings.size * limit / length)  # no more audio than in a batch of the longest other utterances
        buckets.append(bucket(length, max(1, min(rows, len(group))), outliers=True))
    return buckets


def _longest_ordinary(frames: np.ndarray) -> int:
    """Return the length beyond which an utterance is an outlier, from the lengths of all [M]."""
    return int(OUTLIER_FACTOR * np.quantile(frames, TYPICAL_SHARE, method="lower"))


def _group_outliers(frames: np.ndarray, limit: int) -> Iterator[np.ndarray]:
    """Yield the lengths of outliers [n] in groups, shortest first, each up to twice as long as its shortest may be."""
    while len(frames):
        limit *= 2
        if (frames <= limit).any():
            yield frames[frames <= limit]
        frames = frames[frames > limit]


def _round_up(value, step: int):
    return -(-value // step) * step


def _minimise_padding(lengths: np.ndarray, counts: np.ndarray, buckets: int) -> np.ndarray:
    """Split sorted lengths [n] into at most `buckets` runs; return the last length of each.

    Dynamic programming finds the runs with the least sum of (last length x count). n is small, because lengths are
    rounded; more than 400 lengths are thinned first.
    """
    if len(lengths) > 400:
        keep = np.unique(np.append(np.linspace(0, len(lengths) - 1, 400).astype(int), len(lengths) - 1))
        counts = np.add.reduceat(counts, np.append(0, keep[:-1] + 1))
        lengths = lengths[keep]
    total = np.append(0, np.cumsum(counts))
    run_cost = np.where(np.tri(len(lengths), dtype=bool).T, lengths * (total[None, 1:] - total[:-1, None]), np.inf)
    cost, choices = run_cost[0], []
    for _ in range(min(buckets, len(lengths)) - 1):
        candidates = np.append(np.inf, cost[:-1])[:, None] + run_cost  # [first of the last run, its end]
        choices.append(candidates.argmin(0))
        cost = candidates.min(0)
    ends, end = [], len(lengths) - 1
    for choice in reversed(choices):
        ends.append(end)
        end = choice[end] - 1
    return lengths[np.array([*ends, end][::-1])]


def plan_epoch(frames: np.ndarray, buckets: Sequence[Bucket], settings: BatchSettings, seed: int, epoch: int) -> Plan:
    """Assign the rows of an epoch, with augmented lengths frames [N], to batches.

    `batch_shuffle` sorts by length, cuts full batches from a random offset and shuffles them; the rows left over at both
    ends follow in separate batches, or are skipped in this epoch (`batch_shuffle_clipped`). `instance_shuffle` draws each
    batch from all rows of a bucket. `none` sorts by length, and so does SortaGrad in epoch 0. Outliers are never skipped,
    nor in a batch with others. Raises ValueError if an utterance is longer than the longest bucket.
    """
    lengths = np.array([bucket.frames for bucket in buckets])
    if np.max(frames, initial=0) > np.max(lengths, initial=0):
        raise ValueError(f"an utterance of {np.max(frames)} frames is longer than the longest bucket, {max(lengths)}")
    rng = np.random.default_rng([seed, epoch])
    if settings.shuffle == "none" or (settings.sortagrad and epoch == 0):
        order = np.argsort(frames, kind="stable")
        smallest = np.searchsorted(lengths, frames[order])
        return _cut(order, smallest, buckets, [0, *_outlier_starts(smallest, buckets), len(order)])
    order = rng.permutation(len(frames))  # groups utterances of equal length differently in each epoch
    if settings.shuffle == "instance_shuffle":
        smallest = np.searchsorted(lengths, frames)
        order = order[np.argsort(smallest[order], kind="stable")]
        smallest = smallest[order]
        plan = _cut(order, smallest, buckets, np.searchsorted(smallest, np.arange(len(buckets) + 1)))
        return plan.select(rng.permutation(len(plan)))

    order = order[np.argsort(frames[order], kind="stable")]
    smallest = np.searchsorted(lengths, frames[order])
    outliers = _outlier_starts(smallest, buckets)
    first = int(rng.integers(min(buckets[0].rows, max(1, outliers[0]) if outliers else len(frames))))
    plan = _cut(order, smallest, buckets, [first, *outliers, len(order), 0, first])
    main = plan.starts >= first
    is_full = main & (plan.ends - plan.starts == np.array([bucket.rows for bucket in buckets])[plan.bucket_indices])
    clipped = settings.shuffle == "batch_shuffle_clipped" and is_full.any()
    is_full |= np.array([bucket.outliers for bucket in buckets])[plan.bucket_indices]
    full = np.flatnonzero(is_full)
    shuffled = full[rng.permutation(len(full))]
    if clipped:
        return plan.select(shuffled)
    return plan.select(np.concatenate([shuffled, np.flatnonzero(main & ~is_full), np.flatnonzero(~main)]))


def _outlier_starts(smallest: np.ndarray, buckets: Sequence[Bucket]) -> list[int]:
    """Return the position of the first row of each bucket of outliers; smallest [N], ascending: each row's bucket."""
    return [int(np.searchsorted(smallest, index)) for index, bucket in enumerate(buckets) if bucket.outliers]


def _cut(
    order: np.ndarray, smallest: np.ndarray, buckets: Sequence[Bucket], limits: Sequence[int] | np.ndarray
) -> Plan:
    """Cut rows into consecutive batches, each in the smallest bucket that fits all its rows.

    order [N]: the rows. smallest [N], ascending: index of the smallest bucket that fits each row. limits [n]: positions in
    the order, which no batch crosses; each pair of consecutive ones is a run, skipped if it ends before it starts.
    """
    ends = np.searchsorted(smallest, np.arange(len(buckets)), side="right")  # number of rows that fit each bucket
    cuts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for start, limit in pairwise(map(int, limits)):
        while start < limit:
            index = int(smallest[start])
            rows = buckets[index].rows
            full = (min(int(ends[index]), limit) - start) // rows
            if full:
                starts = start + rows * np.arange(full)
                cuts.append((starts, starts + rows, np.full(full, index)))
                start += full * rows
                continue
            while (end := min(start + buckets[index].rows, limit)) > ends[index]:
                index += 1  # a larger bucket may have fewer rows; only the last batch of a run is not full
            cuts.append((np.array([start]), np.array([end]), np.array([index])))
            start = end
    none = np.zeros(0, np.int64)
    starts, stops, indices = (np.concatenate(column) for column in zip((none, none, none), *cuts, strict=True))
    return Plan(order, starts, stops, indices, buckets)


def padding_share(plan: Plan, frames: np.ndarray) -> float:
    """Return the share of padding in all frames of the plan's batches."""
    capacity = int(np.array([bucket.rows * bucket.frames for bucket in plan.buckets])[plan.bucket_indices].sum())
    total = np.append(0, np.cumsum(frames[plan.order]))
    return 1.0 - int((total[plan.ends] - total[plan.starts]).sum()) / max(capacity, 1)
