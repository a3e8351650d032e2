"""Train a language model from text: `python -m decoding.lm train --language=en --text=corpus.txt.gz --output=lm.bin`.

Text is prepared as the original's was: English keeps letters, digits and apostrophes, writes numbers as words and is lower
case; Mandarin loses punctuation and becomes a model of characters. KenLM's programs (make kenlm) do the rest.
"""

import argparse
import bz2
import collections
import contextlib
import gzip
import json
import lzma
import math
import os
import re
import subprocess
import sys
import tempfile
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from decoding import kenlm_build
from decoding.kenlm_build import KenlmError

LANGUAGES = ("en", "zh", "none")
UNKNOWN = "UNKNOWNWORD"  # stands for words that are not among the most frequent ones, as in the original
OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
KINDS = {"trie": ["-a", "22", "-q", "8", "-b", "8", "trie"], "probing": ["probing"]}
NOT_ENGLISH = re.compile(r"[^A-Za-z0-9\s']")
NUMBER = re.compile(r"\d+")
LONGEST_NUMBER = 15  # digits; longer ones are spelled digit by digit
FEW_COUNTS = ("discount", "Bad input")  # in lmplz's words where a corpus is too small to estimate discounts


def prepare(line: str, language: str) -> str:
    """Prepare a line of text as training transcripts are written; '' where nothing is left."""
    if language == "none":
        return " ".join(line.split())
    if language == "zh":
        kept = (c for c in line if not c.isspace() and unicodedata.category(c)[0] not in "PSC")
        return " ".join(kept)
    line = NOT_ENGLISH.sub("", line.replace("\u2019", "'"))
    return " ".join(NUMBER.sub(_in_words, line).lower().split())


def _in_words(match: re.Match) -> str:
    from num2words import num2words

    digits = match[0]
    parts = [digits] if len(digits) <= LONGEST_NUMBER else list(digits)
    words = " ".join(num2words(int(part)) for part in parts)
    return f" {words.replace('-', ' ').replace(',', '')} "


def read_lines(paths: Iterable[str]) -> Iterator[str]:
    """Read lines of text files, plain or compressed (gz, bz2, xz), or the texts of manifests (.jsonl). Raises ValueError."""
    for path in paths:
        opener: Callable[..., Any] = OPENERS.get(Path(path).suffix, open)
        manifest = ".jsonl" in Path(path).suffixes
        number = 0
        try:
            with opener(path, "rt", encoding="utf-8") as file:
                for line in file:
                    number += 1
                    yield json.loads(line)["text"] if manifest else line
        except (OSError, EOFError, UnicodeDecodeError, lzma.LZMAError) as error:
            raise ValueError(f"--text: {path} cannot be read after line {number}: {error}") from error
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"--text: {path}, line {number} is no line of a manifest with a text: {error}") from error


def write_corpus(paths: list[str], language: str, vocabulary: int, output: Path) -> collections.Counter:
    """Write the prepared lines, all but the most frequent words replaced; return the words' counts. Raises ValueError.

    Reads the text once and, where words are replaced, the prepared file once more; only the counts are in memory.
    """
    counts: collections.Counter = collections.Counter()
    with open(output, "w", encoding="utf-8") as file:
        for line in tqdm(read_lines(paths), desc="prepare", unit=" lines", delay=2):
            prepared = prepare(line, language)
            if prepared:
                counts.update(prepared.split())
                file.write(prepared + "\n")
    if not counts:
        raise ValueError(f"--text: nothing is left of {', '.join(paths)} after preparation for --language={language}")
    if len(counts) > vocabulary:
        kept = {word for word, _ in counts.most_common(vocabulary)}
        replaced = output.with_suffix(".replaced")
        with open(output, encoding="utf-8") as source, open(replaced, "w", encoding="utf-8") as file:
            for line in tqdm(source, desc="rare words", unit=" lines", delay=2):
                file.write(" ".join(word if word in kept else UNKNOWN for word in line.split()) + "\n")
        os.replace(replaced, output)
    return counts


