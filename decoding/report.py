"""A report of an evaluation: rates, speakers, confusions, and the worst utterances aligned with their reference."""

import collections
import html
import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from decoding.error_rate import Counts, Result, Step, align

CONFUSIONS = 20
MARKS = {"equal": "", "substitute": "S", "delete": "D", "insert": "I"}

_STYLE = """
:root { color-scheme: light dark; --wrong: #b3261e; --line: #8884; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; }
td, th { padding: .15rem .7rem; border-bottom: 1px solid var(--line); text-align: left; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
.utterance { border-top: 1px solid var(--line); padding: .6rem 0; }
.pair { display: inline-block; margin: 0 .25rem .4rem 0; vertical-align: top; }
.pair span { display: block; min-height: 1.5em; }
.error { color: var(--wrong); border-bottom: 2px solid var(--wrong); }
.error::after { content: attr(data-mark); font-size: .7em; font-weight: bold; }
@media (prefers-color-scheme: dark) { :root { --wrong: #ff8a80; } }
"""


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
        f"<!doctype html><html><meta charset='utf-8'><title>{html.escape(title)}</title><style>{_STYLE}</style>",
        f"<h1>{html.escape(title)}</h1><p>Scoring: {html.escape(result.rules.describe())}</p>",
        _html_table(["", "rate", "95 %", "errors", "S", "D", "I", "reference"], _rate_rows(result)),
    ]
    if result.speakers:
        parts += ["<h2>Speakers</h2>", _html_table(["speaker", "WER", "CER", "words"], _speaker_rows(result))]
    parts += [
        "<h2>Most frequent errors</h2>",
        _html_table(["reference", "recognised", "times"], _confusion_rows(aligned)),
    ]
    parts.append("<h2>Worst utterances</h2>")
    for row in _worst(result, worst):
        parts.append(_html_utterance(names[row], result.utterances[row], aligned[row]))
    _write(path, "\n".join(parts) + "</html>\n")


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
    lines = [title, f"scoring: {result.rules.describe()}", ""]
    lines += _text_table([["", "rate", "95 %", "errors", "S", "D", "I", "reference"], *_rate_rows(result)])
    if result.speakers:
        lines += ["", *_text_table([["speaker", "WER", "CER", "words"], *_speaker_rows(result)])]
    lines += ["", *_text_table([["reference", "recognised", "times"], *_confusion_rows(aligned)])]
    for row in _worst(result, worst):
        lines += ["", f"{names[row]}: {_errors(result.utterances[row])}"]
        columns = [(old or "", new or "", MARKS[op]) for op, old, new in aligned[row]]
        lines += [line.rstrip() for line in _text_table([list(side) for side in zip(*columns, strict=True)])]
    _write(path, "\n".join(lines) + "\n")


def _aligned(result: Result, references: Sequence[str], hypotheses: Sequence[str]) -> list[list[Step]]:
    """Align all utterances as they were scored: by words, or by characters where spaces do not count."""

    def tokens(text: str) -> list[str]:
        scored = result.rules.apply(text)
        return list(scored) if result.rules.remove_spaces else scored.split()

    return [align(tokens(r), tokens(h)) for r, h in zip(references, hypotheses, strict=True)]


def _worst(result: Result, most: int) -> list[int]:
    """Rows with the most errors, at most so many; utterances without any are left out."""
    errors = [
        (words if not result.rules.remove_spaces else characters).errors for words, characters in result.utterances
    ]
    return sorted((row for row, count in enumerate(errors) if count), key=lambda row: (-errors[row], row))[:most]


def _rate_rows(result: Result) -> list[list[str]]:
    rows = []
    for name, counts, (low, high) in (
        ("words", result.words, result.word_interval),
        ("characters", result.characters, result.character_interval),
    ):
        kinds = [counts.errors, counts.substitutions, counts.deletions, counts.insertions, counts.reference]
        rows.append([name, f"{counts.rate:.2%}", f"{low:.2%} to {high:.2%}", *map(str, kinds)])
    return rows


def _speaker_rows(result: Result) -> list[list[str]]:
    return [
        [name, _rate(words), _rate(characters), str(words.reference)]
        for name, (words, characters) in result.speakers.items()
    ]


def _rate(counts: Counts) -> str:
    return f"{counts.rate:.2%}" if counts.reference else "-"


def _confusion_rows(aligned: Sequence[Sequence[Step]]) -> list[list[str]]:
    errors = collections.Counter((old or "", new or "") for steps in aligned for op, old, new in steps if op != "equal")
    return [[old, new, str(times)] for (old, new), times in errors.most_common(CONFUSIONS)]


def _errors(counts: tuple[Counts, Counts]) -> str:
    words, characters = counts
    return f"{words.errors} errors in {words.reference} words, {characters.errors} in {characters.reference} characters"


def _html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def cell(text: str) -> str:
        kind = " class='number'" if text[:1].isdigit() else ""
        return f"<td{kind}>{html.escape(text)}</td>"

    lines = ["<tr>" + "".join(f"<th>{html.escape(name)}</th>" for name in head) + "</tr>"]
    lines += ["<tr>" + "".join(map(cell, row)) + "</tr>" for row in rows]
    return "<table>" + "\n".join(lines) + "</table>"


def _html_utterance(name: str, counts: tuple[Counts, Counts], steps: Sequence[Step]) -> str:
    pairs = []
    for op, old, new in steps:
        kind = f" class='error' data-mark='{MARKS[op]}'" if op != "equal" else ""
        pairs.append(
            f"<div class='pair'><span>{html.escape(old or '·')}</span><span{kind}>{html.escape(new or '·')}</span></div>"
        )
    return f"<div class='utterance'><b>{html.escape(name)}</b>: {_errors(counts)}<br>{''.join(pairs)}</div>"


def _text_table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(_width(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)) for row in rows
    ]


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _write(path: str | os.PathLike, content: str) -> None:
    unfinished = Path(path).with_name(f".{Path(path).name}.{os.getpid()}.tmp")
    unfinished.write_text(content, encoding="utf-8")
    os.replace(unfinished, path)
