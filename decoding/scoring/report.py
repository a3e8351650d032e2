"""A report of an evaluation: rates, speakers, confusions, and the worst utterances aligned with their reference."""

import collections
import os
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from decoding.scoring.error_rate import Counts, Result, Step, align
from input_pipeline.storage import whole_file

MOST_FREQUENT = 20  # confusions of each kind
TEXT_WIDTH = 110  # columns of an alignment in plain text
MARKS = {"equal": "", "substitute": "S", "delete": "D", "insert": "I"}
LEGEND = "reference above, recognised below: S substituted, D deleted, I inserted"

_STYLE = """
:root { color-scheme: light dark; --line: #8885; --S: #b45309; --D: #b3261e; --I: #1d4ed8; }
@media (prefers-color-scheme: dark) { :root { --S: #fbbf24; --D: #ff8a80; --I: #93c5fd; } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }
h2 { font-size: 1.1rem; margin: 1.5rem 0 .25rem; }
table { border-collapse: collapse; }
td, th { padding: .15rem .8rem .15rem 0; border-bottom: 1px solid var(--line); text-align: left; }
.n { text-align: right; font-variant-numeric: tabular-nums; }
.tables { display: flex; flex-wrap: wrap; gap: 0 3rem; }
.utterance { border-top: 1px solid var(--line); padding: .6rem 0; }
.pair { display: inline-grid; margin: 0 .35rem .4rem 0; vertical-align: top; }
.pair sup { font-size: .65em; font-weight: bold; line-height: 0; margin-left: .1em; }
.S { color: var(--S); } .D { color: var(--D); } .I { color: var(--I); }
.S, .D, .I { border-bottom: 2px solid; }
"""


@dataclass(frozen=True)
class _Table:
    """A table of the report; all columns after the first `labels` are figures."""

    title: str
    head: list[str]
    rows: list[list[str]]
    labels: int = 1


def write_html(
    path: str | os.PathLike,
    result: Result,
    references: Sequence[str],
    hypotheses: Sequence[str],
    names: Sequence[str],
    *,
    title: str,
    worst: int = 50,
) -> None:
    """Write one page without outside parts; errors are marked by letter (S, D, I) as well as by colour."""
    aligned = _aligned(result, references, hypotheses)
    parts = [
        "<!doctype html>",
        f"<html><head><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        f"<p>{escape(_summary(result))}<br>Scoring: {escape(result.rules.describe())}</p>",
        _html_table(_rate_table(result)),
        "<div class='tables'>",
        *(_html_table(table) for table in _confusion_tables(aligned)),
        "</div>",
        *(_html_table(table) for table in _speaker_tables(result)),
        f"<h2>Worst utterances</h2><p>{LEGEND}</p>",
        *(_html_utterance(names[row], result.utterances[row], aligned[row]) for row in _worst(result, worst)),
        "</body></html>",
    ]
    _write(path, "\n".join(parts) + "\n")


def write_text(
    path: str | os.PathLike,
    result: Result,
    references: Sequence[str],
    hypotheses: Sequence[str],
    names: Sequence[str],
    *,
    title: str,
    worst: int = 50,
) -> None:
    """Write the same as plain text, aligned in columns (East Asian characters take two)."""
    aligned = _aligned(result, references, hypotheses)
    lines = [title, _summary(result), f"scoring: {result.rules.describe()}"]
    for table in (_rate_table(result), *_confusion_tables(aligned), *_speaker_tables(result)):
        lines += ["", table.title, *_text_table(table)]
    lines += ["", f"Worst utterances ({LEGEND})"]
    for row in _worst(result, worst):
        lines += ["", f"{names[row]}: {_errors(result.utterances[row])}", *_text_alignment(aligned[row])]
    _write(path, "\n".join(lines) + "\n")


def _aligned(result: Result, references: Sequence[str], hypotheses: Sequence[str]) -> list[list[Step]]:
    """Align all utterances as they were scored: by words, or by characters where spaces do not count."""

    def tokens(text: str) -> list[str]:
        scored = result.rules.apply(text)
        return list(scored) if result.rules.remove_spaces else scored.split()

    return [align(tokens(r), tokens(h)) for r, h in zip(references, hypotheses, strict=True)]


def _deciding(result: Result, counts: tuple[Counts, Counts]) -> Counts:
    """Of words and characters, take those that a language is measured by."""
    return counts[1] if result.rules.remove_spaces else counts[0]


def _worst(result: Result, most: int) -> list[int]:
    """Rows with the most errors, the shorter first among equals; utterances without any are left out."""
    found = [_deciding(result, counts) for counts in result.utterances]
    rows = [row for row, counts in enumerate(found) if counts.errors]
    return sorted(rows, key=lambda row: (-found[row].errors, found[row].reference, row))[:most]


def _summary(result: Result) -> str:
    wrong = sum(_deciding(result, counts).errors > 0 for counts in result.utterances)
    empty = f", {result.empty_references} without a reference" if result.empty_references else ""
    return f"{len(result.utterances)} utterances, {wrong} with errors{empty}"


