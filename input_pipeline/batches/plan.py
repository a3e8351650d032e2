"""The batch plan: which utterances stand together in which batch, decided before anything is read.

A plan is a pure function of lengths, settings, seed and epoch. It is the same on every host and for any number of
hosts, devices and workers; the shapes that will be compiled are known before the first step; and resuming is
`plan[batches_done:]`.

Letters: N rows of an epoch (an utterance may come several times), T frames, L labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple, overload

import numpy as np

SHUFFLES = ("instance_shuffle", "batch_shuffle", "batch_shuffle_clipped", "none")
FRAME_STEP = 8  # bucket lengths are multiples of it: fewer candidates, aligned shapes
LABEL_STEP = 8


@dataclass(frozen=True)
class BatchSettings:
    """How utterances are put into batches.

    size: utterances in a batch, whatever their length; or 0 and seconds: audio in a batch, padding included, so that
    short utterances stand in larger batches. shuffle: a key of SHUFFLES. sortagrad: epoch 0 goes from short to long
    (arXiv:1512.02595, section 3.3). buckets: how many batch lengths, each compiled once.
    """

    size: int = 16
    seconds: float = 0.0
    buckets: int = 8
    shuffle: str = "batch_shuffle"
    sortagrad: bool = True

    def __post_init__(self):
        """Refuse what cannot be planned, naming field, value and mend."""
        if self.size < 0 or self.seconds < 0 or (self.size > 0) == (self.seconds > 0):
            raise ValueError(
                f"config.batch.size is {self.size} and config.batch.seconds is {self.seconds}: set one of them, the other to 0"
            )
        if self.buckets < 1:
            raise ValueError(f"config.batch.buckets is {self.buckets}: use 1 or more")
        if self.shuffle not in SHUFFLES:
            raise ValueError(f"config.batch.shuffle is {self.shuffle!r}: choose one of {', '.join(SHUFFLES)}")


@dataclass(frozen=True)
class Bucket:
    """A compiled shape: frames T, labels L and rows of a batch."""

    frames: int
    labels: int
    rows: int


class PlannedBatch(NamedTuple):
    """Rows of the epoch that stand together; at most `bucket.rows`, the rest is filled."""

    rows: np.ndarray  # [n] int64
    bucket: Bucket


@dataclass(frozen=True)
class Plan(Sequence[PlannedBatch]):
    """Batches in order, as columns: batch i is order[starts[i]:ends[i]], in bucket chosen[i]."""

    order: np.ndarray  # [N] int64, rows of the epoch
    starts: np.ndarray  # [batches] int64
    ends: np.ndarray  # [batches] int64
    chosen: np.ndarray  # [batches] int64
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
        return PlannedBatch(self.order[self.starts[index] : self.ends[index]], self.buckets[self.chosen[index]])

    def select(self, batches: slice | np.ndarray) -> "Plan":
        """Keep these batches, in this order."""
        return replace(self, starts=self.starts[batches], ends=self.ends[batches], chosen=self.chosen[batches])


def epoch_rows(source: np.ndarray, weights: Sequence[float], seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """List the utterances of an epoch and which copy each is: source w comes weights[w] times.

    source [M] int32 is the manifest each utterance is from. The whole part of a weight repeats all its utterances,
    the rest draws that share of them anew each epoch. Returns utterance [N] int64, copy [N] int64.
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
        raise ValueError(f"the manifests' weights, {tuple(weights)}, leave no utterance for an epoch: raise one")
    return np.concatenate(utterances), np.concatenate(copies)


def choose_buckets(
    frames: np.ndarray,
    label_lengths: np.ndarray,
    settings: BatchSettings,
    frame_s: float,
    stretch: tuple[float, float] = (1.0, 1.0),
    slack: int = 0,
) -> list[Bucket]:
    """Choose the batch lengths that leave the least padding, shortest first.

    frames [M] and label_lengths [M] as they are without augmentation, stretch the smallest and largest factor that
    augmentation can lengthen an utterance by, slack the frames that rounding adds or takes: every augmented utterance
    fits into a bucket, and its labels too.
    """
    shortest, longest = stretch
    most = frames + slack
    spread = np.concatenate(
        [most * factor for factor in np.linspace(shortest, longest, 5 if longest > shortest else 1)]
    )
    lengths, counts = np.unique(_round_up(np.ceil(spread).astype(np.int64), FRAME_STEP), return_counts=True)
    top = int(_round_up(np.ceil(np.max(most) * longest), FRAME_STEP))
    if lengths[-1] < top:
        lengths, counts = np.append(lengths, top), np.append(counts, 0)
    buckets = []
    for length in _least_padding(lengths, counts, settings.buckets):
        fitting = label_lengths[np.floor(frames * shortest) - slack <= length]
        labels = int(_round_up(max(int(fitting.max(initial=1)), 1), LABEL_STEP))
        rows = settings.size or max(1, int(settings.seconds / (length * frame_s)))
        buckets.append(Bucket(int(length), labels, rows))
    return buckets


