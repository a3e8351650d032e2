"""Your own recordings: a folder of audio with a table, with a text file for each clip, or with LibriSpeech transcripts.

Tables are CSV or TSV files with a header, directly in the folder; columns are recognised by their names, or given with
the options below. Tables named train, dev and test, or a column `split`, define splits. Other recordings are divided by
speaker if speakers are known, else by file.
"""

import argparse
import os
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from input_pipeline.corpora import assemble, groups, next_step
from input_pipeline.corpora.assemble import CorpusError, Preparation, Prepared
from input_pipeline.text import count_with_digits, language_code

AUDIO = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".sph", ".aif", ".aiff", ".au", ".m4a", ".aac", ".webm")
COLUMNS = {
    "path": ("audio_filepath", "path", "file", "file_name", "filename", "audio", "audio_path", "wav", "wav_filename"),
    "text": ("text", "transcript", "transcription", "sentence", "normalized_text"),
    "speaker": ("speaker", "speaker_id", "client_id", "spk"),
    "split": ("split", "subset", "partition"),
}
SPLIT_NAMES = {"train": "train", "training": "train", "dev": "dev", "valid": "dev", "validation": "dev", "test": "test"}
RECIPE = "configs/an4.py"


@dataclass
class Transcripts:
    """The transcripts of a folder by the id of the audio, which is its path in the folder or its name."""

    key: str  # kind of the ids, "path" or "name"
    texts: list[tuple[str, str]] = field(default_factory=list)
    speakers: dict[str, str] = field(default_factory=dict)
    splits: dict[str, str] = field(default_factory=dict)
    elsewhere: list[str] = field(default_factory=list)  # audio outside the folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the corpus's options to a command line."""
    assemble.add_arguments(parser, "custom", "your audio and its transcripts")
    parser.add_argument("--table", metavar="FILE", help="the CSV or TSV file (default: the only one)")
    for column, names in COLUMNS.items():
        text = f"the table's column with the {column} (default: the first existing one of {', '.join(names)})"
        parser.add_argument(f"--{column}_column", metavar="NAME", help=text)
    parser.add_argument("--speaker_folders", action="store_true", help="use the name of a file's folder as its speaker")
    text = "share of utterances for this split, unless a table defines it; 0 for none (default: 0.1)"
    parser.add_argument("--dev_share", type=float, default=0.1, metavar="SHARE", help=text)
    parser.add_argument("--test_share", type=float, default=0.1, metavar="SHARE", help=text)
    text = "plain: lower case without punctuation; as_is: unchanged (default: as_is)"
    parser.add_argument("--text", choices=("plain", "as_is"), default="as_is", help=text)
    text = "language of the texts, for --text=plain, --spell_numbers and training: en, tr, zh, ... (default: en)"
    parser.add_argument("--language", type=language_code, help=text)
    parser.add_argument("--spell_numbers", action="store_true", help="write numbers as words of the language")


def prepare(args: argparse.Namespace) -> Prepared:
    """Recognise the layout of the folder, scan, split, and write the manifests."""
    shares = {"dev": args.dev_share, "test": args.test_share}
    if not all(0 <= share < 1 for share in shares.values()) or sum(shares.values()) >= 1:
        raise CorpusError(
            f"--dev_share={args.dev_share} --test_share={args.test_share}: use shares of at least 0, below 1 in total"
        )
    preparation = Preparation.from_args(args)
    source = Path(args.source)
    names = {column: getattr(args, f"{column}_column") for column in COLUMNS}
    files = assemble.list_files(source, *AUDIO)
    transcripts = read_transcripts(source, files, args.table, names)
    files += sorted(set(transcripts.elsewhere))
    if not files:
        raise CorpusError(f"--source={source}: contains no audio ({' '.join(AUDIO)}): check the path")
    rule = assemble.text_rule(args.text, args.language or "en", spell=args.spell_numbers)

    def id_of(path: str | Path) -> str:
        return composed(assemble.file_id(path)) if transcripts.key == "name" else path_id(path, source)

    texts = ((name, rule(text)) for name, text in transcripts.texts)
    if args.speaker_folders:
        transcripts.speakers = {id_of(path): Path(path).parent.name for path in files}
    recordings = assemble.match(texts, files, lambda name: transcripts.speakers.get(name, ""), id_of)
    if not recordings:
        raise CorpusError(f"--source={source}: no audio file has a transcript: check what was skipped above")
    splits: dict[str, list[dict]] = {transcripts.splits.get(id_of(one.audio), "train"): [] for one in recordings}

    def id_in(record: dict) -> str:
        return id_of(preparation.folder / record["audio_filepath"])

    for record in preparation.scan(recordings, source.name):  # before dividing, because unreadable files are skipped
        splits[transcripts.splits.get(id_in(record), "train")].append(record)
    shares = {split: share for split, share in shares.items() if share and split not in splits}
    if splits.get("train") and shares:
        splits |= divide(splits["train"], shares, id_in)
    records: dict[str, list[dict]] = {split: splits[split] for split in ("train", "dev", "test") if split in splits}
    preparation.write_records(records)
    for split in ("train", "dev", "test"):
        if split not in records and (preparation.folder / f"{split}.jsonl").exists():
            print(f"note: {preparation.folder / split}.jsonl is from an earlier run; remove it")
    if digits := count_with_digits(record["text"] for split in records.values() for record in split):
        print(
            f"note: {digits} texts have digits; --spell_numbers writes numbers as words, for a network that learns letters only"
        )
    return Prepared(records, describe_next_step(preparation.folder, records, args.language))