def train(corpus: Path, order: int, prune: str, kind: str, output: str, *, arpa: str = "", memory: str = "50%") -> None:
    """Make an ARPA model of prepared text and of it a binary; both appear whole or not at all. Raises KenlmError."""
    folder = Path(output).absolute().parent
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".lm-") as temporary:
        made, binary = Path(temporary, "lm.arpa"), Path(temporary, "lm.bin")
        estimate = [kenlm_build.program("lmplz"), "-o", str(order), "-S", memory, "-T", temporary]
        estimate += ["--prune", *prune.split()] if prune else []
        error = _run(estimate, corpus, made)
        if error and any(words in error for words in FEW_COUNTS):
            print("the corpus is too small to estimate discounts: KenLM's default ones are used", flush=True)
            error = _run([*estimate, "--discount_fallback"], corpus, made)
        if error:
            raise KenlmError(f"lmplz failed:\n{error}")
        convert = [kenlm_build.program("build_binary"), *KINDS[kind], str(made), str(binary)]
        if error := _run(convert):
            raise KenlmError(f"build_binary failed:\n{error}")
        os.replace(binary, output)
        if arpa:
            Path(arpa).absolute().parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(OSError):
                os.replace(made, arpa)
            if made.exists():  # another file system
                raise KenlmError(f"--arpa={arpa} must lie on the file system of --output")


def _run(command: list[str], source: Path | None = None, target: Path | None = None) -> str:
    """Run a program of KenLM; return its last words where it fails, else ''."""
    with contextlib.ExitStack() as stack:
        stdin: TextIO | int = stack.enter_context(open(source, encoding="utf-8")) if source else subprocess.DEVNULL
        stdout: TextIO | int = (
            stack.enter_context(open(target, "w", encoding="utf-8")) if target else subprocess.DEVNULL
        )
        result = subprocess.run(command, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, text=True)
    return result.stderr[-2000:] or f"exit code {result.returncode}" if result.returncode else ""


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


def run_train(a: argparse.Namespace) -> dict:
    """Do all that `train` says and return what is printed. Raises ValueError, KenlmError, OSError."""
    if not 1 < a.order <= 6:
        raise ValueError(f"--order is {a.order}: use 2 to 6; 5 is usual, 3 for small corpora")
    for name in ("lmplz", "build_binary"):
        kenlm_build.program(name)
    folder = Path(a.output).absolute().parent
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".text-") as temporary:
        corpus = Path(temporary, "corpus.txt")
        counts = write_corpus(a.text.split(","), a.language, a.vocabulary, corpus)
        train(corpus, a.order, a.prune, a.kind, a.output, arpa=a.arpa, memory=a.memory)
    found = {"lm": a.output, "bytes": os.path.getsize(a.output), "words": len(counts), "tokens": counts.total()}
    if a.held_out:
        lines = (prepare(line, a.language) for line in read_lines(a.held_out.split(",")))
        found["held_out"] = measure(a.output, lines)
    return found


def main() -> int:
    """Parse, train, print a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    t = commands.add_parser("train", help="prepare text, estimate a model, write a binary")
    t.add_argument("--language", choices=LANGUAGES, default="en", help="how text is prepared; none: as it is")
    t.add_argument("--order", type=int, default=5)
    t.add_argument("--prune", default="", help='counts to leave out by order, as lmplz takes them: "0 1 1 1 1"')
    t.add_argument("--vocabulary", type=int, default=400_000, help="most frequent words that are kept")
    t.add_argument("--text", required=True, help="files, comma-separated: text, .gz, .bz2, .xz, or manifests (.jsonl)")
    t.add_argument("--held_out", default="", help="the same, to measure perplexity on")
    t.add_argument("--output", required=True, help="binary to write")
    t.add_argument("--arpa", default="", help="also keep the ARPA file here")
    t.add_argument("--kind", choices=KINDS, default="trie", help="trie is small, probing is fast")
    t.add_argument("--memory", default="50%", help="that lmplz may use; it sorts on disk beyond")
    a = parser.parse_args()
    try:
        print(json.dumps(run_train(a)))
    except (ValueError, OSError, KenlmError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
