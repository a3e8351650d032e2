"""Parquet files of Hugging Face data sets: a column with audio (bytes, or a path beside the file) and one with text.

--source is a parquet file or a folder with them, at any depth; train-00000-of-00002.parquet belongs to the split train.
The audio is written unchanged into the target folder. Requires pyarrow (the extra `parquet`).
"""

import argparse
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import soundfile
from tqdm import tqdm

from input_pipeline.corpora import assemble, listed
from input_pipeline.corpora.assemble import CorpusError, Prepared, Recording
from input_pipeline.storage.download import BAR_DELAY_S
from input_pipeline.storage.file_kind import TITLES

AUDIO_NAMES = ("audio", "speech", "file", "path")
SPEAKER_NAMES = (*TITLES["speaker"], "speaker_name")
ENDINGS = {"WAV": "wav", "WAVEX": "wav", "FLAC": "flac", "OGG": "ogg", "MP3": "mp3", "MPEG": "mp3", "AIFF": "aiff"}
ROWS = 64  # read at once


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the corpus's options to a command line."""
    listed.add_arguments(parser, "huggingface", "*.parquet")
    names = {"audio": AUDIO_NAMES, "text": TITLES["text"], "speaker": SPEAKER_NAMES}
    for column, known in names.items():
        text = f"the column with the {column} (default: the first existing one of {', '.join(known)})"
        parser.add_argument(f"--{column}_column", metavar="NAME", help=text)


def prepare(args: argparse.Namespace) -> Prepared:
    """Write the audio; write a manifest for each split."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise CorpusError("Parquet files need pyarrow: install it with `pip install pyarrow`") from error
    splits: dict[str, list[Recording]] = {}
    for path in listed.find_lists(Path(args.source), "**/*.parquet"):
        try:
            table = pyarrow.parquet.ParquetFile(path)
        except (OSError, pyarrow.ArrowException) as error:
            raise CorpusError(f"{path} is not a Parquet file ({error}): fetch it again") from error
        split = listed.split_name(path.name.partition("-")[0], "")
        folder = Path(args.target_dir, "audio", path.stem)
        recordings = read_rows(_rows(table, args, path), folder, path.parent)
        total = table.metadata.num_rows
        splits.setdefault(split, []).extend(tqdm(recordings, path.name, total, unit=" rows", delay=BAR_DELAY_S))
    return listed.write(args, splits)


def _rows(table: Any, args: argparse.Namespace, path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows as audio, text and speaker."""
    names = table.schema_arrow.names
    columns = {
        "audio": choose_column(names, args.audio_column, AUDIO_NAMES, path),
        "text": choose_column(names, args.text_column, TITLES["text"], path),
    }
    if args.speaker_column or set(names) & set(SPEAKER_NAMES):
        columns["speaker"] = choose_column(names, args.speaker_column, SPEAKER_NAMES, path)
    for batch in table.iter_batches(ROWS, columns=list(columns.values())):
        for row in batch.to_pylist():
            yield {name: row[column] for name, column in columns.items()}


def choose_column(names: list[str], asked: str | None, known: tuple[str, ...], path: Path) -> str:
    """Return the column that is asked for, or the first known one. Raises CorpusError."""
    found = next((name for name in ([asked] if asked else known) if name in names), None)
    if found is None:
        raise CorpusError(
            f"{path}: no column {asked or ' or '.join(known)}: it has {', '.join(names)}; name one of them"
        )
    return found


def read_rows(rows: Iterator[Mapping[str, Any]], folder: Path, beside: Path) -> Iterator[Recording]:
    """Yield the utterances; their audio is written to `folder`, unless it lies in a file beside the Parquet file."""
    unreadable = []
    for number, row in enumerate(rows):
        try:
            text = listed.text_of(row["text"])
        except TypeError as error:
            raise CorpusError(f"row {number} for {folder.name}: {error}: name another --text_column") from error
        content, place = _content(row["audio"])
        speaker = str(row.get("speaker") or "")
        if content is None and place:
            yield Recording(listed.find_audio(place, beside, ""), text, speaker)
            continue
        try:
            ending = ENDINGS[soundfile.info(io.BytesIO(content or b"")).format]
        except (soundfile.SoundFileError, KeyError) as error:
            reason = str(getattr(error, "error_string", error)).rstrip(".") if content else "no audio"
            unreadable.append(f"row {number} ({reason})")
            continue
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{number:08d}.{ending}"
        path.write_bytes(content or b"")
        yield Recording(path, text, speaker)
    assemble.report_skipped(f"audio that libsndfile cannot read, for {folder.name}", unreadable)


def _content(value: Any) -> tuple[bytes | None, str]:
    """Return the bytes of an audio cell (None: it has none), and its path ('': it has none)."""
    if isinstance(value, Mapping):
        return value.get("bytes"), str(value.get("path") or "")
    return (value, "") if isinstance(value, bytes) else (None, str(value or ""))