def read_transcripts(source: Path, files: Sequence[str], table: str | None, names: Mapping) -> Transcripts:
    """Read tables with the required columns, else LibriSpeech-like transcripts, else a text file for each clip.

    names: column names given as options, by column. Raises CorpusError.
    """
    tables = find_tables(source, table, names)
    if tables:
        return read_tables(tables, source, files, names)
    listed = assemble.list_files(source, "trans.txt")
    if listed:
        print(f"reading {len(listed):,} files *trans.txt (id and text in each line)")
        texts = [(composed(name), text) for path in listed for name, text in assemble.read_keyed(path)]
        return Transcripts("name", texts, {name: name.partition("-")[0] for name, _ in texts if "-" in name})
    pairs = assemble.list_files(source, ".txt")
    if not pairs:
        for path in list_tables(source):
            find_columns(path, names, required=True)  # raises with the missing columns
        raise CorpusError(
            f"--source={source}: contains {len(files):,} audio files, but no table (CSV, TSV) with a column for the path "
            f"({', '.join(COLUMNS['path'])}) and one for the text ({', '.join(COLUMNS['text'])}), and no text files: add one "
            "of them"
        )
    print(f"reading {len(pairs):,} text files, one for each audio file")
    return Transcripts("path", [(path_id(path, source), assemble.read_text(path)) for path in pairs])


def find_tables(source: Path, table: str | None, names: Mapping) -> dict[Path, str]:
    """Return the tables to read with the split in their name, '' for none. Raises CorpusError."""
    if table is not None:
        path = Path(table) if Path(table).is_file() else source / table
        if not path.is_file():
            raise CorpusError(f"--table={table}: no such file, nor in {source}: check the path")
        find_columns(path, names, required=True)
        return {path: ""}
    usable = [path for path in list_tables(source) if find_columns(path, names, required=False)]
    splits = {path: SPLIT_NAMES.get(path.stem.lower(), "") for path in usable}
    if any(splits.values()):
        return {path: split for path, split in splits.items() if split}
    if len(usable) > 1:
        raise CorpusError(
            f"--source={source}: several tables ({', '.join(p.name for p in usable)}): choose one with --table"
        )
    return splits


def list_tables(source: Path) -> list[Path]:
    """List the CSV and TSV files in a folder."""
    return sorted(path for path in source.iterdir() if path.suffix.lower() in (".csv", ".tsv"))


def find_columns(path: Path, names: Mapping, required: bool) -> dict[str, str]:
    """Return the names of a table's columns by their meaning; {} if path or text is missing.

    Raises CorpusError if they are missing from a required table.
    """
    header = next(assemble.read_rows(path, errors="replace"), [])  # also readable for tables that are not transcripts
    columns = {}
    for column, known in COLUMNS.items():
        candidates = [names[column]] if names[column] else known
        matching = [name for name in candidates for title in header if title.strip().lower() == name.lower()]
        if matching:
            columns[column] = matching[0].lower()
        elif names[column] and required:
            raise CorpusError(f"{path}: no column {names[column]!r}: use one of {', '.join(header)}")
        elif names[column]:
            return {}
    missing = {"path", "text"} - columns.keys()
    if missing and required:
        options = "; ".join(f"--{column}_column, or {', '.join(COLUMNS[column])}" for column in sorted(missing))
        raise CorpusError(
            f"{path}: its columns {', '.join(header) or '(none)'} do not include {' and '.join(missing)} ({options})"
        )
    return {} if missing else columns


