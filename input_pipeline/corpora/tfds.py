"""A data set of TensorFlow Datasets, converted once into shards, in an environment that has TensorFlow:

    python3 -m venv tfds-env
    tfds-env/bin/pip install tensorflow-cpu tensorflow-datasets soundfile soxr fsspec tqdm
    tfds-env/bin/python -m input_pipeline.prepare tfds --name=librispeech --split=train_clean100 --output=data/librispeech

Training reads the shards without either. A data set that TensorFlow Datasets prepares from audio files needs `pydub` and
ffmpeg there, too, as it says itself. Audio that it keeps as files (lazily decoded configurations) stays as it is; samples
become FLAC, without loss.
"""

import argparse
import hashlib
import io
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import soundfile

from input_pipeline import audio, manifest
from input_pipeline.corpora.assemble import CorpusError, Prepared
from input_pipeline.manifest.packing import Packing, equal_ends

INSTALL = "tensorflow-cpu tensorflow-datasets soundfile soxr fsspec tqdm"
SPEAKERS = ("speaker", "speaker_id", "client_id", "spk_id")
SHARD_BYTES = 256e6
BITS = {16: "PCM_16", 24: "PCM_24"}


class Columns(NamedTuple):
    """The features of a data set that hold the audio and, '' where there is none, the text; the audio's rate, 0 if unknown."""

    audio: str
    text: str
    rate_hz: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the corpus's options to a command line."""
    parser.add_argument("--name", required=True, help="of the data set, with its configuration: common_voice/de")
    parser.add_argument("--split", required=True, help="several comma-separated; in TFDS's words, such as train[:10%%]")
    parser.add_argument("--output", required=True, help="folder, or s3://bucket/prefix, gs://bucket/prefix")
    parser.add_argument("--data_dir", help="where TFDS keeps its data (default: ~/tensorflow_datasets)")
    parser.add_argument("--shards", type=int, default=0, help="of each split (default: of about 256 MB)")
    parser.add_argument("--audio_key", default="", help="feature with the audio (default: the only one there is)")
    parser.add_argument("--text_key", default="", help="feature with the text; none (default: the only one there is)")
    parser.add_argument("--sample_rate", type=int, default=0, help="in Hz, where the data set does not say it")
    parser.add_argument("--bits", type=int, choices=sorted(BITS), default=16, help="of samples (default: 16)")


def prepare(args: argparse.Namespace) -> Prepared:
    """Let TFDS prepare the data set, and pack each split."""
    tfds = _import_tfds()
    builder = _build(tfds, args.name, args.data_dir)
    features = builder.info.features
    audio_key = _choose(args.audio_key, _keys(features, tfds.features.Audio), builder.info.supervised_keys, 0, "audio")
    text_key = _choose(args.text_key, _keys(features, tfds.features.Text), builder.info.supervised_keys, 1, "text")
    rate_hz = args.sample_rate or getattr(features[audio_key], "sample_rate", None) or 0
    manifests = []
    for split in args.split.split(","):
        packing, records = _packing(tfds, builder, split.strip(), Columns(audio_key, text_key, rate_hz), args)
        manifests.append(packing.run(records).manifest)
    splits = {path.rpartition("/")[2].removesuffix(".jsonl"): list(manifest.records(path)) for path in manifests}
    return Prepared(splits, f"in the environment that trains: --config.data.train={manifests[0]}")


def _import_tfds() -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # its news of the processor helps nobody here
    try:
        import tensorflow  # noqa: F401 - TFDS finds out late, and says less
        import tensorflow_datasets
    except ImportError as error:
        raise CorpusError(
            f"{error}: TensorFlow Datasets is needed once, to convert, best in an environment of its own:\n"
            f"  python3 -m venv tfds-env && tfds-env/bin/pip install {INSTALL}\n"
            "Then run the same line with tfds-env/bin/python; training does not need it"
        ) from error
    return tensorflow_datasets


def _build(tfds: Any, name: str, data_dir: str | None) -> Any:
    """Return the prepared data set; TFDS downloads it where it is not there."""
    try:
        builder = tfds.builder(name, data_dir=data_dir)
        builder.download_and_prepare()
    except Exception as error:  # it raises of all kinds, some with hundreds of lines
        first = next(iter(str(error).strip().splitlines()), "")
        raise CorpusError(
            f"--name={name}: TensorFlow Datasets cannot prepare it: {type(error).__name__}: {first}"
        ) from error
    return builder


def _keys(features: Mapping, kind: type) -> list[str]:
    return sorted(key for key, feature in features.items() if isinstance(feature, kind))


