"""Report an evaluation: error rates, speakers, lengths, confusions, and the worst utterances aligned with their reference.

This module computes the contents and writes plain text; decoding/scoring/report_page.py writes HTML.
"""

import collections
import functools
import itertools
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from decoding.scoring.error_rate import Counts, Result, Step, align
from input_pipeline.storage import whole_file
from input_pipeline.text import visible
from input_pipeline.text import width as width_of

MOST_FREQUENT = 20  # confusions of each kind
MOST_BARS = 10  # of a histogram
COVERED = 0.95  # share of the durations that the bins cover; the last bin also holds all longer ones
TEXT_WIDTH = 110  # columns of an alignment in plain text
MARKS = {"equal": "", "substitute": "S", "delete": "D", "insert": "I"}
LEGEND = "reference above, recognised below: S substituted, D deleted, I inserted"


@dataclass(frozen=True)
class Report:
    """An evaluation to report. Sequences hold one entry per utterance, in the order of `result.utterances`.

    audio: paths of audio files, '' for utterances without one. durations: seconds, nan if unknown. Both may be empty.
    facts: shown at the top, by name (model, decoding, date); empty ones are left out. Raises ValueError for unequal lengths.
    """

    title: str
    result: Result
    references: Sequence[str]
    hypotheses: Sequence[str]
    names: Sequence[str]
    audio: Sequence[str] = ()
    durations: Sequence[float] = ()
    facts: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self):
        count = len(self.result.utterances)
        for what in ("references", "hypotheses", "names", "audio", "durations"):
            given = len(getattr(self, what))
            if given != count and not (given == 0 and what in ("audio", "durations")):
                raise ValueError(
                    f"{what} has {given} entries, the result has {count} utterances; pass one entry for each"
                )

    @functools.cached_property
    def alignments(self) -> list[list[Step]]:
        """Each hypothesis aligned with its reference as it was scored: by words, or by characters if spaces are ignored.

        Invisible characters are shown as <U+200B>.
        """
        return [
            align(self._tokens(reference), self._tokens(hypothesis))
            for reference, hypothesis in zip(self.references, self.hypotheses, strict=True)
        ]

    def _tokens(self, text: str) -> list[str]:
        scored = self.result.rules.apply(text)
        return [visible(token) for token in (scored if self.result.rules.remove_spaces else scored.split())]

    def worst(self, most: int) -> list[int]:
        """Return the utterances with the most errors, shorter ones first among equals; those without errors are left out."""
        found = [deciding_counts(self.result, counts) for counts in self.result.utterances]
        rows = [row for row, counts in enumerate(found) if counts.errors]
        return sorted(rows, key=lambda row: (-found[row].errors, found[row].reference, row))[:most]

    def summary(self) -> str:
        """Count the utterances in one line."""
        wrong = sum(deciding_counts(self.result, counts).errors > 0 for counts in self.result.utterances)
        empty = f", {self.result.empty_references} without a reference" if self.result.empty_references else ""
        return f"{len(self.result.utterances)} utterances, {wrong} with errors{empty}"


@dataclass(frozen=True)
class Table:
    """A table of a report; the columns after the first `labels` hold numbers. bars: length of a bar per row, 0 to 1."""

    title: str
    head: list[str]
    rows: list[list[str]]
    labels: int = 1
    bars: Sequence[float] = ()


def write_text(path: str | os.PathLike, report: Report, *, worst: int = 50) -> None:
    """Write a report as plain text, aligned in columns (East Asian characters take two)."""
    result = report.result
    facts = [f"{name.lower()}: {value}" for name, value in report.facts.items() if value]
    lines = [report.title, report.summary(), *facts, f"scoring: {result.rules.describe()}"]
    for table in (rate_table(result), *confusion_tables(report.alignments), *speaker_tables(result)):
        lines += ["", table.title, *_text_table(table)]
    lines += ["", f"Worst utterances ({LEGEND})"]
    for row in report.worst(worst):
        heading = f"{report.names[row]}: {describe_errors(result.utterances[row])}"
        lines += ["", heading, *_text_alignment(report.alignments[row])]
    write_whole(path, "\n".join(lines) + "\n")


