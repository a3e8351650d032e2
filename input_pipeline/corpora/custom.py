"""A folder of your own: audio with a table beside it, with a text file for each, or with LibriSpeech-like transcripts.

Tables are CSV or TSV files in the folder itself, with a header; the columns are found by their names, or named below.
Files named train, dev and test, or a column `split`, are taken as splits. What is not split yet is divided: by speaker
where speakers are known, else by file.
"""

import argparse
import os
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from input_pipeline.corpora import assemble, groups, next_step
from input_pipeline.corpora.assemble import CorpusError, Place, Prepared

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
    """What the texts of a folder say, by the id of the audio: its path from the folder, or its bare name."""

    key: str  # "path" or "name": which of both an id is
    texts: list[tuple[str, str]] = field(default_factory=list)
    speakers: dict[str, str] = field(default_factory=dict)
    splits: dict[str, str] = field(default_factory=dict)
    elsewhere: list[str] = field(default_factory=list)  # audio outside of the folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the corpus's options to a command line."""
    assemble.add_arguments(parser, "custom", "your audio and its transcripts")
    parser.add_argument("--table", metavar="FILE", help="the CSV or TSV file, where there are several")
    for column, names in COLUMNS.items():
        told = f"the table's column of the {column} (default: the first there is of {', '.join(names)})"
        parser.add_argument(f"--{column}_column", metavar="NAME", help=told)
    parser.add_argument(
        "--speaker_folders", action="store_true", help="take the folder that a file lies in for its speaker"
    )
    told = "share of the utterances that is put into this split, unless it is given; 0 for none (default: 0.1)"
    parser.add_argument("--dev_share", type=float, default=0.1, metavar="SHARE", help=told)
    parser.add_argument("--test_share", type=float, default=0.1, metavar="SHARE", help=told)
    told = "plain: lower case without punctuation; as_is: texts as they are (default: as_is)"
    parser.add_argument("--text", choices=("plain", "as_is"), default="as_is", help=told)


def prepare(args: argparse.Namespace) -> Prepared:
    """Find out how the folder is laid out, scan, split, and write the manifests."""
    shares = {"dev": args.dev_share, "test": args.test_share}
    if not all(0 <= share < 1 for share in shares.values()) or sum(shares.values()) >= 1:
        raise CorpusError(f"--dev_share={args.dev_share} --test_share={args.test_share}: from 0, together below 1")
    place = Place.of(args)
    source = Path(args.source)
    names = {column: getattr(args, f"{column}_column") for column in COLUMNS}
    files = assemble.list_files(source, *AUDIO)
    found = read_transcripts(source, files, args.table, names)
    files += sorted(set(found.elsewhere))
    if not files:
        raise CorpusError(f"--source={source}: holds no audio ({' '.join(AUDIO)}); check it")
    rule = assemble.text_rule(args.text)

    def id_of(path: str | Path) -> str:
        return composed(assemble.file_id(path)) if found.key == "name" else path_id(path, source)

    texts = ((name, rule(text)) for name, text in found.texts)
    if args.speaker_folders:
        found.speakers = {id_of(path): Path(path).parent.name for path in files}
    recordings = assemble.match(texts, files, lambda name: found.speakers.get(name, ""), id_of)
    if not recordings:
        raise CorpusError(f"--source={source}: no audio file has a transcript; what was skipped is named above")
    splits: dict[str, list[dict]] = {found.splits.get(id_of(one.audio), "train"): [] for one in recordings}

    def id_in(record: dict) -> str:
        return id_of(place.folder / record["audio_filepath"])

    for record in place.scan(recordings, source.name):  # before they are divided: what cannot be read has no share
        splits[found.splits.get(id_in(record), "train")].append(record)
    shares = {split: share for split, share in shares.items() if share and split not in splits}
    if splits.get("train") and shares:
        splits |= divide(splits["train"], shares, id_in)
    records: dict[str, list[dict]] = {split: splits[split] for split in ("train", "dev", "test") if split in splits}
    place.write_records(records)
    for split in ("train", "dev", "test"):
        if split not in records and (place.folder / f"{split}.jsonl").exists():
            print(f"note: {place.folder / split}.jsonl is there from an earlier run; remove it")
    return Prepared(records, to_run_next(place.folder, records))


def read_transcripts(source: Path, files: Sequence[str], table: str | None, names: Mapping) -> Transcripts:
    """Read tables where there are any with the columns, else LibriSpeech-like files, else a text file for each audio."""
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
        for path in tables_of(source):
            column_names(path, names, needed=True)  # which says what it lacks
        raise CorpusError(
            f"--source={source}: holds {len(files):,} audio files, but no table (CSV, TSV) with a column for the path "
            f"({', '.join(COLUMNS['path'])}) and one for the text ({', '.join(COLUMNS['text'])}), and no text files"
        )
    print(f"reading {len(pairs):,} text files, each beside its audio")
    return Transcripts("path", [(path_id(path, source), assemble.read_text(path)) for path in pairs])


def find_tables(source: Path, table: str | None, names: Mapping) -> dict[Path, str]:
    """Return the tables to read, each with the split it is, "" where its name says none."""
    if table is not None:
        path = Path(table) if Path(table).is_file() else source / table
        if not path.is_file():
            raise CorpusError(f"--table={table}: there is no such file, in {source} neither; check the path")
        column_names(path, names, needed=True)
        return {path: ""}
    usable = [path for path in tables_of(source) if column_names(path, names, needed=False)]
    splits = {path: SPLIT_NAMES.get(path.stem.lower(), "") for path in usable}
    if any(splits.values()):
        return {path: split for path, split in splits.items() if split}
    if len(usable) > 1:
        raise CorpusError(f"--source={source}: several tables ({', '.join(p.name for p in usable)}); name one: --table")
    return splits