def _round_up(value, step: int):
    return -(-value // step) * step


def _least_padding(lengths: np.ndarray, counts: np.ndarray, buckets: int) -> np.ndarray:
    """Split sorted lengths [n] into at most `buckets` runs with the least sum of (run's last length x its count).

    Dynamic programming over runs; n is small, since lengths are rounded. Long tails are first thinned to 400 lengths.
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
    """Put the rows of an epoch, with their lengths frames [N] as augmented, into batches.

    `batch_shuffle` sorts by length, cuts from a random offset on into full batches and shuffles these; what is left
    at both ends follows in batches of its own, or is left out for this epoch (`batch_shuffle_clipped`).
    `instance_shuffle` draws a batch from all of a bucket. `none` keeps the order of length. SortaGrad's first epoch
    is 'none' whatever the shuffle.
    """
    lengths = np.array([bucket.frames for bucket in buckets])
    if np.max(frames, initial=0) > lengths[-1]:
        raise ValueError(f"an utterance of {np.max(frames)} frames is longer than the longest bucket, {lengths[-1]}")
    rng = np.random.default_rng([seed, epoch])
    if settings.shuffle == "none" or (settings.sortagrad and epoch == 0):
        order = np.argsort(frames, kind="stable")
        return _cut(order, np.searchsorted(lengths, frames[order]), buckets, [0, len(order)])
    order = rng.permutation(len(frames))  # utterances of equal length meet others in each epoch
    if settings.shuffle == "instance_shuffle":
        member = np.searchsorted(lengths, frames)
        order = order[np.argsort(member[order], kind="stable")]
        member = member[order]
        plan = _cut(order, member, buckets, np.searchsorted(member, np.arange(len(buckets) + 1)))
        return plan.select(rng.permutation(len(plan)))

    order = order[np.argsort(frames[order], kind="stable")]
    first = int(rng.integers(min(buckets[0].rows, len(frames))))
    plan = _cut(order, np.searchsorted(lengths, frames[order]), buckets, [first, len(order), 0, first])
    main = plan.starts >= first
    is_full = main & (plan.ends - plan.starts == np.array([bucket.rows for bucket in buckets])[plan.chosen])
    full = np.flatnonzero(is_full)
    shuffled = full[rng.permutation(len(full))]
    if settings.shuffle == "batch_shuffle_clipped" and len(shuffled):
        return plan.select(shuffled)
    return plan.select(np.concatenate([shuffled, np.flatnonzero(main & ~is_full), np.flatnonzero(~main)]))


def _cut(order: np.ndarray, member: np.ndarray, buckets: Sequence[Bucket], limits: Sequence[int] | np.ndarray) -> Plan:
    """Cut rows into consecutive batches, each in the smallest bucket that the rows which fill it fit into.

    order [N] are the rows, member [N], ascending, the smallest bucket that each fits into. No batch crosses a limit:
    limits [n] are places in the order, each with the next one the start and the end of a run; runs that end before
    they start are none.
    """
    ends = np.searchsorted(member, np.arange(len(buckets)), side="right")  # so many rows fit into each bucket
    cuts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for start, limit in pairwise(map(int, limits)):
        while start < limit:
            index = int(member[start])
            rows = buckets[index].rows
            full = (min(int(ends[index]), limit) - start) // rows
            if full:
                starts = start + rows * np.arange(full)
                cuts.append((starts, starts + rows, np.full(full, index)))
                start += full * rows
                continue
            while (end := min(start + buckets[index].rows, limit)) > ends[index]:
                index += 1  # a larger bucket may hold fewer rows: only the last batch is not full
            cuts.append((np.array([start]), np.array([end]), np.array([index])))
            start = end
    none = np.zeros(0, np.int64)
    starts, stops, chosen = (np.concatenate(column) for column in zip((none, none, none), *cuts, strict=True))
    return Plan(order, starts, stops, chosen, buckets)


def padding_share(plan: Plan, frames: np.ndarray) -> float:
    """Return the share of all frames in the plan's batches that no utterance fills."""
    room = int(np.array([bucket.rows * bucket.frames for bucket in plan.buckets])[plan.chosen].sum())
    total = np.append(0, np.cumsum(frames[plan.order]))
    return 1.0 - int((total[plan.ends] - total[plan.starts]).sum()) / max(room, 1)
