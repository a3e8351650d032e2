"""Plan and load the batches of a manifest, for training or evaluation."""

import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from input_pipeline.audio.features import FeatureSettings
from input_pipeline.audio.front_end import FrontEnd
from input_pipeline.augment import Augmentation
from input_pipeline.batches.inputs import Inputs, make_inputs
from input_pipeline.batches.labels import Labels
from input_pipeline.batches.loader import (
    BatchLoader,
    BatchSpec,
    EpochSpecs,
    LoadSettings,
    RowShare,
    iterate,
    planned_frames,
)
from input_pipeline.batches.plan import (
    BatchSettings,
    Bucket,
    choose_buckets,
    epoch_rows,
    padding_share,
    plan_epoch,
)
from input_pipeline.manifest import Manifest
from input_pipeline.shards import source as shard_source

MAX_LISTED = 5  # problems listed in a message; the others are counted


def choose_shapes(
    frames: np.ndarray,
    label_lengths: np.ndarray,
    features: FeatureSettings,
    settings: BatchSettings,
    augmentation: Augmentation,
) -> list[Bucket]:
    """Choose batch shapes, shortest first, for utterances of `frames` [N] and `label_lengths` [N] before augmentation."""
    overlap = features.window_ms / features.stride_ms  # in frames; it is not stretched with the clip
    slack = max(1, math.ceil(overlap) - 1)
    stretch = augmentation.stretch_limits
    return choose_buckets(frames, label_lengths, settings, features.stride_ms / 1000, stretch, slack)


@dataclass
class Corpus:
    """Utterances of a manifest, ready to be batched: `plan_epoch` plans, `batches` loads.

    longest_s: utterances whose duration is longer are left out of the plan. transfer: as `inputs.make_inputs`.
    """

    manifest: Manifest
    labels: Labels | None
    front_end: FrontEnd
    settings: BatchSettings
    augmentation: Augmentation = field(default_factory=Augmentation)
    seed: int = 0
    load: LoadSettings = field(default_factory=LoadSettings)
    share: RowShare = field(default_factory=RowShare)
    longest_s: float = math.inf
    transfer: str = ""
    buckets: list[Bucket] = field(init=False)

    def __post_init__(self):
        """Choose the batch shapes, which are the same in all epochs."""
        kept = ~self.left_out
        frames = planned_frames(self.manifest, self.front_end.settings)[kept]
        lengths = self.labels.lengths if self.labels is not None else np.ones(len(self.manifest), np.int64)
        self.buckets = choose_shapes(frames, lengths[kept], self.front_end.settings, self.settings, self.augmentation)

    @property
    def inputs(self) -> Inputs:
        """What its batches bring to the device. Raises ValueError for features that are not computed there."""
        return make_inputs(self.front_end, self.augmentation, self.transfer)

    @property
    def left_out(self) -> np.ndarray:
        """Return which utterances are longer than `longest_s`: [N] bool."""
        return self.manifest.duration > self.longest_s

    @property
    def shapes(self) -> list[tuple[int, int, int]]:
        """Rows, frames and labels of the batches of each bucket, including padding rows."""
        return [(self.share.padded(bucket.rows), bucket.frames, bucket.labels) for bucket in self.buckets]

    def plan_epoch(self, epoch: int) -> EpochSpecs:
        """Plan the batches of an epoch, which are the same on all hosts and in all runs with this seed."""
        utterances, copies = epoch_rows(self.manifest.source, self.manifest.weights, self.seed, epoch)
        kept = ~self.left_out[utterances]
        utterances, copies = utterances[kept], copies[kept]
        rates = np.ones(len(utterances))
        for copy in np.unique(copies):
            drawn = self.augmentation.speed_rates(len(self.manifest), self.seed, epoch, int(copy))
            rates[copies == copy] = drawn[utterances[copies == copy]]
        frames = planned_frames(self.manifest, self.front_end.settings, rates, utterances)
        plan = plan_epoch(frames, self.buckets, self.settings, self.seed, epoch)
        return EpochSpecs(plan, utterances, copies, rates, epoch, padding_share(plan, frames), self.share)

    def batches(self, specs: Sequence[BatchSpec]) -> Generator[dict[str, Any]]:
        """Load batches in order and ahead of use, while shards of a store are fetched in the background."""
        with shard_source.prefetch(self.manifest.audio, self._local_utterances(specs)):
            yield from iterate(specs, self.make_loader(), self.load)

    def _local_utterances(self, specs: Sequence[BatchSpec]) -> Iterator[int]:
        """Yield the rows of the manifest that this host reads, in order."""
        for spec in specs:
            yield from spec.utterances[self.share.rows_of(spec.rows)].tolist()

    def make_loader(self) -> BatchLoader:
        """Return the function that loads a batch; worker processes receive only this function and the plan."""
        return BatchLoader(
            self.manifest.clips,
            self.labels,
            self.inputs,
            self.seed,
            self.share,
        )


def describe_problems(manifest: Manifest, problems: Mapping[int, str]) -> str:
    """Return the first problems, one per line, and the number of the others."""
    lines = [f"  {manifest.where(row)}: {problem}" for row, problem in list(problems.items())[:MAX_LISTED]]
    if len(problems) > MAX_LISTED:
        lines.append(f"  and {len(problems) - MAX_LISTED} more (python -m input_pipeline.manifest check lists all)")
    return "\n".join(lines)
