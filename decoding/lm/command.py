"""Language models: train one from text, or download one that the original published.

    python -m decoding.lm train --language=en --text=corpus.txt.gz --output=lm.bin
    python -m decoding.lm download --list

Text is prepared as the original's was (decoding/lm/text_corpus.py); KenLM's programs (make kenlm) do the rest.
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
from pathlib import Path

from decoding.lm import kenlm_build, kenlm_run, published, text_corpus
from decoding.lm.kenlm_build import KenlmError
from input_pipeline.storage import whole_file
from input_pipeline.storage.lock import exclusive

KINDS = {"trie": ["-a", "22", "-q", "8", "-b", "8", "trie"], "probing": ["probing"]}
LEAST_MEMORY = 100 * 2**20  # of lmplz
MEMORY_A_BYTE = 40  # of the corpus, from which on lmplz need not sort on disk
NO_DISCOUNTS = re.compile(r"Substituting fallback discounts for order (\d)")  # lmplz counts orders from 0 there


def train(
    corpus: Path, folder: Path, order: int, prune: str, kind: str, output: Path, *, arpa: str, memory: str
) -> None:
    """Make an ARPA model of prepared text and of it a binary, by way of a folder; both appear whole or not at all.

    Raises KenlmError.
    """
    made, binary = folder / "lm.arpa", folder / "lm.bin"
    shared = ["-S", memory, "-T", f"{folder}/"]
    # where a corpus gives no discounts, KenLM's default ones; a text's own <s> and <unk> count as white space
    estimate = [kenlm_build.program("lmplz"), "-o", str(order), *shared, "--discount_fallback", "--skip_symbols"]
    said = kenlm_run.run([*estimate, *(["--prune", *prune.split()] if prune else [])], corpus, made)
    if orders := NO_DISCOUNTS.findall(said):
        listed = ", ".join(f"{int(n) + 1}-grams" for n in orders)
        print(
            f"the corpus is too small, or too repetitive, to estimate discounts for {listed}: KenLM's default ones are used"
        )
    kenlm_run.run([kenlm_build.program("build_binary"), *shared, *KINDS[kind], str(made), str(binary)])
    whole_file.commit(binary, output)
    if arpa:
        target = Path(arpa).absolute()
        target.parent.mkdir(parents=True, exist_ok=True)
        with whole_file.temporary_path(target) as path:
            shutil.move(made, path)  # which copies to another file system


def measure(lm: str, lines: Iterable[str]) -> dict:
    """Return perplexity (with and without unknown words) and the share of unknown words on prepared lines."""
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
        raise ValueError("--held_out: nothing is left of it after preparation")
    return {
        "perplexity": round(10 ** (-total / tokens), 3),
        "perplexity_known": round(10 ** (-known / max(tokens - unknown, 1)), 3) if tokens > unknown else math.inf,
        "unknown": round(unknown / tokens, 4),
        "tokens": tokens,
    }


def check(a: argparse.Namespace) -> None:
    """Refuse what would fail only after the text is read. Raises ValueError naming flag, value and mend."""
    if not 1 < a.order <= 6:
        raise ValueError(f"--order is {a.order}: use 2 to 6; 5 is usual, 3 for small corpora")
    if a.vocabulary < 1:
        raise ValueError(f"--vocabulary is {a.vocabulary}: use 1 or more words; 400000 is usual")
    counts = a.prune.split()
    if not all(map(str.isdecimal, counts)) or sorted(map(int, counts)) != [*map(int, counts)] or len(counts) > a.order:
        raise ValueError(
            f"--prune is {a.prune!r}: give a count for each order up to {a.order}, none below the one before"
        )
    if a.memory and not re.fullmatch(r"\d+(\.\d+)?[%bKMGT]?", a.memory):
        raise ValueError(f"--memory is {a.memory!r}: write it as 50% or 2G")
    for flag in ("text", "exclude", "held_out"):
        for path in filter(None, getattr(a, flag).split(",")):
            if not os.path.exists(path) or os.path.isdir(path):
                raise ValueError(f"--{flag}: there is no file {path}; check the path")
    if not a.text.strip(","):
        raise ValueError("--text is empty: name files of text")
    for flag in ("output", "arpa"):
        if os.path.isdir(getattr(a, flag) or os.devnull):
            raise ValueError(f"--{flag}={getattr(a, flag)} is a folder: name a file")


def run_train(a: argparse.Namespace) -> dict:
    """Do all that `train` says and return what is printed. Raises ValueError, KenlmError, OSError."""
    check(a)
    for name in kenlm_build.PROGRAMS:
        kenlm_build.program(name)
    excluded = text_corpus.Excluded(a.exclude.split(","), a.language) if a.exclude else None
    output = Path(a.output).absolute()
    with exclusive(output), _new_folder(output.with_name(f".{output.name}.unfinished")) as folder:
        corpus = folder / "corpus.txt"
        counted = text_corpus.write_corpus(a.text.split(","), a.language, a.vocabulary, corpus, excluded)
        if excluded is not None:
            print(
                f"{counted.excluded} lines are left out: they are, or hold, one of {len(excluded)} texts of --exclude",
                flush=True,
            )
        memory = a.memory or _memory_for(corpus)
        train(corpus, folder, a.order, a.prune, a.kind, output, arpa=a.arpa, memory=memory)
    found = {"lm": a.output, "bytes": os.path.getsize(output), "lines": counted.lines, "excluded": counted.excluded}
    found |= {"words": counted.words, "tokens": counted.tokens}
    if a.held_out:
        lines = (
            text_corpus.prepare(line, a.language)
            for line in text_corpus.read_lines(a.held_out.split(","), "--held_out")
        )
        found["held_out"] = measure(a.output, lines)
    return found


def _memory_for(corpus: Path) -> str:
    """Choose what lmplz may use, in its words: as much as helps with a corpus of this size, and half of the machine's at most."""
    half = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    return f"{min(half, LEAST_MEMORY + MEMORY_A_BYTE * corpus.stat().st_size) // 1024}K"


