"""From manifest rows to batches of spectrograms, through grain: in threads, or in worker processes.

The batch plan is the source; `BatchLoader` turns one planned batch into arrays and is all that runs in threads or
workers. It never fails for a bad clip: the row becomes one with `valid` false, and `problem` says what was wrong
with it.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, overload

import grain
import numpy as np
from tqdm import tqdm

from input_pipeline import audio, shard_source
from input_pipeline.augment import Augmentation, rng_for
from input_pipeline.batch_plan import Plan
from input_pipeline.features import FeatureSettings, FeatureStats, extract, feature_size, frame_count, normalise
from input_pipeline.manifest import Manifest
from input_pipeline.text import UnknownCharacters, Vocabulary
from input_pipeline.text import normalise as normalise_text

ROWS_AT_ONCE = 8192  # transcripts that are worked on as int64
PROBLEM_WIDTH = 300  # characters of a row's problem that are kept


@dataclass(frozen=True)
class Labels:
    """Symbol indices of all transcripts, end to end: a million transcripts are two arrays."""

    symbols: np.ndarray  # [sum of lengths], the smallest unsigned type that holds the vocabulary, or int32
    offsets: np.ndarray  # [N + 1] int64

    def __getitem__(self, row: int) -> np.ndarray:
        return self.symbols[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """[N] int64."""
        return np.diff(self.offsets)

    def needed_frames(self) -> np.ndarray:
        """Frames that CTC needs: one a symbol and one between equal neighbours. [N] int64."""
        needed = self.lengths
        for first in range(0, len(needed), ROWS_AT_ONCE):  # in parts: a hundred million symbols are large as int64
            offsets = self.offsets[first : first + ROWS_AT_ONCE + 1]
            symbols = self.symbols[offsets[0] : offsets[-1]]
            offsets = offsets - offsets[0]
            equal = np.zeros(len(symbols) + 1, np.int64)
            equal[1:-1] = symbols[1:] == symbols[:-1]
            equal[offsets[(offsets > 0) & (offsets < len(symbols))]] = 0  # not across transcripts
            totals = np.append(0, np.cumsum(equal[:-1]))
            needed[first : first + ROWS_AT_ONCE] += totals[offsets[1:]] - totals[offsets[:-1]]
        return needed

    def select(self, rows: np.ndarray) -> "Labels":
        """Keep the transcripts of these rows [n], in this order."""
        parts = [self[row] for row in rows.tolist()]
        offsets = np.append(0, np.cumsum(self.lengths[rows]))
        return Labels(np.concatenate([self.symbols[:0], *parts]), offsets)


def encode_transcripts(manifest: Manifest, vocabulary: Vocabulary, language: str) -> tuple[Labels, dict[int, str]]:
    """Turn normalised transcripts into symbols; those with unknown characters become empty and are named.

    Returns the labels and {row: problem}.
    """
    kind = np.min_scalar_type(vocabulary.size)
    symbols, offsets, problems = bytearray(), np.zeros(len(manifest) + 1, np.int64), {}
    for row, text in enumerate(tqdm(manifest.text, desc="encode transcripts", delay=2.0, leave=False)):
        try:
            encoded = vocabulary.encode(normalise_text(text, language))
            symbols += encoded.astype(kind).tobytes()
            if not len(encoded):
                problems[row] = "the text is empty"
        except UnknownCharacters as error:
            problems[row] = str(error)
        offsets[row + 1] = len(symbols)
    return Labels(np.frombuffer(symbols, kind), offsets // kind.itemsize), problems


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
    multiple: int = 1  # of devices: rows of a batch are raised to it

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
            -(-bucket.rows // self.multiple) * self.multiple,
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
    features: FeatureSettings
    normalisation: str
    stats: FeatureStats | None
    augmentation: Augmentation = field(default_factory=Augmentation)
    seed: int = 0
    process: int = 0  # this host, which loads its share of each batch's rows
    processes: int = 1

    def __call__(self, spec: BatchSpec) -> dict[str, Any]:
        """Make the arrays of one batch (docs/design.md, Contracts) and `problem` [B] str, '' where there is none."""
        bins = feature_size(self.features)
        batch = {
            "spectrogram": np.zeros((spec.rows, spec.frames, bins), np.float32),
            "frames": np.zeros(spec.rows, np.int32),
            "labels": np.zeros((spec.rows, spec.labels), np.int32),
            "label_lengths": np.zeros(spec.rows, np.int32),
            "valid": np.zeros(spec.rows, bool),
            "utterance": np.full(spec.rows, -1, np.int32),
            "problem": np.full(spec.rows, "", f"<U{PROBLEM_WIDTH}"),
        }
        share = spec.rows // self.processes
        local = slice(self.process * share, (self.process + 1) * share)
        mine = range(spec.rows)[local]
        mine = mine[: max(0, len(spec.utterances) - mine.start)]
        fetched = shard_source.fetched(self.paths[spec.utterances[row]] for row in mine)
        for row in mine:
            batch["utterance"][row] = spec.utterances[row]
            try:
                self._load_row(batch, row, spec, fetched)
            except (ValueError, OSError) as error:  # every reader's own errors are one of these
                batch["problem"][row] = str(error)[:PROBLEM_WIDTH]
        return {name: array[local] for name, array in batch.items()}

    def _load_row(self, batch: dict[str, np.ndarray], row: int, spec: BatchSpec, fetched: Mapping) -> None:
        utterance = int(spec.utterances[row])
        source = fetched.get(self.paths[utterance])
        if isinstance(source, Exception):
            raise source
        features = self.spectrogram(utterance, spec.epoch, int(spec.copies[row]), float(spec.rates[row]), source)
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

    def spectrogram(
        self, utterance: int, epoch: int, copy: int, rate: float, source: audio.Source | None = None
    ) -> np.ndarray:
        """Make the normalised, augmented features [T, F] of one utterance, whose audio may be here already."""
        samples, _ = audio.read(self.paths[utterance] if source is None else source, self.features.sample_rate_hz)
        rng = rng_for(self.seed, epoch, utterance, copy)
        samples = self.augmentation.apply_audio(samples, self.features.sample_rate_hz, rate=rate, rng=rng)
        features = normalise(extract(samples, self.features), self.normalisation, self.stats)
        return self.augmentation.apply_features(features, rng)


def iterate(
    specs: Sequence[BatchSpec], loader: BatchLoader, *, workers: int = 0, threads: int = 2, prefetch: int = 4
) -> Generator[dict[str, Any]]:
    """Load batches ahead, in order: with threads here, or in `workers` processes with threads each.

    Close it when done.
    """
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(prefetch, threads))
    dataset = grain.MapDataset.source(specs).map(loader).to_iter_dataset(options)
    if workers:
        buffers = max(1, prefetch // workers)
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=buffers))
    iterator = iter(dataset)
    try:
        for batch in iterator:
            if workers:  # out of the memory shared with them, which is then given back
                batch = {name: np.array(array) for name, array in batch.items()}
            yield batch
    finally:
        close = getattr(iterator, "close", None)
        if close is not None:
            close()
