"""Tables of a user's recordings: which there are, what their columns mean, and which file each row is about."""

import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from input_pipeline.corpora import assemble
from input_pipeline.corpora.assemble import CorpusError
from input_pipeline.storage.file_kind import RECORDS, TITLES, WESTERN, file_kind
from input_pipeline.storage.paths import why_missing
from input_pipeline.storage.tables import TableError, read_records, read_table, read_text

SPLIT_NAMES = {"train": "train", "training": "train", "dev": "dev", "valid": "dev", "validation": "dev", "test": "test"}
TABLE_ENDINGS = (".csv", ".tsv", ".xlsx")
# Columns that make a row a part of its file, which would be read whole.
PARTS = ("offset", "start", "end", "begin", "stop", "start_time", "end_time", "channel", "channels_selector")
WHOLE = ("", "0", "0.0")  # values of these columns that change nothing
MEASURED = ("duration", "sample_rate", "channels", "audio_filepath", "text", "speaker")  # keys that the scan writes
DRIVE = re.compile(r"[A-Za-z]:/")


@dataclass(frozen=True)
class TableOptions:
    """How to read tables: names of columns given as options, by column; encoding ('' to recognise it); ignored columns."""

    names: Mapping[str, str | None]
    encoding: str = ""
    ignored: frozenset[str] = frozenset()
    target: Path = Path()  # folder of the manifests to write


@dataclass
class Transcripts:
    """The transcripts of a folder by the id of the audio, which is its path in the folder or its name."""

    key: str  # kind of the ids, "path" or "name"
    texts: list[tuple[str, str]] = field(default_factory=list)
    speakers: dict[str, str] = field(default_factory=dict)
    splits: dict[str, str] = field(default_factory=dict)
    extra: dict[str, dict] = field(default_factory=dict)  # other keys of records
    elsewhere: list[str] = field(default_factory=list)  # audio outside the folder


def find_tables(source: Path, table: str | None, options: TableOptions) -> dict[Path, str]:
    """Return the tables to read with the split in their name, '' for none. Raises CorpusError, TableError."""
    if table is not None:
        path = Path(table) if Path(table).is_file() else source / table
        if not path.is_file():
            raise CorpusError(f"--table={table}: no such file, nor in {source}: check the path")
        if path.resolve().parent == options.target.resolve() and path.name in (
            "train.jsonl",
            "dev.jsonl",
            "test.jsonl",
        ):
            raise CorpusError(f"--table={table}: a manifest to write would replace it: choose another --target_dir")
        find_columns(path, options, required=True)
        return {path: SPLIT_NAMES.get(path.stem.lower(), "")}
    usable, faults = [], []
    for path in list_tables(source):
        try:
            if find_columns(path, options, required=False):
                usable.append(path)
        except TableError as error:
            faults.append(str(error))
    if not usable:
        for fault in faults:
            print(f"  not read: {fault}")
    splits = {path: SPLIT_NAMES.get(path.stem.lower(), "") for path in usable}
    if any(splits.values()):
        return {path: split for path, split in splits.items() if split}
    if len(usable) > 1:
        raise CorpusError(
            f"--source={source}: several tables ({', '.join(p.name for p in usable)}): choose one with --table"
        )
    return splits


def list_tables(source: Path) -> list[Path]:
    """List the tables in a folder, except hidden files and those that Excel writes beside an open one."""
    paths = (path for path in source.iterdir() if path.suffix.lower() in TABLE_ENDINGS)
    return sorted(path for path in paths if not path.name.startswith((".", "~$")))


