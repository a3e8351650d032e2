"""Load batches from manifest rows through grain, in threads or worker processes.

The batch plan is grain's source; `BatchLoader`, which turns one planned batch into arrays, is all that runs in threads or
workers. A bad clip is not an error: its row has `valid` false, and `problem` describes what is wrong.
"""

import gc
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, overload

import numpy as np

from input_pipeline import audio
from input_pipeline.audio.features import FeatureSettings, frame_count
from input_pipeline.augment import rng_for
from input_pipeline.batches.inputs import Inputs, Row
from input_pipeline.batches.labels import Labels
from input_pipeline.batches.plan import Plan
from input_pipeline.batches.workers import EndsWithParent, explain_lost_workers
from input_pipeline.manifest import Manifest, Segments
from input_pipeline.shards import source as shard_source

PROBLEM_WIDTH = 300  # maximum length of a problem, in characters


def planned_frames(
    manifest: Manifest,
    settings: FeatureSettings,
    rates: np.ndarray | None = None,
    utterances: np.ndarray | slice = slice(None),
) -> np.ndarray:
    """Return the maximum number of frames of each utterance, derived from its duration: [N] int64.

    Durations are assumed to be rounded to the manifest's unit, so half a unit is added. rates [N]: speed factors of
    augmentation. utterances [N]: rows of the manifest; the unit is still that of all rows, because a selection may look
    more coarsely rounded. A clip that is longer than that is detected when it is read.
    """
    duration = manifest.duration[utterances] + manifest.duration_unit_s / 2
    return frames_of(duration / (1.0 if rates is None else rates), settings)


def frames_of(duration: np.ndarray, settings: FeatureSettings) -> np.ndarray:
    """Return the maximum number of frames (at least 1) of clips with durations [N] in seconds: [N] int64."""
    samples = np.ceil(duration * settings.sample_rate_hz) + 1
    return np.maximum(frame_count(samples.astype(np.int64), settings), 1)


