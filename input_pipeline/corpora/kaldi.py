"""Data folders of Kaldi: wav.scp, text, and if they exist segments and utt2spk.

--source is such a folder, or a folder of them, each of which becomes a split named after it (train, dev, test, ...).
Segments become rows with an offset; no audio is written. Of wav.scp, paths and the commands that only decode are
understood: `sph2pipe -f wav -p -c 1 FILE |`, `flac -c -d -s FILE |` and `cat FILE |`.
"""

import argparse
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from input_pipeline.corpora import assemble, listed
from input_pipeline.corpora.assemble import CorpusError, Prepared, Recording

ADVICE = "convert these files, and list the results instead of the command"


class Source(NamedTuple):
    """The audio of a recording: a file, and the channel that a command takes of it."""

    path: str
    channel: int | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the corpus's options to a command line."""
    listed.add_arguments(parser, "kaldi", "wav.scp and text, or with such folders")
    listed.add_root(parser)


def prepare(args: argparse.Namespace) -> Prepared:
    """Read the data folders; write a manifest for each."""
    source = Path(args.source)
    folders = [source] if (source / "wav.scp").is_file() else [path.parent for path in sorted(source.glob("*/wav.scp"))]
    if not folders:
        raise CorpusError(f"--source={source}: contains no wav.scp, nor does a folder in it: check the path")
    splits = {}
    for folder in folders:
        split = listed.split_name(folder.name, "") if len(folders) > 1 else "train"
        splits[split] = read_folder(folder, args.root)
    return listed.write(args, splits)


def read_folder(folder: Path, root: str | None) -> list[Recording]:
    """Return the utterances of a data folder in the order of `text`; report those without audio."""
    sources = dict(read_scp(folder / "wav.scp"))
    files = {name: listed.find_audio(source.path, root, "", folder) for name, source in sources.items()}
    speakers = dict(assemble.read_keyed(folder / "utt2spk")) if (folder / "utt2spk").is_file() else {}
    segments = read_segments(folder / "segments") if (folder / "segments").is_file() else None
    recordings, missing = [], []
    for name, text in assemble.read_keyed(folder / "text"):
        place = (name, 0.0, None) if segments is None else segments.get(name)
        if place is None or place[0] not in sources:
            missing.append(name if place is None else f"{name} (of {place[0]})")
            continue
        recording, start, duration = place
        speaker = speakers.get(name, "")
        recordings.append(Recording(files[recording], text, speaker, start, duration, sources[recording].channel))
    assemble.report_skipped(f"no audio in {folder}", missing)
    return recordings


def read_scp(path: Path) -> Iterator[tuple[str, Source]]:
    """Yield the recordings of a wav.scp. Raises CorpusError for a command that does more than to decode."""
    for where, line in listed.numbered(path, assemble.read_text(path).split("\n")):
        name, *rest = line.strip().split(maxsplit=1)
        if not rest:
            raise CorpusError(f"{where}: no path after {name!r}: use lines of `recording path`")
        yield name, parse_command(rest[0], where) if rest[0].endswith("|") else Source(rest[0])


def parse_command(command: str, where: str) -> Source:
    """Return the file that a command decodes. Raises CorpusError for any other command."""
    try:
        program, *words = shlex.split(command.removesuffix("|"))
    except ValueError as error:
        raise CorpusError(f"{where}: {command}: {error}: {ADVICE}") from error
    parsers = {"sph2pipe": _parse_sph2pipe, "flac": _parse_flac, "cat": _parse_cat}
    parse = parsers.get(Path(program).name)
    arguments = parse(words) if parse else None
    if arguments is None:
        raise CorpusError(f"{where}: {command!r} is not a command that only decodes (sph2pipe, flac -d): {ADVICE}")
    return arguments


def _parse_sph2pipe(words: list[str]) -> Source | None:
    parser = _Parser()
    parser.add_argument("-f", choices=("wav", "rif", "sph", "raw"))
    parser.add_argument("-p", action="store_true")
    parser.add_argument("-c", type=int, choices=(1, 2))
    parser.add_argument("path")
    parsed = parser.parse(words)
    return Source(parsed.path, None if parsed.c is None else parsed.c - 1) if parsed else None


def _parse_flac(words: list[str]) -> Source | None:
    parser = _Parser()
    for flag in ("c", "d", "s"):
        parser.add_argument(f"-{flag}", action="store_true")
    for flag, name in (("--stdout", "c"), ("--decode", "d"), ("--silent", "s")):
        parser.add_argument(flag, action="store_true", dest=name)
    parser.add_argument("path")
    parsed = parser.parse(words)
    return Source(parsed.path) if parsed and parsed.d and parsed.c else None


def _parse_cat(words: list[str]) -> Source | None:
    return Source(words[0]) if len(words) == 1 and not words[0].startswith("-") else None


class _Parser(argparse.ArgumentParser):
    """A parser that returns None for arguments that it does not know."""

    def __init__(self) -> None:
        super().__init__(add_help=False, allow_abbrev=False)

    def parse(self, words: list[str]) -> argparse.Namespace | None:
        """Return the parsed words, or None."""
        try:
            return self.parse_args(words)
        except CorpusError:
            return None

    def error(self, message: str):
        """Raise CorpusError instead of ending the program."""
        raise CorpusError(message)


def read_segments(path: Path) -> dict[str, tuple[str, float, float | None]]:
    """Return recording, start [s] and duration [s] (None: to its end) by utterance. Raises CorpusError."""
    segments = {}
    for where, line in listed.numbered(path, assemble.read_text(path).split("\n")):
        try:
            name, recording, start, end = line.split()[:4]
            duration = None if float(end) < 0 else float(end) - float(start)
            segments[name] = recording, float(start), duration
        except ValueError as error:
            raise CorpusError(
                f"{where}: {line.strip()!r} is not `utterance recording start end`: correct it"
            ) from error
    return segments
