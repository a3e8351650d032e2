"""Convert a data set of TensorFlow Datasets to shards, in an environment with TensorFlow:

    python3 -m venv tfds-env
    tfds-env/bin/pip install tensorflow-cpu tensorflow-datasets soundfile soxr fsspec tqdm
    tfds-env/bin/python -m input_pipeline.prepare tfds --name=librispeech --split=train_clean100 --output=data/librispeech

Training reads the shards without TensorFlow. Data sets that TensorFlow Datasets prepares from audio files also need `pydub`
and ffmpeg in that environment. Audio stored as files (lazily decoded configurations) is kept unchanged; samples are encoded
as FLAC without loss.
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
    """Names of a data set's audio and text features (text '' for none), and the audio's sample rate (0 if unknown)."""

    audio: str
    text: str
    rate_hz: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the corpus's options to a command line."""
    parser.add_argument("--name", required=True, help="data set, with its configuration: common_voice/de")
    parser.add_argument("--split", required=True, help="splits, comma-separated, in TFDS's notation: train[:10%%]")
    parser.add_argument("--output", required=True, help="folder, or s3://bucket/prefix, gs://bucket/prefix")
    parser.add_argument("--data_dir", help="folder of TFDS's data (default: ~/tensorflow_datasets)")
    parser.add_argument("--shards", type=int, default=0, help="shards per split (default: of about 256 MB each)")
    parser.add_argument("--audio_key", default="", help="feature with the audio (default: the only one)")
    parser.add_argument("--text_key", default="", help="feature with the text, or none (default: the only one)")
    parser.add_argument("--sample_rate", type=int, default=0, help="in Hz, if the data set does not state it")
    parser.add_argument("--bits", type=int, choices=sorted(BITS), default=16, help="bits per sample (default: 16)")


def prepare(args: argparse.Namespace) -> Prepared:
    """Prepare the data set with TFDS, and pack each split."""
    tfds = _import_tfds()
    builder = _build(tfds, args.name, args.data_dir)
    features = builder.info.features
    supervised = builder.info.supervised_keys
    audio_key = _choose_feature(args.audio_key, _keys(features, tfds.features.Audio), supervised, 0, "audio")
    text_key = _choose_feature(args.text_key, _keys(features, tfds.features.Text), supervised, 1, "text")
    rate_hz = args.sample_rate or getattr(features[audio_key], "sample_rate", None) or 0
    manifests = []
    for split in args.split.split(","):
        packing, records = _make_packing(tfds, builder, split.strip(), Columns(audio_key, text_key, rate_hz), args)
        manifests.append(packing.run(records).manifest)
    splits = {path.rpartition("/")[2].removesuffix(".jsonl"): list(manifest.records(path)) for path in manifests}
    return Prepared(splits, f"in the environment for training: --config.data.train={manifests[0]}")


def _import_tfds() -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # hides messages about the processor
    try:
        import tensorflow  # noqa: F401 - TFDS only notices later that it is missing, with a less clear error
        import tensorflow_datasets
    except ImportError as error:
        raise CorpusError(
            f"{error}: TensorFlow Datasets is needed for the conversion; install it in a separate environment:\n"
            f"  python3 -m venv tfds-env && tfds-env/bin/pip install {INSTALL}\n"
            "Then run the same command with tfds-env/bin/python. Training does not need it"
        ) from error
    return tensorflow_datasets


def _build(tfds: Any, name: str, data_dir: str | None) -> Any:
    """Return the prepared data set, which TFDS downloads if necessary. Raises CorpusError."""
    try:
        builder = tfds.builder(name, data_dir=data_dir)
        builder.download_and_prepare()
    except Exception as error:  # of many types, some with hundreds of lines
        first = next(iter(str(error).strip().splitlines()), "")
        raise CorpusError(
            f"--name={name}: TensorFlow Datasets cannot prepare it: {type(error).__name__}: {first}"
        ) from error
    return builder


def _keys(features: Mapping, kind: type) -> list[str]:
    return sorted(key for key, feature in features.items() if isinstance(feature, kind))