@dataclass(frozen=True)
class LoadSettings:
    """Settings of loading: number of worker processes (0: none), threads per process, and batches loaded in advance.

    Raises ValueError naming the field, its value and what is allowed.
    """

    workers: int = 0
    threads: int = 2
    prefetch: int = 4

    def __post_init__(self):
        """Refuse invalid values."""
        for name, least, advice in (
            ("workers", 0, "use 0 for threads only, or more"),
            ("threads", 1, "use 1 or more"),
            ("prefetch", 1, "use 1 or more"),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"config.data.{name} is {getattr(self, name)!r}: {advice}")

    @property
    def ahead(self) -> int:
        """Number of batches that each process loads ahead."""
        return max(self.prefetch, self.threads)

    @property
    def from_worker(self) -> int:
        """Number of batches from each worker that the main process holds."""
        return max(1, self.prefetch // self.workers)

    @property
    def held(self) -> int:
        """Largest number of batches in memory at the same time, with the one in use."""
        return 1 + (self.workers * (self.ahead + self.from_worker) if self.workers else self.ahead)


@dataclass(frozen=True)
class RowShare:
    """The share of each batch that one process loads: the `process`-th of `processes` equal parts.

    multiple: the number of devices times micro-batches, to a multiple of which the rows of a batch are padded.
    """

    multiple: int = 1
    process: int = 0
    processes: int = 1

    def padded(self, rows: int) -> int:
        """Return the number of rows of a batch of `rows` utterances, including padding rows."""
        return -(-rows // self.multiple) * self.multiple

    def rows_of(self, rows: int) -> slice:
        """Return the slice of a batch of `rows` rows that this process loads."""
        size = rows // self.processes
        return slice(self.process * size, (self.process + 1) * size)


@dataclass(frozen=True)
class BatchSpec:
    """Specification of one batch: its utterances, their copies and speeds, the epoch and the shape."""

    utterances: np.ndarray  # [n] int64, rows of the manifest
    copies: np.ndarray  # [n] int64
    rates: np.ndarray  # [n] float64
    epoch: int
    rows: int  # B, at least n
    frames: int  # T
    labels: int  # L


@dataclass(frozen=True)
class EpochSpecs(Sequence[BatchSpec]):
    """Specifications of the batches of an epoch: its plan, and the utterances of its rows.

    Stored as columns: a batch's specification is built on access, and a slice is a view.
    """

    plan: Plan
    utterances: np.ndarray  # [N] int64
    copies: np.ndarray  # [N] int64
    rates: np.ndarray  # [N] float64
    epoch: int
    padding: float  # share of padding in the epoch's frames
    share: RowShare

    def __len__(self) -> int:
        return len(self.plan)

    @overload
    def __getitem__(self, index: int) -> BatchSpec: ...
    @overload
    def __getitem__(self, index: slice) -> "EpochSpecs": ...
    def __getitem__(self, index):
        if isinstance(index, slice):
            return replace(self, plan=self.plan[index])
        rows, bucket = self.plan[index]
        return BatchSpec(
            self.utterances[rows],
            self.copies[rows],
            self.rates[rows],
            self.epoch,
            self.share.padded(bucket.rows),
            bucket.frames,
            bucket.labels,
        )


@dataclass(frozen=True)
class BatchLoader:
    """Function that reads, augments, transforms and pads the utterances of a batch.

    It can be pickled, and its results do not depend on the order of calls.
    """

    clips: Segments  # [N]
    labels: Labels | None  # None without transcripts
    inputs: Inputs
    seed: int = 0
    share: RowShare = field(default_factory=RowShare)

    def __call__(self, spec: BatchSpec) -> dict[str, Any]:
        """Return the arrays of a batch (docs/design.md, Contracts) and `problem` [B] str, '' for rows without one."""
        batch = {
            **{name: np.zeros(*array) for name, array in self.inputs.arrays(spec.rows, spec.frames).items()},
            "frames": np.zeros(spec.rows, np.int32),
            "labels": np.zeros((spec.rows, spec.labels), np.int32),
            "label_lengths": np.zeros(spec.rows, np.int32),
            "valid": np.zeros(spec.rows, bool),
            "utterance": np.full(spec.rows, -1, np.int32),
            "problem": np.full(spec.rows, "", f"<U{PROBLEM_WIDTH}"),
        }
        local = self.share.rows_of(spec.rows)
        rows = range(spec.rows)[local]
        rows = rows[: max(0, len(spec.utterances) - rows.start)]
        sources = shard_source.resolve_all(self.clips.path[spec.utterances[row]] for row in rows)
        for row in rows:
            batch["utterance"][row] = spec.utterances[row]
            try:
                self._load_row(batch, row, spec, sources)
            except (ValueError, OSError, MemoryError) as error:  # base classes of all readers' errors
                batch["problem"][row] = (str(error) or "does not fit into memory; split it")[:PROBLEM_WIDTH]
        return {name: array[local] for name, array in batch.items()}

    def _load_row(self, batch: dict[str, np.ndarray], row: int, spec: BatchSpec, sources: Mapping) -> None:
        utterance = int(spec.utterances[row])
        file = sources[self.clips.path[utterance]]
        if isinstance(file, Exception):
            raise file
        samples = self._read(utterance, file, spec, float(spec.rates[row]))
        loaded = self._make_row(samples, utterance, spec.epoch, int(spec.copies[row]), float(spec.rates[row]))
        if loaded.frames > spec.frames:
            raise ValueError(
                f"the clip has {loaded.frames} frames, but its duration of {self.clips.duration[utterance]} s allows at most "
                f"{spec.frames}: correct the duration (python -m input_pipeline.manifest check)"
            )
        if self.labels is not None:
            symbols = self.labels[utterance]
            if len(symbols) > spec.labels:
                raise ValueError(
                    f"the text has {len(symbols)} symbols, but the batch has room for {spec.labels}: correct the duration"
                )
            batch["labels"][row, : len(symbols)] = symbols
            batch["label_lengths"][row] = len(symbols)
        for name, array in loaded.arrays.items():
            batch[name][row, ...][tuple(slice(length) for length in np.shape(array))] = array
        batch["frames"][row] = loaded.frames
        batch["valid"][row] = True

    def _read(self, utterance: int, file: audio.File, spec: BatchSpec, rate: float) -> np.ndarray:
        """Return the samples [N] of an utterance. Raises AudioError, also for audio that is far longer than the batch."""
        settings = self.inputs.front_end.settings
        longest_s = 2 * spec.frames * settings.stride_ms / 1000 * max(rate, 1.0) + 1.0
        return audio.read(self.clips.of(utterance, file), settings.sample_rate_hz, longest_s=longest_s)[0]

    def _make_row(self, samples: np.ndarray, utterance: int, epoch: int, copy: int, rate: float) -> Row:
        """Return the frames and arrays of an utterance with samples [N], augmented."""
        rate_hz = self.inputs.front_end.settings.sample_rate_hz
        rng = rng_for(self.seed, epoch, utterance, copy)
        samples = self.inputs.augmentation.apply_audio(samples, rate_hz, rate=rate, rng=rng)
        return self.inputs.make_row(samples, rng)


def iterate(specs: Sequence[BatchSpec], loader: BatchLoader, settings: LoadSettings) -> Generator[dict[str, Any]]:
    """Load batches in order, ahead of use. Close the generator when done."""
    import grain  # takes half a second and imports jax, so only where batches are loaded

    options = grain.ReadOptions(num_threads=settings.threads, prefetch_buffer_size=settings.ahead)
    load = EndsWithParent(loader) if settings.workers else loader
    dataset = grain.MapDataset.source(specs).map(load).to_iter_dataset(options)
    if settings.workers:
        processes = grain.MultiprocessingOptions(settings.workers, per_worker_buffer_size=settings.from_worker)
        dataset = dataset.mp_prefetch(processes)
    iterator = iter(dataset)
    try:
        while True:
            with explain_lost_workers():
                batch = next(iterator, None)
            if batch is None:
                return
            if settings.workers:  # copied out of the memory shared with them, which is then released
                batch = {name: np.array(array) for name, array in batch.items()}
            yield batch
    finally:
        close = getattr(iterator, "close", None)
        if close is not None:
            close()
        if settings.workers:  # the memory of batches that were not used is shared, and referenced in a cycle
            del iterator, dataset, close
            gc.collect()
