"""From manifest rows to batches of spectrograms, through grain: in threads, or in worker processes.

The batch plan is the source; `BatchLoader` turns one planned batch into arrays and is all that runs in threads or
workers. It never fails for a bad clip: the row becomes one with `valid` false, and `problem` says what was wrong
with it.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, overload

import numpy as np

from input_pipeline import audio
from input_pipeline.audio.features import FeatureSettings, FrontEnd, frame_count
from input_pipeline.augment import Augmentation, rng_for
from input_pipeline.batches.labels import Labels
from input_pipeline.batches.plan import Plan
from input_pipeline.manifest import Manifest
from input_pipeline.shards import source as shard_source

PROBLEM_WIDTH = 300  # characters of a row's problem that are kept


def planned_frames(
    manifest: Manifest,
    settings: FeatureSettings,
    rates: np.ndarray | None = None,
    utterances: np.ndarray | slice = slice(None),
) -> np.ndarray:
    """Frames that each utterance will have at most, by its duration: [N] int64.

    Durations are taken as rounded to the manifest's unit, so half a unit is allowed for; rates [N] are the speed
    factors of augmentation, utterances [N] rows of the manifest (its unit is that of all rows: a selection may look
    coarser). A clip that is longer all the same is found when it is read.
    """
    duration = manifest.duration[utterances] + manifest.duration_unit_s / 2
    return frames_of(duration / (1.0 if rates is None else rates), settings)


def frames_of(duration: np.ndarray, settings: FeatureSettings) -> np.ndarray:
    """Frames that clips of these seconds [N] will have at most, 1 at least: [N] int64."""
    samples = np.ceil(duration * settings.sample_rate_hz) + 1
    return np.maximum(frame_count(samples.astype(np.int64), settings), 1)


@dataclass(frozen=True)
class LoadSettings:
    """How batches are loaded: by `threads` of this process, or of each of `workers` processes; prefetch: batches ahead.

    Raises ValueError naming field, value and mend.
    """

    workers: int = 0
    threads: int = 2
    prefetch: int = 4

    def __post_init__(self):
        """Refuse what cannot load."""
        for name, least, mend in (
            ("workers", 0, "use 0 for threads only, or more"),
            ("threads", 1, "use 1 or more"),
            ("prefetch", 1, "use 1 or more"),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"config.data.{name} is {getattr(self, name)!r}: {mend}")


@dataclass(frozen=True)
class RowShare:
    """Which rows of each batch one process loads: the `process`-th of `processes` equal parts.

    multiple: of devices and accumulation parts, to which the rows of a batch are filled up.
    """

    multiple: int = 1
    process: int = 0
    processes: int = 1

    def filled(self, rows: int) -> int:
        """Return the rows of a batch of `rows` utterances, filling rows included."""
        return -(-rows // self.multiple) * self.multiple

    def rows_of(self, rows: int) -> slice:
        """Return this process's rows of a batch of `rows`."""
        size = rows // self.processes
        return slice(self.process * size, (self.process + 1) * size)


@dataclass(frozen=True)
class BatchSpec:
    """One batch to make: which utterances, in which epoch and copy, at which speed, in which shape."""

    utterances: np.ndarray  # [n] int64, rows of the manifest
    copies: np.ndarray  # [n] int64
    rates: np.ndarray  # [n] float64
    epoch: int
    rows: int  # B, at least n
    frames: int  # T
    labels: int  # L


@dataclass(frozen=True)
class EpochSpecs(Sequence[BatchSpec]):
    """The batches of an epoch: its plan joined with what its rows are.

    Columns, whatever their number of batches: a batch's spec is made when it is asked for, and a slice is a view.
    """

    plan: Plan
    utterances: np.ndarray  # [N] int64
    copies: np.ndarray  # [N] int64
    rates: np.ndarray  # [N] float64
    epoch: int
    padding: float  # share of the epoch's frames that no utterance fills
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
            self.share.filled(bucket.rows),
            bucket.frames,
            bucket.labels,
        )


