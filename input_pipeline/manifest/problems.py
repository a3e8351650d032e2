"""The kinds of problems that a manifest may have, and their report."""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from input_pipeline.manifest.examination import NO_SHARD
from input_pipeline.manifest.table import Manifest
from input_pipeline.text.characters import quoted
from input_pipeline.text.invisible import code_point

SPELL = "spell them as words: --spell_numbers of prepare custom, or the setting text.spell_numbers"
# Kinds of problems: title in the report, and what the cleaned manifest does about it.
KINDS = {
    "line": ("invalid lines", "removed"),
    "missing": ("missing audio files", "removed"),
    "unreadable": ("unreadable audio", "removed"),
    "empty": ("audio shorter than a window", "removed"),
    "silent": ("silent audio", "removed"),
    "clipped": ("clipped audio", "kept"),
    "duration": ("wrong durations", "corrected"),
    "header": ("wrong headers, and channels that cancel", "kept"),
    "limits": ("audio outside the duration limits", "removed"),
    "text": ("empty text", "removed"),
    "characters": ("characters outside the vocabulary", "removed"),
    "ctc": ("text too long for its audio", "removed"),
    "implausible": ("implausible texts", "kept"),
    "digits": (f"digits among words; {SPELL}", "kept"),
    "case": ("texts in another case than most", "kept"),
    "invisible": ("invisible characters", "kept"),
    "scripts": ("words with letters of two scripts that look alike", "kept"),
    "rate": ("unusual sample rates", "kept"),
    "duplicate": ("duplicates", "removed"),
    "conflict": ("the same audio with different texts", "removed"),
    "leak": ("audio that several manifests share", "kept"),
    "speaker": ("speakers that several manifests share", "kept"),
}


class Problem(NamedTuple):
    """A problem of a row."""

    row: int
    kind: str
    message: str
    characters: str = ""  # every occurrence of a character outside the vocabulary, or of an invisible one


def removed_rows(problems: Iterable[Problem]) -> set[int]:
    """Return the rows that a cleaned manifest lacks."""
    return {problem.row for problem in problems if KINDS[problem.kind][1] == "removed"}


def problem_report(
    checked: Manifest, problems: Sequence[Problem], bad_lines: Sequence[str], show: int
) -> Iterator[str]:
    """List the problems by kind, each with its file and line; what concerns many rows alike, once with a count."""
    by_kind: dict[str, list[str]] = defaultdict(list)
    by_kind["line"] = list(bad_lines)
    totals = Counter(problem.kind for problem in problems) | Counter({"line": len(bad_lines)})
    alike = Counter(problem.message for problem in problems if _concerns_many(problem))
    told: set[str] = set()
    for problem in problems:
        if problem.message not in alike:
            by_kind[problem.kind].append(f"{checked.where(problem.row)}: {problem.message}")
        elif problem.message not in told:
            told.add(problem.message)
            count = alike[problem.message]
            clips = (
                f"{count} clips, the first {checked.where(problem.row)}" if problem.kind == "rate" else f"{count} clips"
            )
            by_kind[problem.kind].append(f"{problem.message}: {clips}")
    if not any(by_kind.values()):
        yield "no problems found"
    for kind, (title, remedy) in KINDS.items():
        if not by_kind[kind]:
            continue
        found = [problem for problem in problems if problem.kind == kind]
        counts = (
            [f"  {line}" for line in character_report(checked, found)] if kind in ("characters", "invisible") else []
        )
        heading, *lines = listing(
            f"{title} [{kind}]: {totals[kind]} ({remedy} in a cleaned manifest)", by_kind[kind], show
        )
        yield from (heading, *counts, *lines)


def _concerns_many(problem: Problem) -> bool:
    return problem.kind == "rate" or problem.message.startswith(NO_SHARD)


def listing(heading: str, lines: Sequence[str], show: int) -> Iterator[str]:
    """Yield a heading and the first lines below it, and how many more there are."""
    yield heading
    shown = lines[:show] if show > 0 else lines
    yield from (f"  {line}" for line in shown)
    if len(shown) < len(lines):
        yield f"  and {len(lines) - len(shown)} more (--show=0 for all)"


def character_report(checked: Manifest, problems: Sequence[Problem]) -> Iterator[str]:
    """Count each character of the problems and list its first lines."""
    times = Counter(character for problem in problems for character in problem.characters)
    for character, count in times.most_common():
        lines = [str(checked.line[problem.row]) for problem in problems if character in problem.characters]
        named = ", ".join(lines[:10]) + (", ..." if len(lines) > 10 else "")
        code = code_point(character)
        shown = (
            f"{quoted(character)} ({code})"
            if character.isprintable()
            else f"{code} {unicodedata.name(character, 'CONTROL CHARACTER')}"
        )
        yield f"{shown} {count} times in {len(lines)} utterances: lines {named}"
