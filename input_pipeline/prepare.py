"""Prepare a speech corpus: `python -m input_pipeline.prepare CORPUS --target_dir=...`."""

import argparse
import errno
import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType


@dataclass(frozen=True)
class Corpus:
    """Where a corpus is prepared and which recipe trains on it.

    Its module has `add_arguments(parser)` and `prepare(args)`, which writes the manifests and returns their folder and
    their records by split.
    """

    module: str
    recipe: str
    summary: str


CORPORA = {
    "an4": Corpus("input_pipeline.corpora.an4", "configs/an4.py", "English letters, numbers, commands; 50 minutes"),
    "synthetic": Corpus(
        "input_pipeline.corpora.synthetic", "configs/tiny.py", "English or Mandarin commands, spoken by espeak-ng"
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="python -m input_pipeline.prepare", description="Prepare a speech corpus.")
    commands = parser.add_subparsers(dest="corpus", required=True, metavar="CORPUS")
    modules: dict[str, ModuleType] = {}
    for name, corpus in CORPORA.items():
        command = commands.add_parser(name, help=corpus.summary, description=corpus.summary)
        if name in argv:  # importing all of them for the help of one would need what all of them need
            modules[name] = importlib.import_module(corpus.module)
            modules[name].add_arguments(command)
    args = parser.parse_args(argv)
    try:
        folder, splits = modules[args.corpus].prepare(args)
    except (ValueError, OSError) as error:
        print(f"{parser.prog} {args.corpus}: {error}{_advice(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{parser.prog} {args.corpus}: interrupted; run the same line again", file=sys.stderr)
        return 130
    print(describe(splits))
    print(f"\nNext:\n  {next_command(args.corpus, folder)}")
    return 0


def _advice(error: Exception) -> str:
    """Add what to do to an error of the system, which says only what and where."""
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.ENOSPC, errno.EDQUOT):
        return "; free some space and run the same line again"
    if number in (errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR):
        return "; choose a folder that can be written with --target_dir"
    return ""


def describe(splits: Mapping[str, Sequence[Mapping]]) -> str:
    """Lay out utterances, hours, speakers and distinct characters of each split as a table."""
    lines = [f"{'split':<12} {'utterances':>10} {'hours':>8} {'speakers':>9} {'characters':>11}"]
    for name, records in splits.items():
        hours = sum(record["duration"] for record in records) / 3600
        speakers = len({record["speaker"] for record in records})
        characters = len(set().union(*(record["text"] for record in records)))
        lines.append(f"{name:<12} {len(records):>10,} {hours:>8.3f} {speakers:>9} {characters:>11}")
    return "\n".join(lines)


def next_command(corpus: str, folder: Path) -> str:
    """Word the line that trains on a prepared corpus."""
    splits = " ".join(f"--config.data.{split}={folder / split}.jsonl" for split in ("train", "dev", "test"))
    return f"python main.py --config={CORPORA[corpus].recipe} --workdir=runs/{folder.name} {splits}"


if __name__ == "__main__":
    sys.exit(main())
