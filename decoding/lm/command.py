"""Language models: train one from text, or download one of the original's.

    python -m decoding.lm train --language=en --text=corpus.txt.gz --output=lm.bin
    python -m decoding.lm download --list

Text is normalised as transcripts are (decoding/lm/preparation.py); KenLM's programs (make kenlm) do the rest.
"""

import argparse
import contextlib
import errno
import json
import math
import os
import re
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from decoding.lm import kenlm_build, kenlm_run, published, text_corpus, text_files
from decoding.lm.kenlm_build import KenlmError
from decoding.lm.preparation import Preparation
from input_pipeline.storage import console, digests, whole_file
from input_pipeline.storage.lock import exclusive
from input_pipeline.storage.paths import refuse_inputs
from input_pipeline.text import TextRules, Vocabulary, has_digits, language_code

KINDS = {"trie": ["-a", "22", "-q", "8", "-b", "8", "trie"], "probing": ["probing"]}
MIN_MEMORY = 100 * 2**20  # of lmplz
MEMORY_PER_BYTE = 40  # of the corpus: with this much, lmplz need not sort on disk
FALLBACK_DISCOUNTS = re.compile(r"Substituting fallback discounts for order (\d)")  # orders are counted from 0 here


@dataclass(frozen=True)
class ModelSettings:
    """Options of KenLM's programs: n of the n-grams, counts to prune, structure of the binary, memory for sorting."""

    order: int
    prune: str
    kind: str
    memory: str


def estimate(corpus: Path, folder: Path, settings: ModelSettings, output: Path, arpa: str = "") -> None:
    """Estimate a model of prepared text and write it as a binary, and as an ARPA file if `arpa` names one.

    Intermediate files go to `folder`. Raises KenlmError, OSError.
    """
    estimated, binary = folder / "lm.arpa", folder / "lm.bin"
    shared = ["-S", settings.memory, "-T", f"{folder}/"]
    # Fallback discounts for a corpus too small to estimate them; a text's own <s> and <unk> count as white space.
    command = [
        kenlm_build.program("lmplz"),
        "-o",
        str(settings.order),
        *shared,
        "--discount_fallback",
        "--skip_symbols",
    ]
    prune = ["--prune", *settings.prune.split()] if settings.prune else []
    messages = kenlm_run.run([*command, *prune], corpus, estimated)
    if orders := FALLBACK_DISCOUNTS.findall(messages):
        listed = ", ".join(f"{int(n) + 1}-grams" for n in orders)
        print(
            f"the corpus is too small, or too repetitive, to estimate discounts for {listed}: KenLM's default ones are used"
        )
    kenlm_run.run([kenlm_build.program("build_binary"), *shared, *KINDS[settings.kind], str(estimated), str(binary)])
    commit(binary, output)
    if arpa:
        target = Path(arpa).absolute()
        target.parent.mkdir(parents=True, exist_ok=True)
        with whole_file.temporary_path(target) as path:
            shutil.move(estimated, path)  # copies if the target is on another file system
        digests.write_for(target)


def commit(binary: Path, output: Path) -> None:
    """Rename a finished model and store its digest beside it; a killed process leaves none rather than a wrong one."""
    output.with_name(output.name + digests.SUFFIX).unlink(missing_ok=True)
    whole_file.commit(binary, output)
    digests.write_for(output)


def measure(lm: str, lines: Iterable[str]) -> dict:
    """Return the perplexity of prepared lines, with and without unknown words, and the share of unknown words."""
    import kenlm

    model = kenlm.Model(lm)
    total = known = 0.0
    tokens = unknown = 0
    for line in filter(None, lines):
        for log10, _, is_unknown in model.full_scores(line):
            total += log10
            known += 0.0 if is_unknown else log10
            tokens += 1
            unknown += is_unknown
    if not tokens:
        raise ValueError("--held_out: no text is left after preparation; name other files")
    return {
        "perplexity": round(10 ** (-total / tokens), 3),
        "perplexity_known": round(10 ** (-known / max(tokens - unknown, 1)), 3) if tokens > unknown else math.inf,
        "unknown": round(unknown / tokens, 4),
        "tokens": tokens,
    }


