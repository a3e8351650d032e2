"""What corpora in the formats of other toolkits have in common: recordings that are listed, with segments and channels."""

import argparse
import gzip
import io
import json
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from input_pipeline.corpora import assemble, custom
from input_pipeline.corpora.assemble import CorpusError, Preparation, Prepared, Recording
from input_pipeline.corpora.transcript_tables import SPLIT_NAMES


def add_arguments(parser: argparse.ArgumentParser, corpus: str, source: str) -> None:
    """Add the options common to these formats. source: description of the source, for the help."""
    assemble.add_arguments(parser, corpus, source)
    assemble.add_text_arguments(parser)


def add_root(parser: argparse.ArgumentParser) -> None:
    """Add the option --root."""
    text = "folder that relative paths of audio start from, if not the current one or that of the list"
    parser.add_argument("--root", metavar="FOLDER", help=text)


def find_audio(path: str, *folders: str | Path | None) -> Path:
    """Return a path of audio, which may be relative to one of these folders; the first one if it is nowhere."""
    candidates = [Path(folder or "", path) for folder in folders] or [Path(path)]
    return next((candidate for candidate in candidates if candidate.is_file()), candidates[0])


def text_of(value: object) -> str:
    """Return the text of an utterance, '' for None. Raises TypeError for what is not a string."""
    if value is not None and not isinstance(value, str):
        raise TypeError(f"the text is {value!r}, not a string")
    return value or ""


def seconds_of(value: Any) -> float:
    """Return a time in seconds. Raises TypeError or ValueError for what is none."""
    seconds = float(value)
    if not 0 <= seconds < math.inf:
        raise ValueError(f"{value!r} is no time in seconds")
    return seconds


def split_name(name: str, kind: str) -> str:
    """Return the split that the name of a list states: `cuts_dev.jsonl.gz`, of the kind `cuts`, is dev; '' is train."""
    rest = name.partition(".")[0].replace(kind, "").strip("_-.")
    return SPLIT_NAMES.get(rest.lower(), rest) or "train"


def find_lists(source: Path, *patterns: str) -> list[Path]:
    """Return the files with these patterns in a folder, or the source itself if it is one. Raises CorpusError."""
    found = [source] if source.is_file() else sorted({path for pattern in patterns for path in source.glob(pattern)})
    if not found:
        raise CorpusError(f"--source={source}: contains no {' or '.join(patterns)}: check the path")
    return found


def write(args: argparse.Namespace, splits: Mapping[str, Sequence[Recording]]) -> Prepared:
    """Apply the rule of the texts, leave out empty texts, read the headers, and write a manifest for each split."""
    rule = assemble.text_rule(args.text, args.language or "en", spell=args.spell_numbers)
    with_texts = {
        split: [one._replace(text=rule(one.text)) for one in recordings] for split, recordings in splits.items()
    }
    for split, recordings in with_texts.items():
        empty = [f"{one.audio} at {one.offset:g} s" for one in recordings if not one.text]
        assemble.report_skipped(f"no text, {split}", empty)
    usable = {split: [one for one in recordings if one.text] for split, recordings in with_texts.items()}
    preparation = Preparation(Path(args.target_dir), workers=args.workers)
    records = preparation.write(usable)
    return Prepared(records, custom.describe_next_step(preparation.folder, records, args.language))


def numbered(path: Path, lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield lines that are not blank with their place, FILE:LINE."""
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield f"{path}:{number}", line


def read_objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the objects of a JSONL file, which may be compressed with gzip, with their places. Raises CorpusError."""
    try:
        content = path.read_bytes()
        if content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
        lines = io.StringIO(content.decode())
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise CorpusError(f"{path} cannot be read ({error}): fetch it again") from error
    for where, line in numbered(path, lines):
        try:
            value = json.loads(line)
        except ValueError as error:
            raise CorpusError(f"{where}: not JSON ({error}): check the file") from error
        if not isinstance(value, dict):
            raise CorpusError(f"{where}: not a JSON object: check the file")
        yield where, value