def _choose_feature(given: str, known: Sequence[str], supervised: Sequence[str] | None, index: int, kind: str) -> str:
    """Return the given feature, else TFDS's input (index 0) or target (index 1), else the only one; '' for no text.

    Raises CorpusError.
    """
    if given == "none" and kind == "text":
        return ""
    default = supervised[index] if supervised and len(supervised) > index else ""
    candidates = [given] if given else [default] if default in known else list(known)
    if len(candidates) != 1 or candidates[0] not in known:
        hint = ", or none for audio without text" if kind == "text" else ""
        raise CorpusError(
            f"--{kind}_key={given}: choose one of the features with {kind}, {', '.join(known) or '(none)'}{hint}"
        )
    return candidates[0]


def _make_packing(
    tfds: Any, builder: Any, split: str, columns: Columns, args: argparse.Namespace
) -> tuple[Packing, Any]:
    """Return the packing of a split, and the function that yields its records. Raises CorpusError."""
    try:
        info = builder.info.splits[split]
        rows, size = int(info.num_examples), int(getattr(info, "num_bytes", 0) or 0)
        single = {key: True for key, feature in builder.info.features.items() if getattr(feature, "shape", None) == ()}
        decoders = tfds.decode.PartialDecoding(
            {**single, columns.audio: True},
            decoders={columns.audio: tfds.decode.SkipDecoding()},  # bytes of files, or samples, as stored
        )
        dataset = builder.as_dataset(split=split, decoders=decoders)
    except (ValueError, KeyError) as error:
        splits = ", ".join(builder.info.splits)
        raise CorpusError(
            f"--split={split}: {args.name} has {splits}: choose one of them, or a part such as train[:10%]"
        ) from error
    if rows == 0:
        raise CorpusError(f"--split={split}: it has no utterances: choose another split")
    shards = args.shards or max(1, min(rows, round(size / 2 / SHARD_BYTES)))  # FLAC halves the size of samples
    if not 0 < shards <= rows:
        raise CorpusError(f"--shards={args.shards}: {split} has {rows} utterances: use 1 to {rows}")
    name = re.sub(r"[^\w.-]+", "_", split).strip("_")
    names = {key: feature for key, feature in builder.info.features.items() if hasattr(feature, "int2str")}

    examples = enumerate(_readable(tfds.as_numpy(dataset), f"{args.name} {split}"))

    def records(first: int, last: int) -> Iterator[tuple[Mapping, bytes]]:
        for row, example in examples:  # shards are written in order, so the data set is read once
            if row < first:  # in a shard that exists already
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
    """Yield examples; raise CorpusError with the first line of TensorFlow's errors, which are long."""
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
    """Return the content and the duration in seconds of an audio file: unchanged bytes, or samples [N] or [N, C] as FLAC.

    Integers are samples with this number of bits; floating-point samples are within -1..1. Raises CorpusError.
    """
    if isinstance(samples, bytes):
        try:
            return samples, audio.info(samples).duration_s
        except audio.AudioError as error:
            raise CorpusError(f"{where}: {error}") from error
    if not rate_hz:
        raise CorpusError(f"{where}: the data set does not state its sample rate: set --sample_rate")
    samples = np.asarray(samples)
    if np.issubdtype(samples.dtype, np.integer):
        top = 1 << (bits - 1)
        if samples.size and not -top <= samples.min() <= samples.max() < top:
            raise CorpusError(f"{where}: samples exceed {bits} bits: set --bits=24, or another --audio_key")
        samples = samples.astype(np.int32) << (32 - bits)  # full scale for soundfile
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format="FLAC", subtype=BITS[bits])
    return file.getvalue(), len(samples) / rate_hz


def _describe(example: Mapping, names: Mapping) -> dict:
    """Return an example's other features, which are single values; the one with the speaker is renamed to `speaker`."""
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
    """Convert a NumPy value to a JSON value."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value.item() if hasattr(value, "item") else value