def deciding_counts(result: Result, counts: tuple[Counts, Counts]) -> Counts:
    """Return the counts of words, or of characters for languages that are scored without spaces."""
    return counts[1] if result.rules.remove_spaces else counts[0]


def deciding_rate(result: Result) -> str:
    """Name the error rate that belongs to `deciding_counts`: WER or CER."""
    return "CER" if result.rules.remove_spaces else "WER"


def rate_table(result: Result) -> Table:
    """Tabulate the error rates of words and characters."""
    rows = []
    for name, counts, (low, high) in (
        ("words (WER)", result.words, result.word_interval),
        ("characters (CER)", result.characters, result.character_interval),
    ):
        kinds = [counts.errors, counts.substitutions, counts.deletions, counts.insertions, counts.reference]
        rows.append([name, f"{counts.rate:.2%}", f"{low:.2%} to {high:.2%}", *map(str, kinds)])
    return Table("Error rates", ["", "rate", "95% interval", "errors", "S", "D", "I", "in the reference"], rows)


def confusion_tables(alignments: Sequence[Sequence[Step]]) -> Iterator[Table]:
    """Yield the most frequent errors of each kind, equally frequent ones in code point order."""
    found: dict[str, collections.Counter] = {op: collections.Counter() for op in MARKS}
    for steps in alignments:
        for op, old, new in steps:
            found[op][tuple(token for token in (old, new) if token is not None)] += 1
    for op, title, head in (
        ("substitute", "Substitutions", ["reference", "recognised", "times"]),
        ("delete", "Deletions", ["reference", "times"]),
        ("insert", "Insertions", ["recognised", "times"]),
    ):
        frequent = sorted(found[op].items(), key=lambda item: (-item[1], item[0]))[:MOST_FREQUENT]
        if frequent:
            yield Table(title, head, [[*tokens, str(times)] for tokens, times in frequent], labels=len(head) - 1)


def speaker_tables(result: Result) -> Iterator[Table]:
    """Yield a table of the speakers, the worst first, if speakers are known."""

    def rank(item: tuple[str, tuple[Counts, Counts]]) -> tuple[float, str]:
        counts = deciding_counts(result, item[1])
        return (-counts.rate if counts.reference else 0.0, item[0])

    rows = [
        [name or "(not named)", _rate(words), _rate(characters), str(words.errors), str(words.reference)]
        for name, (words, characters) in sorted(result.speakers.items(), key=rank)
    ]
    if rows:
        yield Table("Speakers", ["speaker", "WER", "CER", "word errors", "words"], rows)


def speaker_histogram(result: Result) -> Iterator[Table]:
    """Yield how many speakers have which error rate, if there are at least two with a reference."""
    found = [deciding_counts(result, counts) for counts in result.speakers.values()]
    percent = np.array([round(100 * counts.rate, 9) for counts in found if counts.reference])
    if len(percent) < 2:
        return
    highest = min(max(percent.max(), 1.0), 100.0)
    step = _step_for(highest, min(MOST_BARS, math.ceil(2 * math.sqrt(len(percent)))))
    edges = np.round(step * np.arange(math.ceil(highest / step) + 1), 9)
    bins = np.searchsorted(edges, percent, side="left")  # 0 for no errors; upper edges are included
    labels = ["no errors", *(f"{low:g} to {high:g}%" for low, high in itertools.pairwise(edges))]
    labels[1] = f"up to {edges[1]:g}%"
    labels.append(f"over {edges[-1]:g}%")
    counts = np.bincount(bins, minlength=len(labels))
    used = len(labels) if counts[-1] else len(labels) - 1
    rate = deciding_rate(result)
    rows = [[label, str(count)] for label, count in zip(labels[:used], counts[:used], strict=True)]
    yield Table(f"Speakers by {rate}", [rate, "speakers"], rows, bars=(counts[:used] / counts.max()).tolist())