@dataclass(frozen=True)
class BatchLoader:
    """Read, augment, transform and pad the utterances of a batch.

    Picklable, and without state that an order could change.
    """

    paths: Sequence[str]  # [N]
    duration: np.ndarray  # [N] float64, seconds
    labels: Labels | None  # None where there is no text to learn from or to compare with
    front_end: FrontEnd
    augmentation: Augmentation = field(default_factory=Augmentation)
    seed: int = 0
    share: RowShare = field(default_factory=RowShare)

    def __call__(self, spec: BatchSpec) -> dict[str, Any]:
        """Make the arrays of one batch (docs/design.md, Contracts) and `problem` [B] str, '' where there is none."""
        batch = {
            "spectrogram": np.zeros((spec.rows, spec.frames, self.front_end.size), np.float32),
            "frames": np.zeros(spec.rows, np.int32),
            "labels": np.zeros((spec.rows, spec.labels), np.int32),
            "label_lengths": np.zeros(spec.rows, np.int32),
            "valid": np.zeros(spec.rows, bool),
            "utterance": np.full(spec.rows, -1, np.int32),
            "problem": np.full(spec.rows, "", f"<U{PROBLEM_WIDTH}"),
        }
        local = self.share.rows_of(spec.rows)
        mine = range(spec.rows)[local]
        mine = mine[: max(0, len(spec.utterances) - mine.start)]
        sources = shard_source.resolve_all(self.paths[spec.utterances[row]] for row in mine)
        for row in mine:
            batch["utterance"][row] = spec.utterances[row]
            try:
                self._load_row(batch, row, spec, sources)
            except (ValueError, OSError) as error:  # every reader's own errors are one of these
                batch["problem"][row] = str(error)[:PROBLEM_WIDTH]
        return {name: array[local] for name, array in batch.items()}

    def _load_row(self, batch: dict[str, np.ndarray], row: int, spec: BatchSpec, sources: Mapping) -> None:
        utterance = int(spec.utterances[row])
        source = sources[self.paths[utterance]]
        if isinstance(source, Exception):
            raise source
        features = self.spectrogram(source, utterance, spec.epoch, int(spec.copies[row]), float(spec.rates[row]))
        if len(features) > spec.frames:
            raise ValueError(
                f"{len(features)} frames where its duration of {self.duration[utterance]} s promised at most "
                f"{spec.frames}; mend the duration (python -m input_pipeline.manifest check)"
            )
        if self.labels is not None:
            symbols = self.labels[utterance]
            if len(symbols) > spec.labels:
                raise ValueError(f"{len(symbols)} symbols in a batch of {spec.labels}: its duration is wrong")
            batch["labels"][row, : len(symbols)] = symbols
            batch["label_lengths"][row] = len(symbols)
        batch["spectrogram"][row, : len(features)] = features
        batch["frames"][row] = len(features)
        batch["valid"][row] = True

    def spectrogram(self, source: audio.Source, utterance: int, epoch: int, copy: int, rate: float) -> np.ndarray:
        """Make the normalised, augmented features [T, F] of an utterance from its audio."""
        rate_hz = self.front_end.settings.sample_rate_hz
        samples, _ = audio.read(source, rate_hz)
        rng = rng_for(self.seed, epoch, utterance, copy)
        samples = self.augmentation.apply_audio(samples, rate_hz, rate=rate, rng=rng)
        return self.augmentation.apply_features(self.front_end(samples), rng)


def iterate(specs: Sequence[BatchSpec], loader: BatchLoader, how: LoadSettings) -> Generator[dict[str, Any]]:
    """Load batches ahead of their use, in order. Close the generator when done."""
    import grain  # half a second, and jax: for loading alone

    options = grain.ReadOptions(num_threads=how.threads, prefetch_buffer_size=max(how.prefetch, how.threads))
    dataset = grain.MapDataset.source(specs).map(loader).to_iter_dataset(options)
    if how.workers:
        buffers = max(1, how.prefetch // how.workers)
        processes = grain.MultiprocessingOptions(num_workers=how.workers, per_worker_buffer_size=buffers)
        dataset = dataset.mp_prefetch(processes)
    iterator = iter(dataset)
    try:
        for batch in iterator:
            if how.workers:  # out of the memory shared with them, which is then given back
                batch = {name: np.array(array) for name, array in batch.items()}
            yield batch
    finally:
        close = getattr(iterator, "close", None)
        if close is not None:
            close()