def read_tables(tables: Mapping[Path, str], source: Path, files: Sequence[str], names: Mapping) -> Transcripts:
    """Read the rows of tables. Raises CorpusError.

    A path may be relative to the folder, absolute, without its ending, or a unique file name.
    """
    transcripts = Transcripts("path")
    ids = _ids_by_spelling(files, source)
    too_long, contradictory = [], []
    for table, split in tables.items():
        columns = find_columns(table, names, required=True)
        print(f"reading {table} ({', '.join(f'{column}: {name}' for column, name in columns.items())})")
        header, *rows = assemble.read_rows(table)
        titles = [title.strip().lower() for title in header]
        indices = {column: titles.index(name) for column, name in columns.items()}
        for row in rows:
            values = {column: row[index].strip() if index < len(row) else "" for column, index in indices.items()}
            if not values["path"]:
                continue
            if any(field.strip() for field in row[len(header) :]):
                too_long.append(f"{values['path']} ({table.name})")
                continue
            path = os.path.normpath(values["path"].replace("\\", "/"))
            name = ids.get(composed(path)) or path_id(source / path, source)
            if os.path.isabs(path) and composed(path) not in ids and os.path.isfile(path):
                transcripts.elsewhere.append(path)
            transcripts.texts.append((name, values["text"]))
            transcripts.speakers[name] = values.get("speaker", "")
            row_split = values.get("split", "").lower()
            chosen = SPLIT_NAMES.get(row_split, row_split) or split or "train"
            if transcripts.splits.setdefault(name, chosen) != chosen:
                contradictory.append(f"{values['path']} ({transcripts.splits[name]} and {chosen})")
    assemble.report_skipped("more fields than the header; put quotes around texts with commas", too_long)
    if contradictory:
        listed = ", ".join(contradictory[: assemble.MAX_LISTED])
        raise CorpusError(
            f"--source={source}: {len(contradictory)} lines assign audio to a second split: {listed}: keep each file in one "
            "split"
        )
    unknown = sorted(set(transcripts.splits.values()) - set(SPLIT_NAMES.values()))
    if unknown:
        raise CorpusError(f"splits {', '.join(unknown)} in {', '.join(map(str, tables))}: use train, dev and test")
    return transcripts


def _ids_by_spelling(files: Sequence[str], source: Path) -> dict[str, str]:
    """Return the id of each file for all ways to write its path in a table; '' for a name shared by several files."""
    by_name: dict[str, str] = {}
    by_path: dict[str, str] = {}
    for path in files:
        file_id = path_id(path, source)
        paths = file_id, composed(os.path.relpath(path, source)), composed(os.path.abspath(path))
        by_path |= dict.fromkeys(paths, file_id)
        for name in (composed(os.path.basename(path)), composed(assemble.file_id(path))):
            by_name[name] = file_id if by_name.get(name, file_id) == file_id else ""
    return by_name | by_path


def path_id(path: str | Path, source: Path) -> str:
    """Return a path relative to the source, without its ending."""
    return composed(os.path.splitext(os.path.relpath(path, source))[0].replace(os.sep, "/"))


def composed(name: str) -> str:
    """Return a name in Unicode's composed form (NFC); macOS stores file names decomposed, which looks the same."""
    return unicodedata.normalize("NFC", name)


def divide(records: Sequence[dict], shares: Mapping[str, float], id_of: Callable[[dict], str]) -> dict[str, list[dict]]:
    """Divide records into train and the splits of `shares`, by speaker if there are enough speakers, else by file."""
    if len(records) <= len(shares):
        raise CorpusError(f"{len(records)} recordings are too few to divide: set --dev_share=0 --test_share=0")
    speakers = {record.get("speaker", "") for record in records} - {""}
    if len(speakers) > len(shares):
        print(f"dividing {len(speakers):,} speakers: each is in only one of train, {', '.join(shares)}")
        return groups.split_by_group(records, shares, lambda record: record.get("speaker") or id_of(record))
    print("dividing by file: " + (f"{len(speakers)} speakers are too few" if speakers else "no speakers are known"))
    return groups.split_by_group(records, shares, id_of)


def describe_next_step(folder: Path, records: Mapping[str, Sequence], language: str | None = None) -> str:
    """Return the commands that check every clip and train, or that evaluates if there is no training split."""
    if "train" not in records:
        return next_step.evaluate(folder / f"{next(iter(records))}.jsonl")
    held_out = {split: split if split in records else "" for split in ("dev", "test")}
    if language is None:
        text = "".join(record["text"] for record in records["train"][:100])
        chinese = 2 * sum("\u4e00" <= character <= "\u9fff" for character in text) > len(text)
        language = "zh" if chinese else "en"
    train = next_step.train(RECIPE, folder, **held_out) + next_step.language_option(language, "en")
    return f"{next_step.check(folder / 'train.jsonl')}\n  {train}"
