"""Your own recordings: a folder of audio with a table, with a text file for each clip, or with LibriSpeech transcripts.

Tables are CSV, TSV or Excel files with a header, directly in the folder; columns are recognised by their names, or given with
the options below. Tables named train, dev and test, or a column `split`, define splits. Other recordings are divided by
speaker if speakers are known, else by file.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from input_pipeline.corpora import assemble, groups, next_step
from input_pipeline.corpora.assemble import CorpusError, Preparation, Prepared
from input_pipeline.corpora.transcript_tables import (
    TableOptions,
    Transcripts,
    composed,
    find_columns,
    find_tables,
    list_tables,
    path_id,
    read_tables,
)
from input_pipeline.storage import tables
from input_pipeline.storage.file_kind import AUDIO_ENDINGS, TITLES
from input_pipeline.text import count_invisible, describe_invisible, has_digits


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the corpus's options to a command line."""
    assemble.add_arguments(parser, "custom", "your audio and its transcripts")
    text = "the table: CSV, TSV, xlsx, or records as JSON in any form (default: the only CSV, TSV or xlsx file)"
    parser.add_argument("--table", metavar="FILE", help=text)
    text = "of tables and text files, such as cp1251 (default: UTF-8, else Windows-1252)"
    parser.add_argument("--encoding", default="", metavar="NAME", help=text)
    text = "comma-separated columns of the table to ignore although they may say that rows are parts of files"
    parser.add_argument("--ignore_columns", default="", metavar="NAMES", help=text)
    for column, names in TITLES.items():
        text = f"the table's column with the {column} (default: the first existing one of {', '.join(names)})"
        parser.add_argument(f"--{column}_column", metavar="NAME", help=text)
    parser.add_argument("--speaker_folders", action="store_true", help="use the name of a file's folder as its speaker")
    text = "share of utterances for this split, unless a table defines it; 0 for none (default: 0.1)"
    parser.add_argument("--dev_share", type=float, default=0.1, metavar="SHARE", help=text)
    parser.add_argument("--test_share", type=float, default=0.1, metavar="SHARE", help=text)
    assemble.add_text_arguments(parser)


def prepare(args: argparse.Namespace) -> Prepared:
    """Recognise the layout of the folder, scan, split, and write the manifests."""
    shares = {"dev": args.dev_share, "test": args.test_share}
    if not all(0 <= share < 1 for share in shares.values()) or sum(shares.values()) >= 1:
        raise CorpusError(
            f"--dev_share={args.dev_share} --test_share={args.test_share}: use shares of at least 0, below 1 in total"
        )
    preparation = Preparation.from_args(args)
    source = Path(args.source)
    options = TableOptions(
        names={column: getattr(args, f"{column}_column") for column in TITLES},
        encoding=args.encoding,
        ignored=frozenset(name.strip().lower() for name in args.ignore_columns.split(",")),
        target=preparation.folder,
    )
    files = assemble.list_files(source, *AUDIO_ENDINGS)
    transcripts = read_transcripts(source, files, args.table, options)
    files += sorted(set(transcripts.elsewhere))
    if not files:
        raise CorpusError(
            f"--source={source}: contains no audio ({' '.join(AUDIO_ENDINGS)}), and no table leads to any: check the paths"
        )
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
        name = id_in(record)
        splits[transcripts.splits.get(name, "train")].append(record | transcripts.extra.get(name, {}))
    shares = {split: share for split, share in shares.items() if share and split not in splits}
    if splits.get("train") and shares:
        splits |= divide(splits["train"], shares, id_in)
    records: dict[str, list[dict]] = {split: splits[split] for split in ("train", "dev", "test") if split in splits}
    preparation.write_records(records)
    for split in ("train", "dev", "test"):
        if split not in records and (preparation.folder / f"{split}.jsonl").exists():
            print(f"note: {preparation.folder / split}.jsonl is from an earlier run; remove it")
    written = [record["text"] for split in records.values() for record in split]
    if counts := count_invisible(written):
        print(f"note: texts have invisible characters, which normalisation removes: {describe_invisible(counts)}")
    if digits := sum(map(has_digits, written)):
        print(
            f"note: {digits} texts have digits; --spell_numbers writes numbers as words, for a network that learns letters only"
        )
    return Prepared(records, describe_next_step(preparation.folder, records, args.language))


def read_transcripts(source: Path, files: Sequence[str], table: str | None, options: TableOptions) -> Transcripts:
    """Read tables with the required columns, else LibriSpeech-like transcripts, else a text file for each clip.

    Raises CorpusError, TableError.
    """
    found = find_tables(source, table, options)
    if found:
        return read_tables(found, source, files, options)
    listed = assemble.list_files(source, "trans.txt")
    if listed:
        print(f"reading {len(listed):,} files *trans.txt (id and text in each line)")
        texts = [(composed(name), text) for path in listed for name, text in assemble.read_keyed(path)]
        return Transcripts("name", texts, {name: name.partition("-")[0] for name, _ in texts if "-" in name})
    pairs = assemble.list_files(source, ".txt")
    if not pairs:
        for path in list_tables(source):
            find_columns(path, options, required=True)  # raises with the missing columns
        raise CorpusError(
            f"--source={source}: contains {len(files):,} audio files, but no table (CSV, TSV, xlsx) with a column for the path "
            f"({', '.join(TITLES['path'])}) and one for the text ({', '.join(TITLES['text'])}), and no text files: add one "
            "of them"
        )
    print(f"reading {len(pairs):,} text files, one for each audio file")
    return Transcripts("path", [(path_id(path, source), tables.read_text(path, options.encoding)) for path in pairs])


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
    recipe, options = next_step.settings_for(sum(record["duration"] for record in records["train"]) / 3600)
    train = " ".join([next_step.train(recipe, folder, **held_out), *options]) + next_step.language_option(
        language, "en"
    )
    return f"{next_step.check(folder / 'train.jsonl')}\n  {train}"