def length_histogram(report: Report) -> Iterator[Table]:
    """Yield the error rate of utterances by their duration, if durations are known and differ."""
    seconds = np.array(report.durations, np.float64)
    if not np.isfinite(seconds).any():
        return
    step = _step_for(float(np.nanquantile(seconds, COVERED)), MOST_BARS)
    last = max(1, math.floor(np.nanquantile(seconds, COVERED) / step))  # the bin for all longer ones
    sums: dict[int, Counts] = collections.defaultdict(Counts)
    utterances: collections.Counter[int] = collections.Counter()
    for length, counts in zip(seconds, report.result.utterances, strict=True):
        if math.isfinite(length):
            place = min(math.floor(length / step + 1e-9), last)
            sums[place] += deciding_counts(report.result, counts)
            utterances[place] += 1
    places = sorted(utterances)
    if len(places) < 2:
        return
    rates = [sums[place].rate if sums[place].reference else 0.0 for place in places]
    rows = [[_length_label(place, last, step), _rate(sums[place]), str(utterances[place])] for place in places]
    rate = deciding_rate(report.result)
    longest = max(*rates, 1e-9)
    yield Table(f"{rate} by length", ["length", rate, "utterances"], rows, bars=[value / longest for value in rates])


def _length_label(place: int, last: int, step: float) -> str:
    if place == 0:
        return f"under {step:g} s"
    return f"from {place * step:g} s" if place == last else f"{place * step:g} to {(place + 1) * step:g} s"


def _step_for(highest: float, most: int) -> float:
    """Return the smallest of ..., 0.5, 1, 2, 5, 10, ... that divides 0..highest into at most this many steps."""
    smallest = highest / most
    power = 10.0 ** math.floor(math.log10(smallest))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= smallest * (1 - 1e-9))


def _rate(counts: Counts) -> str:
    return f"{counts.rate:.2%}" if counts.reference else "-"


def describe_errors(counts: tuple[Counts, Counts]) -> str:
    """State the errors of an utterance in one line."""
    words, characters = counts
    return f"word errors {words.errors} of {words.reference}, character errors {characters.errors} of {characters.reference}"


def _text_table(table: Table) -> list[str]:
    rows = [table.head, *table.rows]
    widths = [max(width_of(row[column]) for row in rows) for column in range(len(table.head))]
    lines = []
    for row in rows:
        gaps = [" " * (width - width_of(cell)) for cell, width in zip(row, widths, strict=True)]
        cells = [row[i] + gaps[i] if i < table.labels else gaps[i] + row[i] for i in range(len(row))]
        lines.append("  ".join(cells).rstrip())
    return lines


def _text_alignment(steps: Sequence[Step]) -> list[str]:
    """Write reference, hypothesis and marks below each other, wrapped to the width of a page."""
    blocks: list[list[str]] = []
    used = TEXT_WIDTH
    for op, old, new in steps:
        cells = [old or "*", new or "*", MARKS[op]]
        width = max(map(width_of, cells))
        if used + width > TEXT_WIDTH:
            blocks.append(["  ", "  ", "  "])
            used = 2
        blocks[-1] = [
            line + cell + " " * (width + 1 - width_of(cell)) for line, cell in zip(blocks[-1], cells, strict=True)
        ]
        used += width + 1
    return [line.rstrip() for block in blocks for line in block if line.strip()]


def write_whole(path: str | os.PathLike, content: str) -> None:
    """Write a text file; lone surrogates, which UTF-8 cannot encode, are written as escapes. Raises OSError."""
    with whole_file.open_text(path, errors="backslashreplace", newline="\n") as file:
        file.write(content)
