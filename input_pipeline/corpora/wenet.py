"""WeNet's data.list: `raw` (lines of JSON with key, wav, txt) or `shard` (a tar archive in each line, with KEY.wav, KEY.txt).

--source is a data.list, or a folder with one in itself or in its subfolders (train, dev, test), each of which becomes a
split named after its folder. Archives are unpacked into the target folder.
"""

import argparse
from pathlib import Path

from input_pipeline.corpora import assemble, listed
from input_pipeline.corpora.assemble import CorpusError, Prepared, Recording
from input_pipeline.storage import archive

LIST = "data.list"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the corpus's options to a command line."""
    listed.add_arguments(parser, "wenet", "data.list, or folders with one")
    listed.add_root(parser)


def prepare(args: argparse.Namespace) -> Prepared:
    """Read the lists, unpack the shards; write a manifest for each split."""
    source = Path(args.source)
    lists = listed.find_lists(source, LIST, f"*/{LIST}")
    splits = {}
    for path in lists:
        split = listed.split_name(path.parent.name, "") if len(lists) > 1 else "train"
        splits[split] = read_list(path, args.root, Path(args.target_dir, "audio", split))
    return listed.write(args, splits)


def read_list(path: Path, root: str | None, target: Path) -> list[Recording]:
    """Return the utterances of a list, raw or of shards, which are unpacked below `target`. Raises CorpusError."""
    lines = [line.strip() for line in assemble.read_text(path).split("\n") if line.strip()]
    if all(line.startswith("{") for line in lines):
        return read_raw(path, root)
    recordings = []
    for number, line in enumerate(lines):
        packed = listed.find_audio(line, root, path.parent, "")
        if not packed.is_file():
            raise CorpusError(f"{path}: the archive {line} is missing: check the path, or set --root")
        folder = target / f"{number:06d}-{packed.name.partition('.')[0]}"
        recordings += read_shard(folder if folder.is_dir() else archive.extract(packed, folder, quiet=True))
    return recordings


def read_raw(path: Path, root: str | None) -> list[Recording]:
    """Return the utterances of a raw list; `start` and `end` [s] make a segment. Raises CorpusError."""
    recordings = []
    for where, row in listed.read_objects(path):
        try:
            audio = listed.find_audio(row["wav"], root, path.parent, "")
            start = listed.seconds_of(row.get("start", 0))
            duration = listed.seconds_of(row["end"]) - start if "end" in row else None
            recordings.append(
                Recording(audio, listed.text_of(row["txt"]), str(row.get("speaker", "")), start, duration)
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CorpusError(f"{where}: not a row of WeNet's lists ({error!r}): correct it") from error
    return recordings


def read_shard(folder: Path) -> list[Recording]:
    """Return the utterances of an unpacked shard: audio and text with the same name."""
    texts = [(assemble.file_id(path), assemble.read_text(path).strip()) for path in assemble.list_files(folder, ".txt")]
    audio = assemble.list_files(folder, ".wav", ".flac", ".mp3", ".ogg", ".opus")
    return assemble.match(texts, audio, lambda name: "")