def check(args: argparse.Namespace) -> None:
    """Raise ValueError naming flag and value for what would otherwise fail after the text is read."""
    if not 1 < args.order <= 6:
        raise ValueError(f"--order is {args.order}: use 2 to 6; 5 is usual, 3 for small corpora")
    if args.words < 1:
        raise ValueError(f"--words is {args.words}: use 1 or more; 400000 is usual")
    if args.vocabulary.isdigit() and not os.path.exists(args.vocabulary):
        raise ValueError(
            f"--vocabulary={args.vocabulary}: name the file of the network's symbols; the number of words is --words={args.vocabulary}"
        )
    counts = args.prune.split()
    if (
        not all(map(str.isdecimal, counts))
        or sorted(map(int, counts)) != [*map(int, counts)]
        or len(counts) > args.order
    ):
        raise ValueError(
            f"--prune is {args.prune!r}: give up to {args.order} counts, one per order, none below the one before"
        )
    if args.memory and not re.fullmatch(r"\d+(\.\d+)?[%bKMGT]?", args.memory):
        raise ValueError(f"--memory is {args.memory!r}: write it as 50% or 2G")
    for flag in ("text", "exclude", "held_out"):
        for path in filter(None, getattr(args, flag).split(",")):
            if not os.path.exists(path) or os.path.isdir(path):
                raise ValueError(f"--{flag}: there is no file {path}; check the path")
    if not args.text.strip(","):
        raise ValueError("--text is empty: name text files")
    texts = [path for flag in (args.text, args.exclude, args.held_out) for path in flag.split(",")]
    for flag in ("output", "arpa"):
        refuse_inputs([getattr(args, flag)], [*texts, args.vocabulary], f"--{flag}")
        if os.path.isdir(getattr(args, flag) or os.devnull):
            raise ValueError(f"--{flag}={getattr(args, flag)} is a folder: name a file")


def run_train(args: argparse.Namespace) -> dict:
    """Run `train` and return what to print as JSON. Raises ValueError, KenlmError, OSError."""
    check(args)
    for name in kenlm_build.PROGRAMS:
        kenlm_build.program(name)  # raises an error if it is not built
    rules, symbols = choose_rules(args)
    excluded = None
    if args.exclude:
        excluded = text_corpus.ExcludedTexts(args.exclude.split(","), rules)
    prepare = Preparation(rules, symbols)
    output = Path(args.output).absolute()
    with exclusive(output), _new_folder(output.with_name(f".{output.name}.unfinished")) as folder:
        corpus = folder / "corpus.txt"
        counts = text_corpus.write_corpus(args.text.split(","), prepare, args.words, corpus, excluded)
        if excluded is not None:
            print(_describe_excluded(counts.excluded, excluded), flush=True)
        for line in prepare.dropped.report():
            print(f"--text: {line}", flush=True)
        settings = ModelSettings(args.order, args.prune, args.kind, args.memory or _memory_for(corpus))
        estimate(corpus, folder, settings, output, args.arpa)
    result = {"lm": args.output, "bytes": os.path.getsize(output), "lines": counts.lines, "excluded": counts.excluded}
    result |= {"words": counts.words, "tokens": counts.tokens}
    result["dropped"] = {"characters": prepare.dropped.characters.total(), "words": prepare.dropped.unwritable}
    if args.held_out:
        held_out = Preparation(rules, symbols)
        lines = map(held_out, text_files.read_lines(args.held_out.split(","), "--held_out"))
        result["held_out"] = measure(args.output, lines)
        for line in held_out.dropped.report():
            print(f"--held_out: {line}", flush=True)
    return result


def _describe_excluded(count: int, excluded: text_corpus.ExcludedTexts) -> str:
    if count:
        return f"{count} lines are left out: each is, or contains, one of the {len(excluded)} texts of --exclude"
    return (
        f"no line is left out: none is, or contains, one of the {len(excluded)} texts of --exclude, such as "
        f"{excluded.example!r}; if these are no whole transcripts, correct the file"
    )


