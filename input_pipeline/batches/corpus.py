"""A corpus as batches: a manifest with its labels, planned and loaded for training or for evaluation."""

import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from input_pipeline.audio.features import FeatureSettings, FeatureStats
from input_pipeline.augment import Augmentation
from input_pipeline.batches.labels import Labels
from input_pipeline.batches.loader import BatchLoader, BatchSpec, EpochSpecs, iterate, planned_frames
from input_pipeline.batches.plan import (
    BatchSettings,
    Bucket,
    Plan,
    choose_buckets,
    epoch_rows,
    padding_share,
    plan_epoch,
)
from input_pipeline.manifest import Manifest
from input_pipeline.shards import source as shard_source

MAX_NAMED = 5  # bad utterances named in a message; the rest is counted


@dataclass(frozen=True)
class Loading:
    """How many threads or processes load, how far ahead, and which rows of a batch are this host's."""

    workers: int = 0
    threads: int = 2
    prefetch: int = 4
    multiple: int = 1  # of devices and accumulation parts: batches are filled up to it
    process: int = 0  # this host, and how many there are
    processes: int = 1


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
    features: FeatureSettings
    normalisation: str
    stats: FeatureStats | None
    settings: BatchSettings
    augmentation: Augmentation = field(default_factory=Augmentation)
    seed: int = 0
    loading: Loading = field(default_factory=Loading)
    buckets: list[Bucket] = field(init=False)

    def __post_init__(self):
        """Choose the batch shapes; they hold for all epochs."""
        frames = planned_frames(self.manifest, self.features)
        lengths = self.labels.lengths if self.labels is not None else np.ones(len(self.manifest), np.int64)
        self.buckets = choose_shapes(frames, lengths, self.features, self.settings, self.augmentation)

    def _planned(self, epoch: int) -> tuple[Plan, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        utterances, copies = epoch_rows(self.manifest.source, self.manifest.weights, self.seed, epoch)
        rates = np.ones(len(utterances))
        for copy in np.unique(copies):
            drawn = self.augmentation.speed_rates(len(self.manifest), self.seed, epoch, int(copy))
            rates[copies == copy] = drawn[utterances[copies == copy]]
        frames = planned_frames(self.manifest, self.features, rates, utterances)
        return plan_epoch(frames, self.buckets, self.settings, self.seed, epoch), utterances, copies, rates, frames

    def epoch(self, epoch: int) -> EpochSpecs:
        """Plan one epoch; the same on every host, and in every run with this seed."""
        plan, utterances, copies, rates, _ = self._planned(epoch)
        return EpochSpecs(plan, utterances, copies, rates, epoch, self.loading.multiple)

    def padding(self, epoch: int) -> float:
        """Return the share of an epoch's frames that is padding."""
        plan, *_, frames = self._planned(epoch)
        return padding_share(plan, frames)

    def batches(self, specs: Sequence[BatchSpec]) -> Generator[dict[str, Any]]:
        """Load these batches in order, ahead of their use; shards of a store are brought here meanwhile."""
        how = self.loading
        with shard_source.prefetch(self.manifest.audio, self._read_by(specs)):
            yield from iterate(specs, self.loader(), workers=how.workers, threads=how.threads, prefetch=how.prefetch)

    def _read_by(self, specs: Sequence[BatchSpec]) -> Iterator[int]:
        """Yield the rows of the manifest that this host reads, in order."""
        for spec in specs:
            share = spec.rows // self.loading.processes
            first = self.loading.process * share
            yield from spec.utterances[first : first + share].tolist()

    def loader(self) -> BatchLoader:
        """Return what loads a batch: all that worker processes are sent, besides the plan."""
        return BatchLoader(
            self.manifest.audio,
            self.manifest.duration,
            self.labels,
            self.features,
            self.normalisation,
            self.stats,
            self.augmentation,
            self.seed,
            self.loading.process,
            self.loading.processes,
        )


def name_problems(manifest: Manifest, problems: dict[int, str]) -> str:
    """List the first problems, a line each, and count the others."""
    lines = [f"  {manifest.where(row)}: {problem}" for row, problem in list(problems.items())[:MAX_NAMED]]
    if len(problems) > MAX_NAMED:
        lines.append(f"  and {len(problems) - MAX_NAMED} more (python -m input_pipeline.manifest check lists all)")
    return "\n".join(lines)