@contextlib.contextmanager
def _new_folder(folder: Path):
    """Make a folder for what is unfinished, empty, and remove it in the end."""
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_download(a: argparse.Namespace) -> dict | None:
    """Download and verify a published model, or list them. Raises ValueError, OSError."""
    if a.list or not a.name:
        print(published.table())
        return None
    return published.download(a.name, a.output, a.url)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m decoding.lm", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    t = commands.add_parser("train", help="prepare text, estimate a model, write a binary")
    t.add_argument(
        "--language", choices=text_corpus.LANGUAGES, default="en", help="how text is prepared; none: as it is"
    )
    t.add_argument("--order", type=int, default=5, help="n of the n-grams, 2 to 6 (default 5)")
    t.add_argument("--prune", default="", help='counts to leave out by order, as lmplz takes them: "0 1 1 1 1"')
    t.add_argument("--vocabulary", type=int, default=400_000, help="most frequent words that are kept (default 400000)")
    t.add_argument("--text", required=True, help="files, comma-separated: text, .gz, .bz2, .xz, or manifests (.jsonl)")
    t.add_argument("--exclude", default="", help="the same: texts not to train on, those of dev and test sets")
    t.add_argument("--held_out", default="", help="the same: texts to measure perplexity on")
    t.add_argument("--output", required=True, help="binary to write")
    t.add_argument("--arpa", default="", help="also keep the ARPA file here")
    t.add_argument("--kind", choices=KINDS, default="trie", help="trie (default) is small, probing is fast")
    t.add_argument(
        "--memory", default="", help="for sorting, as 50%% or 2G (default: at most half); the rest is on disk"
    )
    d = commands.add_parser("download", help="fetch a published model, resume and verify it")
    d.add_argument("name", nargs="?", choices=published.MODELS, help="which one")
    d.add_argument("--list", action="store_true", help="show them with size and checksum")
    d.add_argument("--output", default="", help="file to write (default: data/lm/ and its own name)")
    d.add_argument("--url", default="", help="address of the same file on a mirror")
    return parser.parse_args(argv)


def main() -> int:
    """Parse, do, print a JSON line."""
    a = parse()
    try:
        found = run_train(a) if a.command == "train" else run_download(a)
    except (ValueError, OSError, KenlmError) as error:
        print(f"error: {_describe(error, a.output)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; run the same line again", file=sys.stderr)
        return 130
    if found:
        print(json.dumps(found))
    return 0


def _describe(error: Exception, output: str) -> str:
    """Word an error; those of the system say only what, and sometimes where."""
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    where = error.filename or output
    if error.errno == errno.ENOSPC:
        return f"{where}: the disk is full; free some space and run again, or choose another --output"
    return f"{where}: {error.strerror}; choose another --output"