def find_columns(path: Path, options: TableOptions, required: bool) -> dict[str, str]:
    """Return the names of a table's columns by their meaning; {} if path or text is missing.

    Raises CorpusError if they are missing from a required table; TableError.
    """
    header = next(read_table(path, options.encoding, lenient=not required), [])
    columns = {}
    for column, known in TITLES.items():
        given = options.names.get(column)
        matching = [
            name for name in ([given] if given else known) for title in header if title.strip().lower() == name.lower()
        ]
        if matching:
            columns[column] = matching[0].lower()
        elif given and required:
            raise CorpusError(f"{path}: no column {given!r}: use one of {', '.join(header)}")
        elif given:
            return {}
    missing = {"path", "text"} - columns.keys()
    if missing and required:
        listed = "; ".join(f"--{column}_column, or {', '.join(TITLES[column])}" for column in sorted(missing))
        raise CorpusError(
            f"{path}: its columns {', '.join(header) or '(none)'} do not include {' and '.join(missing)} ({listed})"
        )
    return {} if missing else columns


def read_tables(tables: Mapping[Path, str], source: Path, files: Sequence[str], options: TableOptions) -> Transcripts:
    """Read the rows of tables. Raises CorpusError, TableError.

    A path may be relative to the folder or to the table, absolute, without its ending, or a unique file name.
    """
    transcripts = Transcripts("path")
    finder = _Finder(files, source)
    too_long: list[str] = []
    contradictory: list[str] = []
    lost: list[str] = []
    for table, split in tables.items():
        columns = find_columns(table, options, required=True)
        kind = file_kind(table)
        if kind.encoding == WESTERN and not options.encoding:
            print(f"note: {table} is not UTF-8; if its letters come out wrong, name its encoding: --encoding=cp1250")
        print(f"reading {table}, {kind} ({', '.join(f'{column}: {name}' for column, name in columns.items())})")
        header, *rows = read_table(table, options.encoding)
        titles = [title.strip().lower() for title in header]
        _refuse_parts(table, titles, rows, options.ignored)
        indices = {column: titles.index(name) for column, name in columns.items()}
        others = _other_keys(table, kind.form, columns, options)
        for number, row in enumerate(rows):
            values = {column: row[index].strip() if index < len(row) else "" for column, index in indices.items()}
            if not values["path"]:
                continue
            if any(field.strip() for field in row[len(header) :]):
                too_long.append(f"{values['path']} ({table.name})")
                continue
            name, outside = finder.find(values["path"], table.parent)
            if outside:
                transcripts.elsewhere.append(outside)
            elif name not in finder.known and (reason := why_missing(str(source / values["path"]))):
                lost.append(f"{values['path']!r}: {reason}")
            transcripts.texts.append((name, _text(values["text"], source, table.parent, options.encoding)))
            transcripts.speakers[name] = values.get("speaker", "")
            transcripts.extra[name] = others[number] if others else {}
            row_split = values.get("split", "").lower()
            chosen = SPLIT_NAMES.get(row_split, row_split) or split or "train"
            if transcripts.splits.setdefault(name, chosen) != chosen:
                contradictory.append(f"{values['path']} ({transcripts.splits[name]} and {chosen})")
    assemble.report_skipped("more fields than the header; put quotes around texts with commas", too_long)
    for line in lost[: assemble.MAX_LISTED]:
        print(f"  not found: {line}")
    _refuse_splits(transcripts, tables, source, contradictory)
    return transcripts


def _refuse_splits(
    transcripts: Transcripts, tables: Mapping[Path, str], source: Path, contradictory: Sequence[str]
) -> None:
    """Raise CorpusError for audio in two splits, and for splits with other names."""
    if contradictory:
        listed = ", ".join(contradictory[: assemble.MAX_LISTED])
        raise CorpusError(
            f"--source={source}: {len(contradictory)} lines assign audio to a second split: {listed}: keep each file in one "
            "split"
        )
    unknown = sorted(set(transcripts.splits.values()) - set(SPLIT_NAMES.values()))
    if unknown:
        raise CorpusError(f"splits {', '.join(unknown)} in {', '.join(map(str, tables))}: use train, dev and test")