def _choose(asked: str, known: Sequence[str], supervised: Sequence[str] | None, place: int, what: str) -> str:
    """Return the feature asked for, or the only one, or that which TFDS calls input or target; '' for none."""
    if asked == "none" and what == "text":
        return ""
    named = supervised[place] if supervised and len(supervised) > place else ""
    candidates = [asked] if asked else [named] if named in known else list(known)
    if len(candidates) != 1 or candidates[0] not in known:
        there = ", ".join(known) or "none"
        hint = "; --text_key=none for audio without text" if what == "text" else ""
        raise CorpusError(f"--{what}_key={asked}: name one of the features with {what}, which are: {there}{hint}")
    return candidates[0]


def _packing(tfds: Any, builder: Any, split: str, columns: Columns, args: argparse.Namespace) -> tuple[Packing, Any]:
    """Return how a split is packed, and its records."""
    try:
        info = builder.info.splits[split]
        rows, size = int(info.num_examples), int(getattr(info, "num_bytes", 0) or 0)
        single = {key: True for key, feature in builder.info.features.items() if getattr(feature, "shape", None) == ()}
        decoders = tfds.decode.PartialDecoding(
            {**single, columns.audio: True},
            decoders={columns.audio: tfds.decode.SkipDecoding()},  # bytes of files, or samples as they are kept
        )
        dataset = builder.as_dataset(split=split, decoders=decoders)
    except (ValueError, KeyError) as error:
        there = ", ".join(builder.info.splits)
        raise CorpusError(f"--split={split}: {args.name} has {there}, and parts of them: train[:10%]") from error
    if rows == 0:
        raise CorpusError(f"--split={split}: there is nothing in it")
    shards = args.shards or max(1, min(rows, round(size / 2 / SHARD_BYTES)))  # FLAC takes about half
    if not 0 < shards <= rows:
        raise CorpusError(f"--shards={args.shards}: {split} has {rows} utterances; use 1 to {rows}")
    name = re.sub(r"[^\w.-]+", "_", split).strip("_")
    names = {key: feature for key, feature in builder.info.features.items() if hasattr(feature, "int2str")}

    examples = enumerate(_readable(tfds.as_numpy(dataset), f"{args.name} {split}"))

    def records(first: int, last: int) -> Iterator[tuple[Mapping, bytes]]:
        for row, example in examples:  # shards come in order: the data set is read once
            if row < first:  # of a shard that is there already
                continue
            where = f"{args.name} {split}, example {row}"
            content, seconds = encode(example.pop(columns.audio), columns.rate_hz, args.bits, where)
            line = {"audio_filepath": f"{name}/{row:07d}", "duration": max(round(seconds, 3), 0.001)}
            if columns.text:
                line["text"] = _plain(example.pop(columns.text))
            yield line | _describe(example, names), content
            if row == last - 1:
                return

    settings = (builder.info.full_name, split, rows, shards, *columns, args.bits)
    source = hashlib.sha256(repr(settings).encode()).hexdigest()
    return Packing(args.output, name, equal_ends(np.ones(rows, np.int64), shards), source), records


def _readable(examples: Iterable[dict], where: str) -> Iterator[dict]:
    """Yield examples; raise CorpusError for TensorFlow's own errors, which have pages."""
    rows = iter(examples)
    while True:
        try:
            example = next(rows)
        except StopIteration:
            return
        except Exception as error:
            raise CorpusError(f"{where}: {type(error).__name__}: {next(iter(str(error).splitlines()), '')}") from error
        yield example


def encode(samples: Any, rate_hz: int, bits: int, where: str) -> tuple[bytes, float]:
    """Return an audio file's content and its seconds, of a file's bytes or of samples [N] or [N, C] as FLAC.

    Whole numbers are samples of so many bits, others are from -1 to 1. Raises CorpusError.
    """
    if isinstance(samples, bytes):
        try:
            return samples, audio.info(samples).duration_s
        except audio.AudioError as error:
            raise CorpusError(f"{where}: {error}") from error
    if not rate_hz:
        raise CorpusError(f"{where}: the data set does not tell its sample rate; give it with --sample_rate")
    samples = np.asarray(samples)
    if np.issubdtype(samples.dtype, np.integer):
        top = 1 << (bits - 1)
        if samples.size and not -top <= samples.min() <= samples.max() < top:
            raise CorpusError(f"{where}: has samples beyond {bits} bits; give --bits=24, or another --audio_key")
        samples = samples.astype(np.int32) << (32 - bits)  # what soundfile takes for full scale
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format="FLAC", subtype=BITS[bits])
    return file.getvalue(), len(samples) / rate_hz


def _describe(example: Mapping, names: Mapping) -> dict:
    """Return an example's other features, which are single values; one that names the speaker as `speaker`."""
    described: dict[str, Any] = {}
    for key, value in example.items():
        if key in names:
            value = names[key].int2str(int(value)) if int(value) >= 0 else ""
        described[key] = _plain(value)
    speaker = next((key for key in SPEAKERS if key in described), "")
    if speaker:
        described["speaker"] = str(described.pop(speaker))
    return described


def _plain(value: Any) -> Any:
    """Make a value of NumPy one of JSON."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value.item() if hasattr(value, "item") else value
