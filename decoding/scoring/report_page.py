"""Write the report of an evaluation as one HTML page, without scripts and without anything from other hosts.

The page plays the worst utterances from their audio files, and shows `curves.png` if that lies in the same folder.
"""

import math
import os
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from decoding.scoring.error_rate import Step
from decoding.scoring.report import (
    LEGEND,
    MARKS,
    Report,
    Table,
    confusion_tables,
    deciding_rate,
    describe_errors,
    length_histogram,
    rate_table,
    speaker_histogram,
    speaker_tables,
    write_whole,
)
from input_pipeline.text import visible

CURVES = "curves.png"  # ds2_jax/training/curves.py writes it
PLAYABLE = {
    ".aac",
    ".flac",
    ".m4a",
    ".mp3",
    ".oga",
    ".ogg",
    ".opus",
    ".wav",
    ".webm",
}  # browsers do not play NIST SPHERE
SHOWN_ROWS = 20  # longer tables of speakers start folded
SPELLED_OUT = {"S": "substitutions", "D": "deletions", "I": "insertions"}

_STYLE = """
:root { color-scheme: light dark; --text: #1c1c1e; --page: #fff; --soft: #5b5b62; --line: #d8d8de; --bar: #7aa7d9;
  --S: #9a4a00; --D: #b3261e; --I: #1d4ed8; }
@media (prefers-color-scheme: dark) { :root { --text: #ececf0; --page: #17171a; --soft: #a7a7b0; --line: #3d3d44; --bar: #3f6ea3;
  --S: #fbbf24; --D: #ff8a80; --I: #93c5fd; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--text); background: var(--page); max-width: 64rem; margin: 0 auto;
  padding: 1.5rem 1rem 4rem; }
h1, h3, dd { overflow-wrap: anywhere; }
h1 { font-size: 1.4rem; line-height: 1.25; margin: 0 0 1rem; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .75rem; padding-top: .75rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 0; }
p { margin: .25rem 0; }
a { color: inherit; }
nav { margin-top: 1.25rem; }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; list-style: none; margin: 0; padding: 0; }
nav a { display: inline-block; padding: .2rem 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; margin: 1rem 0 0; }
dt, .soft, thead th { color: var(--soft); }
dd { margin: 0; }
.rates { display: flex; flex-wrap: wrap; gap: .5rem 3rem; margin: 0 0 .75rem; }
.rates b { display: block; font-size: 2rem; line-height: 1.2; font-variant-numeric: tabular-nums; }
.tables { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(17rem, 100%), 1fr));
  gap: 1.5rem 3rem; align-items: start; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; }
.wide { width: 100%; }
caption { text-align: left; font-weight: 600; padding-bottom: .25rem; }
td, th { padding: .2rem .75rem .2rem 0; border-bottom: 1px solid var(--line); text-align: left; font-weight: normal;
  vertical-align: top; }
.n { text-align: right; font-variant-numeric: tabular-nums; }
td.n:last-child, th.n:last-child { padding-right: 0; }
.label { white-space: nowrap; }
.bar { width: 70%; min-width: 4rem; vertical-align: middle; }
.bar span { display: block; height: .8em; border-radius: 2px; background: var(--bar); }
details { margin-top: 1.5rem; }
summary { cursor: pointer; font-weight: 600; }
figure { margin: 0; }
img { display: block; width: 100%; min-width: 40rem; height: auto; border-radius: 4px; }
.utterance { border-top: 1px solid var(--line); padding: .75rem 0; }
audio { display: block; width: min(100%, 24rem); height: 2.25rem; margin: .4rem 0; }
.pairs { margin-top: .4rem; }
.pair { display: inline-grid; max-width: 100%; overflow-wrap: anywhere; margin: 0 .4rem .5rem 0; vertical-align: top; }
.pair sup { font-size: .7em; font-weight: bold; line-height: 0; margin-left: .1em; }
.S { color: var(--S); } .D { color: var(--D); } .I { color: var(--I); }
.S, .D, .I { border-bottom: 2px solid; }
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
"""


def write_html(path: str | os.PathLike, report: Report, *, worst: int = 50) -> None:
    """Write the page, with at most `worst` utterances. Audio files are linked relative to the page's folder."""
    folder = Path(path).parent
    sections = [
        ("rates", "Error rates", _rates(report)),
        ("curves", "Training", _curves(folder)),
        ("groups", "Speakers and lengths", _groups(report)),
        ("confusions", "Most frequent errors", _confusions(report)),
        ("worst", "Worst utterances", _worst(report, report.worst(worst), folder)),
    ]
    sections = [section for section in sections if section[2]]
    title = escape(report.title)
    parts = [
        "<!doctype html>",
        "<html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>{title}</title><style>{_STYLE}</style></head><body>",
        f"<header><h1>{title}</h1>",
        _headline(report),
        _facts(report),
        "<nav aria-label='Sections'><ul>",
        *(f"<li><a href='#{name}'>{heading}</a></li>" for name, heading, _ in sections),
        "</ul></nav></header><main>",
        *(
            f"<section aria-labelledby='{name}'><h2 id='{name}'>{heading}</h2>\n{content}\n</section>"
            for name, heading, content in sections
        ),
        "</main></body></html>",
    ]
    write_whole(path, "\n".join(parts) + "\n")


def _headline(report: Report) -> str:
    result = report.result
    rates = [("WER", result.words, result.word_interval), ("CER", result.characters, result.character_interval)]
    if deciding_rate(result) == "CER":
        rates.reverse()
    blocks = "".join(
        f"<div>{name} <b>{counts.rate:.2%}</b> <span class='soft'>95% interval {low:.2%} to {high:.2%}</span></div>"
        for name, counts, (low, high) in rates
    )
    return f"<div class='rates'>{blocks}</div><p>{escape(report.summary())}</p>"