def choose_rules(args: argparse.Namespace) -> tuple[TextRules, tuple[str, ...] | None]:
    """Return the normalisation of the text, and the network's symbols if they are known.

    Numbers are spelled on request, or if the network has no digits. Raises ValueError.
    """
    if not args.vocabulary:
        return TextRules(args.language, args.spell_numbers), None
    path = Path(args.vocabulary)
    symbols = Vocabulary.load(path / "vocabulary.txt" if path.is_dir() else path).symbols
    spell = args.spell_numbers
    if not spell and args.language != "none" and not any(map(has_digits, symbols)):
        try:
            rules = TextRules(args.language, spell_numbers=True)
        except ValueError as error:
            print(f"numbers cannot be written, because --vocabulary has no digits: {error}", flush=True)
        else:
            print("numbers are written as words, because --vocabulary has no digits", flush=True)
            return rules, symbols
    return TextRules(args.language, spell), symbols


def _memory_for(corpus: Path) -> str:
    """Return lmplz's memory option: what is useful for a corpus of this size, at most half of the machine's memory."""
    half = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    return f"{min(half, MIN_MEMORY + MEMORY_PER_BYTE * corpus.stat().st_size) // 1024}K"


@contextlib.contextmanager
def _new_folder(folder: Path):
    """Create an empty folder for intermediate files, and remove it at the end."""
    shutil.rmtree(folder, ignore_errors=True)  # left by a run that was killed
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_download(args: argparse.Namespace) -> dict | None:
    """Download and verify a published model and return what to print as JSON, or list the models. Raises OSError."""
    if args.list or not args.name:
        print(published.table())
        return None
    return published.download(args.name, args.output, args.url)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m decoding.lm", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="prepare text, estimate a model, write a binary")
    train.add_argument(
        "--language",
        type=language_code,
        default="en",
        help="config.text.language of the network: en (default), zh, tr, ...; none: leave text unchanged",
    )
    train.add_argument(
        "--vocabulary",
        default="",
        metavar="FILE",
        help="symbols of the network: vocabulary.txt, or the folder of its run",
    )
    train.add_argument(
        "--spell_numbers", action="store_true", help="write numbers as words, as config.text.spell_numbers"
    )
    train.add_argument("--order", type=int, default=5, help="n of the n-grams, 2 to 6 (default 5)")
    train.add_argument("--prune", default="", help='n-gram counts to prune, by order, as for lmplz: "0 1 1 1 1"')
    train.add_argument(
        "--words", type=int, default=400_000, help="number of most frequent words to keep (default 400000)"
    )
    train.add_argument(
        "--text",
        required=True,
        help="files, comma-separated: text, manifests, tables or records, plain or compressed, told by content",
    )
    train.add_argument("--exclude", default="", help="the same: texts not to train on, such as dev and test sets")
    train.add_argument("--held_out", default="", help="the same: texts on which to measure perplexity")
    train.add_argument("--output", required=True, help="binary to write")
    train.add_argument("--arpa", default="", help="also keep the ARPA file here")
    train.add_argument("--kind", choices=KINDS, default="trie", help="trie (default) is small, probing is fast")
    train.add_argument(
        "--memory",
        default="",
        help="memory for sorting, as 50%% or 2G (default: at most half); the rest is sorted on disk",
    )
    download = commands.add_parser("download", help="download a published model; resume and verify the download")
    download.add_argument("name", nargs="?", choices=published.MODELS, help="name of the model")
    download.add_argument("--list", action="store_true", help="list the models with size and checksum")
    download.add_argument(
        "--output", default="", help="file to write (default: data/lm/ and the name of the model's file)"
    )
    download.add_argument("--url", default="", help="address of the file on a mirror")
    return parser.parse_args(argv)


@console.command
def main() -> int:
    """Run the command line, print a JSON line and return the exit code."""
    args = parse()
    try:
        result = run_train(args) if args.command == "train" else run_download(args)
    except (ValueError, OSError, KenlmError) as error:
        print(f"error: {_describe(error, args.output)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; run the same command again", file=sys.stderr)
        return 130
    if result:
        print(json.dumps(result))
    return 0


def _describe(error: Exception, output: str) -> str:
    """Describe an error; those of the system say only what failed, and not always where."""
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    where = error.filename or output
    if error.errno == errno.ENOSPC:
        return f"{where}: the disk is full; free some space and run again, or choose another --output"
    return f"{where}: {error.strerror}; choose another --output"