def _refuse_parts(table: Path, titles: Sequence[str], rows: Sequence[Sequence[str]], ignored: frozenset[str]) -> None:
    """Raise CorpusError for a column that says that a row is a part of its file: the file would be read whole."""
    for index, title in enumerate(titles):
        if title not in PARTS or title in ignored:
            continue
        for number, row in enumerate(rows, start=2):
            if index < len(row) and row[index].strip() not in WHOLE:
                raise CorpusError(
                    f"{table}: column {title!r} ({row[index].strip()!r} in row {number}) says that rows are parts of files, "
                    "and whole files would be read: write a manifest with offset and duration yourself, cut the files, or "
                    f"name what to ignore: --ignore_columns={title}"
                )


def _other_keys(table: Path, form: str, columns: Mapping[str, str], options: TableOptions) -> list[dict]:
    """Return the keys of each record that have no meaning here, which a manifest keeps; [] for tables."""
    if form not in RECORDS or form in ("table", "xlsx"):
        return []
    used = {*columns.values(), *MEASURED, *PARTS, *options.ignored}
    return [
        {key: value for key, value in record.items() if key.lower() not in used}
        for record in read_records(table, options.encoding)
    ]


def _text(written: str, source: Path, folder: Path, encoding: str) -> str:
    """Return a text; where a table names a text file instead, its content."""
    if not written.lower().endswith(".txt"):
        return written
    path = written.replace("\\", "/")
    found = next((parent / path for parent in (source, folder) if (parent / path).is_file()), None)
    if found is None:
        raise CorpusError(f"{written}: no such text file, nor in {source} or {folder}: copy it there, or write texts")
    return " ".join(read_text(found, encoding).split())


class _Finder:
    """Finds the audio that rows are about, in whichever way its path is written."""

    def __init__(self, files: Sequence[str], source: Path):
        self._source = source
        by_name: dict[str, str] = {}
        by_path: dict[str, str] = {}
        for path in files:
            file_id = path_id(path, source)
            paths = file_id, composed(os.path.relpath(path, source)), composed(os.path.abspath(path))
            by_path |= dict.fromkeys(paths, file_id)
            for name in (composed(os.path.basename(path)), composed(assemble.file_id(path))):
                by_name[name] = file_id if by_name.get(name, file_id) == file_id else ""
        self.known = frozenset(by_path.values())
        self._by_path = by_path
        self._by_spelling = by_name | by_path  # '' for a name shared by several files
        self._folded: dict[str, str] = {}
        for name, file_id in self._by_spelling.items():
            folded = name.casefold()
            self._folded[folded] = file_id if self._folded.get(folded, file_id) == file_id else ""

    def find(self, written: str, folder: Path) -> tuple[str, str]:
        """Return the id of a path in a table of this folder, and the path itself if it is outside the source, else ''."""
        path = unquote(urlsplit(written).path) if written.startswith("file:") else written
        path = os.path.normpath(os.path.expanduser(path.replace("\\", "/")))
        key = composed(path)
        if key in self._by_spelling:
            return self._by_spelling[key] or path_id(self._source / path, self._source), ""
        for parent in (self._source, folder):
            if (parent / path).is_file():
                return path_id(parent / path, self._source), str(parent / path)
        if found := self._folded.get(key.casefold()):
            return found, ""
        if os.path.isabs(path) or DRIVE.match(path):  # written on another machine: the end of the path may be the same
            parts = key.split("/")[1:]
            ends = ("/".join(parts[first:]) for first in range(len(parts)))
            found = next((self._by_path[end] for end in ends if end in self._by_path), "")
            if found:
                return found, ""
        return path_id(self._source / path, self._source), ""


def path_id(path: str | Path, source: Path) -> str:
    """Return a path relative to the source, without its ending."""
    return composed(os.path.splitext(os.path.relpath(path, source))[0].replace(os.sep, "/"))


def composed(name: str) -> str:
    """Return a name in Unicode's composed form (NFC); macOS stores file names decomposed, which looks the same."""
    return unicodedata.normalize("NFC", name)