def _rate_table(result: Result) -> _Table:
    rows = []
    for name, counts, (low, high) in (
        ("words (WER)", result.words, result.word_interval),
        ("characters (CER)", result.characters, result.character_interval),
    ):
        kinds = [counts.errors, counts.substitutions, counts.deletions, counts.insertions, counts.reference]
        rows.append([name, f"{counts.rate:.2%}", f"{low:.2%} to {high:.2%}", *map(str, kinds)])
    return _Table("Error rates", ["", "rate", "95 % interval", "errors", "S", "D", "I", "in the reference"], rows)


def _confusion_tables(aligned: Sequence[Sequence[Step]]) -> Iterator[_Table]:
    """Yield the most frequent errors of each kind, ties in order of code points."""
    found: dict[str, collections.Counter] = {op: collections.Counter() for op in MARKS}
    for steps in aligned:
        for op, old, new in steps:
            found[op][tuple(token for token in (old, new) if token is not None)] += 1
    for op, title, head in (
        ("substitute", "Substitutions", ["reference", "recognised", "times"]),
        ("delete", "Deletions", ["reference", "times"]),
        ("insert", "Insertions", ["recognised", "times"]),
    ):
        frequent = sorted(found[op].items(), key=lambda item: (-item[1], item[0]))[:MOST_FREQUENT]
        if frequent:
            yield _Table(title, head, [[*tokens, str(times)] for tokens, times in frequent], labels=len(head) - 1)


def _speaker_tables(result: Result) -> Iterator[_Table]:
    """Yield the speakers, the worst first, where they are known."""

    def rank(item: tuple[str, tuple[Counts, Counts]]) -> tuple[float, str]:
        counts = _deciding(result, item[1])
        return (-counts.rate if counts.reference else 0.0, item[0])

    rows = [
        [name or "(not named)", _rate(words), _rate(characters), str(words.errors), str(words.reference)]
        for name, (words, characters) in sorted(result.speakers.items(), key=rank)
    ]
    if rows:
        yield _Table("Speakers", ["speaker", "WER", "CER", "word errors", "words"], rows)


def _rate(counts: Counts) -> str:
    return f"{counts.rate:.2%}" if counts.reference else "-"


def _errors(counts: tuple[Counts, Counts]) -> str:
    words, characters = counts
    return f"word errors {words.errors} of {words.reference}, character errors {characters.errors} of {characters.reference}"


def _html_table(table: _Table) -> str:
    def line(tag: str, cells: Sequence[str]) -> str:
        kinds = ["" if column < table.labels else " class='n'" for column in range(len(cells))]
        inside = "".join(f"<{tag}{kind}>{escape(cell)}</{tag}>" for kind, cell in zip(kinds, cells, strict=True))
        return f"<tr>{inside}</tr>"

    lines = [line("th", table.head), *(line("td", row) for row in table.rows)]
    return f"<div><h2>{escape(table.title)}</h2><table>\n" + "\n".join(lines) + "\n</table></div>"


def _html_utterance(name: str, counts: tuple[Counts, Counts], steps: Sequence[Step]) -> str:
    pairs = []
    for op, old, new in steps:
        mark = MARKS[op]
        error, letter = (f" class='{mark}'", f"<sup>{mark}</sup>") if mark else ("", "")
        above, below = (escape(token) if token else "&nbsp;" for token in (old, new))
        pairs.append(f"<span class='pair'><span>{above}</span><span{error}>{below}{letter}</span></span>")
    text = "\n".join(pairs)
    return f"<div class='utterance'><b>{escape(name)}</b>: {_errors(counts)}<div dir='auto'>{text}</div></div>"


def _text_table(table: _Table) -> list[str]:
    rows = [table.head, *table.rows]
    widths = [max(_width(row[column]) for row in rows) for column in range(len(table.head))]
    lines = []
    for row in rows:
        gaps = [" " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)]
        cells = [row[i] + gaps[i] if i < table.labels else gaps[i] + row[i] for i in range(len(row))]
        lines.append("  ".join(cells).rstrip())
    return lines


def _text_alignment(steps: Sequence[Step]) -> list[str]:
    """Put reference, hypothesis and marks below each other, broken into lines that fit a page."""
    blocks: list[list[str]] = []
    used = TEXT_WIDTH
    for op, old, new in steps:
        cells = [old or "*", new or "*", MARKS[op]]
        width = max(map(_width, cells))
        if used + width > TEXT_WIDTH:
            blocks.append(["  ", "  ", "  "])
            used = 2
        blocks[-1] = [
            line + cell + " " * (width + 1 - _width(cell)) for line, cell in zip(blocks[-1], cells, strict=True)
        ]
        used += width + 1
    return [line.rstrip() for block in blocks for line in block if line.strip()]


def _width(text: str) -> int:
    """Columns of a text in a terminal: two for wide characters, none for marks on the character before."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _write(path: str | os.PathLike, content: str) -> None:
    """Write a file; half a surrogate pair, which UTF-8 cannot hold, is shown by its code. Raises OSError."""
    with whole_file.open_text(path, errors="backslashreplace", newline="\n") as file:
        file.write(content)