def tables_of(source: Path) -> list[Path]:
    """List the tables in a folder."""
    return sorted(path for path in source.iterdir() if path.suffix.lower() in (".csv", ".tsv"))


def column_names(path: Path, names: Mapping, needed: bool) -> dict[str, str]:
    """Find a table's columns by what they hold; {} where path or text lack, an error if the table is needed."""
    header = next(assemble.read_rows(path, errors="replace"), [])  # of a table about something else, too
    found = {}
    for column, known in COLUMNS.items():
        wanted = [names[column]] if names[column] else known
        matching = [name for name in wanted for own in header if own.strip().lower() == name.lower()]
        if matching:
            found[column] = matching[0].lower()
        elif names[column] and needed:
            raise CorpusError(f"{path}: no column {names[column]!r}; there are {', '.join(header)}")
        elif names[column]:
            return {}
    lacking = {"path", "text"} - found.keys()
    if lacking and needed:
        ways = "; ".join(f"--{column}_column, or {', '.join(COLUMNS[column])}" for column in sorted(lacking))
        raise CorpusError(f"{path}: its columns {', '.join(header) or '(none)'} lack {' and '.join(lacking)} ({ways})")
    return {} if lacking else found


def read_tables(tables: Mapping[Path, str], source: Path, files: Sequence[str], names: Mapping) -> Transcripts:
    """Read rows; a path is relative to the folder, absolute, without its ending, or a unique file name."""
    found = Transcripts("path")
    ids = _ids_by_spelling(files, source)
    cut, in_two = [], []
    for table, split in tables.items():
        columns = column_names(table, names, needed=True)
        print(f"reading {table} ({', '.join(f'{column}: {name}' for column, name in columns.items())})")
        header, *rows = assemble.read_rows(table)
        places = {column: [own.strip().lower() for own in header].index(name) for column, name in columns.items()}
        for row in rows:
            values = {column: row[place].strip() if place < len(row) else "" for column, place in places.items()}
            if not values["path"]:
                continue
            if any(field.strip() for field in row[len(header) :]):
                cut.append(f"{values['path']} ({table.name})")
                continue
            written = os.path.normpath(values["path"].replace("\\", "/"))
            name = ids.get(composed(written)) or path_id(source / written, source)
            if os.path.isabs(written) and composed(written) not in ids and os.path.isfile(written):
                found.elsewhere.append(written)
            found.texts.append((name, values["text"]))
            found.speakers[name] = values.get("speaker", "")
            own_split = values.get("split", "").lower()
            chosen = SPLIT_NAMES.get(own_split, own_split) or split or "train"
            if found.splits.setdefault(name, chosen) != chosen:
                in_two.append(f"{values['path']} ({found.splits[name]} and {chosen})")
    assemble.name_skipped("have more fields than the header (put quotes around texts with commas)", cut)
    if in_two:
        named = ", ".join(in_two[: assemble.NAMED_AT_MOST])
        raise CorpusError(
            f"--source={source}: {len(in_two)} lines name audio of another split, too: {named}; leave each in one split"
        )
    unknown = sorted(set(found.splits.values()) - set(SPLIT_NAMES.values()))
    if unknown:
        raise CorpusError(f"splits {', '.join(unknown)} in {', '.join(map(str, tables))}: use train, dev and test")
    return found


def _ids_by_spelling(files: Sequence[str], source: Path) -> dict[str, str]:
    """Return the id of each file by the ways a table may write it; "" for a bare name that several files have."""
    bare: dict[str, str] = {}
    full: dict[str, str] = {}
    for path in files:
        own = path_id(path, source)
        full |= dict.fromkeys((own, composed(os.path.relpath(path, source)), composed(os.path.abspath(path))), own)
        for name in (composed(os.path.basename(path)), composed(assemble.file_id(path))):
            bare[name] = own if bare.get(name, own) == own else ""
    return bare | full


def path_id(path: str | Path, source: Path) -> str:
    """Return a path from the source on, without its ending."""
    return composed(os.path.splitext(os.path.relpath(path, source))[0].replace(os.sep, "/"))


def composed(name: str) -> str:
    """Write accents as one character (NFC): macOS stores file names the other way, and both look the same."""
    return unicodedata.normalize("NFC", name)


def divide(records: Sequence[dict], shares: Mapping[str, float], id_of: Callable[[dict], str]) -> dict[str, list[dict]]:
    """Divide records into train and the splits of `shares`, by speaker where there are enough speakers."""
    if len(records) <= len(shares):
        raise CorpusError(f"{len(records)} recordings are too few to divide; set --dev_share=0 --test_share=0")
    speakers = {record.get("speaker", "") for record in records} - {""}
    if len(speakers) > len(shares):
        print(f"dividing {len(speakers):,} speakers: none is in two of train, {', '.join(shares)}")
        return groups.split_off(records, shares, lambda record: record.get("speaker") or id_of(record))
    print("dividing by file: " + (f"{len(speakers)} speakers are too few" if speakers else "no speakers are known"))
    return groups.split_off(records, shares, id_of)


def to_run_next(folder: Path, records: Mapping[str, Sequence]) -> str:
    """Word the lines that look at every clip, and that train."""
    if "train" not in records:
        return next_step.evaluate(folder / f"{next(iter(records))}.jsonl")
    held_out = {split: split if split in records else "" for split in ("dev", "test")}
    text = "".join(record["text"] for record in records["train"][:100])
    chinese = 2 * sum("\u4e00" <= character <= "\u9fff" for character in text) > len(text)
    train = next_step.train(RECIPE, folder, **held_out) + (" --config.text.language=zh" if chinese else "")
    return f"{next_step.check(folder / 'train.jsonl')}\n  {train}"
