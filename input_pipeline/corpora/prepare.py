"""Prepare a speech corpus: `python -m input_pipeline.prepare CORPUS --target_dir=...`."""

import argparse
import importlib
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType

from input_pipeline.corpora.assemble import Prepared
from input_pipeline.storage import console
from input_pipeline.storage.disk_errors import advice

# The module of a corpus has `add_arguments(parser)` and `prepare(args)`, which writes manifests and returns Prepared.
CORPORA = {
    "aishell": "AISHELL-1: Mandarin, 178 hours",
    "an4": "AN4: English letters, numbers, commands, 50 minutes",
    "chime3": "background noise of CHiME-3, from a local copy",
    "common_voice": "Common Voice in any of its languages, from a local release",
    "custom": "your own recordings, with a table or text files",
    "fsdd": "Free Spoken Digit Dataset: English digits at 8 kHz, 20 minutes",
    "huggingface": "Parquet files of Hugging Face data sets",
    "kaldi": "data folders of Kaldi",
    "lhotse": "cuts or supervisions of Lhotse",
    "librispeech": "LibriSpeech: English, 982 hours in seven parts",
    "ljspeech": "LJ Speech: English, one speaker, 24 hours",
    "musan": "MUSAN: noise, music and speech for augmentation, 109 hours",
    "nemo": "manifests of NeMo",
    "rirs": "RIRS_NOISES: impulse responses of rooms, and noises",
    "speechocean762": "speechocean762: English of Mandarin speakers, 6 hours",
    "synthetic": "English or Mandarin commands, spoken by espeak-ng",
    "tfds": "a data set of TensorFlow Datasets, converted to shards (requires TensorFlow)",
    "thchs30": "THCHS-30: Mandarin, 35 hours",
    "voxforge": "VoxForge: English by dialect, 130 hours",
    "wenet": "data lists and shards of WeNet",
}


@console.command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="python -m input_pipeline.prepare", description="Prepare a speech corpus.")
    commands = parser.add_subparsers(dest="corpus", required=True, metavar="CORPUS")
    modules: dict[str, ModuleType] = {}
    for name, summary in CORPORA.items():
        command = commands.add_parser(name, help=summary)
        if name in argv:  # importing all modules would require the packages of all of them
            modules[name] = importlib.import_module(f"input_pipeline.corpora.{name}")
            command.description = modules[name].__doc__
            command.formatter_class = argparse.RawDescriptionHelpFormatter
            modules[name].add_arguments(command)
    args = parser.parse_args(argv)
    try:
        prepared: Prepared = modules[args.corpus].prepare(args)
    except (ValueError, OSError) as error:
        print(f"{parser.prog} {args.corpus}: {error}{advice(error, '--target_dir')}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{parser.prog} {args.corpus}: interrupted; run the same command again", file=sys.stderr)
        return 130
    print(describe(prepared.splits))
    print(f"\nNext:\n  {prepared.next_step}")
    return 0


def describe(splits: Mapping[str, Sequence[Mapping]]) -> str:
    """Return a table with utterances, hours, speakers and distinct characters of each split."""
    width = max(12, *map(len, splits))
    lines = [f"{'split':<{width}} {'utterances':>10} {'hours':>8} {'speakers':>9} {'characters':>11}"]
    for name, records in splits.items():
        hours = sum(record["duration"] for record in records) / 3600
        speakers = len({record.get("speaker") for record in records} - {None}) or "-"
        characters = len(set().union(*(record["text"] for record in records))) or "-"
        lines.append(f"{name:<{width}} {len(records):>10,} {hours:>8.3f} {speakers:>9} {characters:>11}")
    return "\n".join(lines)