def _facts(report: Report) -> str:
    facts = {**report.facts, "Scoring": report.result.rules.describe()}
    entries = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items() if value)
    return f"<dl>{entries}</dl>"


def _rates(report: Report) -> str:
    table = rate_table(report.result)
    head, *rows = map(list, zip(table.head, *table.rows, strict=True))  # a column for words and one for characters
    rows = [[SPELLED_OUT.get(row[0], row[0]), *row[1:]] for row in rows]
    return _table(Table("Words and characters", head, rows), titled=True)


def _curves(folder: Path) -> str:
    if not (folder / CURVES).is_file():
        return ""
    described = "Curves over training steps: loss, error rates on dev, learning rate and speed"
    return f"<figure class='scroll'><a href='{CURVES}'><img src='{CURVES}' alt='{described}'></a></figure>"


def _groups(report: Report) -> str:
    tables = [*speaker_histogram(report.result), *length_histogram(report)]
    charts = f"<div class='tables'>{''.join(map(_table, tables))}</div>" if tables else ""
    return charts + "".join(map(_folded, speaker_tables(report.result)))


def _confusions(report: Report) -> str:
    tables = "".join(map(_table, confusion_tables(report.alignments)))
    return f"<div class='tables'>{tables}</div>" if tables else ""


def _folded(table: Table) -> str:
    """Write a table that can be folded; only short ones start open."""
    opened = " open" if len(table.rows) <= SHOWN_ROWS else ""
    return f"<details{opened}><summary>{len(table.rows)} {escape(table.title.lower())}</summary>{_table(table, titled=True)}</details>"


def _table(table: Table, *, titled: bool = False) -> str:
    """Write a table. titled: a heading above already names it, so the caption is for screen readers only."""
    bars: Sequence[float | None] = table.bars or [None] * len(table.rows)
    lines = [
        f"<div class='scroll'><table{' class=wide' if table.bars else ''}>",
        f"<caption{' class=unseen' if titled else ''}>{escape(table.title)}</caption>",
        f"<thead><tr>{''.join(_head_cells(table))}</tr></thead><tbody>",
        *(f"<tr>{''.join(_cells(table, row, bar))}</tr>" for row, bar in zip(table.rows, bars, strict=True)),
        "</tbody></table></div>",
    ]
    return "\n".join(lines)


def _head_cells(table: Table) -> Iterator[str]:
    for column, name in enumerate(table.head):
        if column == table.labels and table.bars:
            yield "<td class='bar' aria-hidden='true'></td>"
        kind = "" if column < table.labels else " class='n'"
        yield f"<th scope='col'{kind}>{escape(name)}</th>" if name else "<td></td>"


def _cells(table: Table, row: Sequence[str], bar: float | None) -> Iterator[str]:
    for column, cell in enumerate(row):
        if column == table.labels and bar is not None:
            drawn = f"<span style='width:{100 * bar:.1f}%'></span>" if bar else ""
            yield f"<td class='bar' aria-hidden='true'>{drawn}</td>"
        if column == 0:
            kind = " class='label'" if table.bars else ""
            yield f"<th scope='row'{kind}>{escape(cell)}</th>"
        else:
            kind = "" if column < table.labels else " class='n'"
            yield f"<td{kind}>{escape(cell)}</td>"


def _worst(report: Report, rows: Sequence[int], folder: Path) -> str:
    if not rows:
        return ""
    legend = LEGEND[0].upper() + LEGEND[1:]
    return "\n".join([f"<p class='soft'>{legend}.</p>", *(_utterance(report, row, folder) for row in rows)])


def _utterance(report: Report, row: int, folder: Path) -> str:
    name, texts = escape(report.names[row]), (report.references[row], report.hypotheses[row])
    own = report.result.rules.language
    language = "" if own in ("en", "none") else f" lang='{own}'"
    url = audio_url(report.audio[row], folder) if report.audio else ""
    player = f"<audio controls preload='none' src='{url}' aria-label='{name}'></audio>" if url else ""
    reference, hypothesis = (f"<span{language}>{escape(visible(text))}</span>" for text in texts)
    return (
        f"<article class='utterance' aria-labelledby='u{row}'><h3 id='u{row}'>{name}</h3>"
        f"<p class='soft'>{_describe(report, row)}</p>{player}"
        f"<p class='unseen'>Reference: {reference}. Recognised: {hypothesis}.</p>"
        f"<div class='pairs' dir='auto'{language} aria-hidden='true'>{_pairs(report.alignments[row])}</div></article>"
    )


def _describe(report: Report, row: int) -> str:
    length = report.durations[row] if report.durations else math.nan
    return describe_errors(report.result.utterances[row]) + (f", {length:.1f} s" if math.isfinite(length) else "")


def _pairs(steps: Sequence[Step]) -> str:
    pairs = []
    for op, old, new in steps:
        mark = MARKS[op]
        error, letter = (f" class='{mark}'", f"<sup>{mark}</sup>") if mark else ("", "")
        above, below = (escape(token) if token else "&nbsp;" for token in (old, new))
        pairs.append(f"<span class='pair'><span>{above}</span><span{error}>{below}{letter}</span></span>")
    return "\n".join(pairs)


def audio_url(audio: str, folder: Path) -> str:
    """Return the URL of an audio file relative to a folder; '' for no file, and for formats that browsers cannot play."""
    if Path(audio).suffix.lower() not in PLAYABLE:
        return ""
    return quote(os.fsencode(os.path.relpath(audio, folder)))
