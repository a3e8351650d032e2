"""A corpus as batches: a manifest with its labels, planned and loaded for training or for evaluation."""

import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from input_pipeline.audio.features import FeatureSettings, FrontEnd
from input_pipeline.augment import Augmentation
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

MAX_NAMED = 5  # bad utterances named in a message; the rest is counted


def choose_shapes(
    frames: np.ndarray,
    label_lengths: np.ndarray,
    features: FeatureSettings,
    settings: BatchSettings,
    augmentation: Augmentation,
) -> list[Bucket]:
    """Choose the batch shapes for utterances of `frames` [N] before augmentation, shortest first."""
    overlap = features.window_ms / features.stride_ms  # its frames are not stretched with the clip
    slack = max(1, math.ceil(overlap) - 1)
    stretch = augmentation.stretch_limits
    return choose_buckets(frames, label_lengths, settings, features.stride_ms / 1000, stretch, slack)


@dataclass
class Corpus:
    """Utterances ready to be batched; `epoch` plans, `batches` loads."""

    manifest: Manifest
    labels: Labels | None
    front_end: FrontEnd
    settings: BatchSettings
    augmentation: Augmentation = field(default_factory=Augmentation)
    seed: int = 0
    load: LoadSettings = field(default_factory=LoadSettings)
    share: RowShare = field(default_factory=RowShare)
    buckets: list[Bucket] = field(init=False)

    def __post_init__(self):
        """Choose the batch shapes; they hold for all epochs."""
        frames = planned_frames(self.manifest, self.front_end.settings)
        lengths = self.labels.lengths if self.labels is not None else np.ones(len(self.manifest), np.int64)
        self.buckets = choose_shapes(frames, lengths, self.front_end.settings, self.settings, self.augmentation)

    @property
    def shapes(self) -> list[tuple[int, int, int]]:
        """Rows, frames and labels of the batches of each bucket, filling rows included."""
        return [(self.share.filled(bucket.rows), bucket.frames, bucket.labels) for bucket in self.buckets]

    def epoch(self, epoch: int) -> EpochSpecs:
        """Plan one epoch; the same on every host, and in every run with this seed."""
        utterances, copies = epoch_rows(self.manifest.source, self.manifest.weights, self.seed, epoch)
        rates = np.ones(len(utterances))
        for copy in np.unique(copies):
            drawn = self.augmentation.speed_rates(len(self.manifest), self.seed, epoch, int(copy))
            rates[copies == copy] = drawn[utterances[copies == copy]]
        frames = planned_frames(self.manifest, self.front_end.settings, rates, utterances)
        plan = plan_epoch(frames, self.buckets, self.settings, self.seed, epoch)
        return EpochSpecs(plan, utterances, copies, rates, epoch, padding_share(plan, frames), self.share)

    def batches(self, specs: Sequence[BatchSpec]) -> Generator[dict[str, Any]]:
        """Load these batches in order, ahead of their use; shards of a store are brought here meanwhile."""
        with shard_source.prefetch(self.manifest.audio, self._read_by(specs)):
            yield from iterate(specs, self.loader(), self.load)

    def _read_by(self, specs: Sequence[BatchSpec]) -> Iterator[int]:
        """Yield the rows of the manifest that this host reads, in order."""
        for spec in specs:
            yield from spec.utterances[self.share.rows_of(spec.rows)].tolist()

    def loader(self) -> BatchLoader:
        """Return what loads a batch: all that worker processes are sent, besides the plan."""
        return BatchLoader(
            self.manifest.audio,
            self.manifest.duration,
            self.labels,
            self.front_end,
            self.augmentation,
            self.seed,
            self.share,
        )


def describe_problems(manifest: Manifest, problems: Mapping[int, str]) -> str:
    """List the first problems, a line each, and count the others."""
    lines = [f"  {manifest.where(row)}: {problem}" for row, problem in list(problems.items())[:MAX_NAMED]]
    if len(problems) > MAX_NAMED:
        lines.append(f"  and {len(problems) - MAX_NAMED} more (python -m input_pipeline.manifest check lists all)")
    return "\n".join(lines)
