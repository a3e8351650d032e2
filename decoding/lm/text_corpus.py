"""The text of a language model, prepared (decoding/lm/preparation.py), and streamed."""

import collections
import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from decoding.lm.preparation import Preparation
from decoding.lm.text_files import read_lines
from input_pipeline.storage import whole_file
from input_pipeline.text import TextRules, is_spaced
from input_pipeline.text.language import NONE

UNKNOWN = "UNKNOWNWORD"  # replaces words that are not among the most frequent ones, as in the original
MAX_COUNTED = 10_000_000  # distinct words counted at a time, about a gigabyte
# Least tokens of an excluded text that is also searched inside of lines; shorter ones are common phrases.
MIN_INNER_TOKENS, MIN_INNER_CHARACTERS = 4, 8
MAX_UNWRITABLE = 0.5  # share of words that a network cannot write, above which a text is in the wrong form


class ExcludedTexts:
    """Texts that a model must not be trained on, such as those of a test set.

    Lines are compared without punctuation, whatever the symbols of the network, as many text corpora have none. A line is
    excluded if it is one of the texts, or contains one of at least MIN_INNER_TOKENS words, or MIN_INNER_CHARACTERS characters in
    languages without spaces.
    """

    def __init__(self, paths: Sequence[str], rules: TextRules):
        self._prepare = Preparation(rules)
        self._whole = {self._plain(line) for line in read_lines(paths, "--exclude")} - {""}
        self._least = MIN_INNER_TOKENS if is_spaced(rules.language) else MIN_INNER_CHARACTERS
        self._starting: dict[tuple[str, ...], list[str]] = collections.defaultdict(list)
        for text in self._whole:
            tokens = text.split()
            if len(tokens) >= self._least:
                self._starting[tuple(tokens[: self._least])].append(f" {text} ")

    def __len__(self) -> int:
        return len(self._whole)

    @property
    def example(self) -> str:
        """One of the texts; '' if there are none."""
        return min(self._whole, default="")

    def match(self, line: str) -> bool:
        """Tell whether a line is excluded."""
        plain = self._plain(line)
        if plain in self._whole:
            return True
        if not self._starting:
            return False
        tokens, padded = plain.split(), f" {plain} "
        starts = zip(*(tokens[i:] for i in range(self._least)), strict=False)
        return any(text in padded for start in starts for text in self._starting.get(start, ()))

    def _plain(self, line: str) -> str:
        """Return a line as it is compared: tokens separated by spaces."""
        prepared = self._prepare(line)
        if self._prepare.rules.language != NONE:
            return prepared
        return " ".join("".join(" " if unicodedata.category(one)[0] in "PS" else one for one in prepared).split())


@dataclass(frozen=True)
class CorpusCounts:
    """Size of a corpus: lines written and excluded, tokens, distinct words (a lower bound if rare ones were dropped)."""

    lines: int
    excluded: int
    tokens: int
    words: int


class _WordCounts:
    """Word counts in bounded memory: the rarest words are dropped when there are too many (lossy counting).

    Manku and Motwani, Approximate frequency counts over data streams, 2002. A count is too low by at most `dropped`.
    """

    def __init__(self, limit: int):
        self._limit, self.dropped = limit, 0
        self.counts: collections.Counter = collections.Counter()

    def add(self, words: Sequence[str]) -> None:
        """Count words."""
        self.counts.update(words)
        while len(self.counts) > self._limit:
            self.dropped += 1
            self.counts = collections.Counter({w: n - 1 for w, n in self.counts.items() if n > 1})


def write_corpus(
    paths: Sequence[str], prepare: Preparation, most_words: int, output: Path, excluded: ExcludedTexts | None = None
) -> CorpusCounts:
    """Write the prepared lines, except excluded ones, with UNKNOWN for words that are not writable, or not frequent.

    Reads the text once and, if rare words are replaced, the prepared file once more; only the counts are in memory.
    Raises ValueError if nothing is left, or most words cannot be written.
    """
    counter = _WordCounts(max(MAX_COUNTED, 4 * most_words))
    lines = left_out = tokens = 0
    size = sum(os.path.getsize(path) for path in paths if os.path.isfile(path))
    bar = tqdm(desc="prepare", total=size or None, unit="B", unit_scale=True, delay=2)
    with bar, open(output, "w", encoding="utf-8") as file:
        for line in read_lines(paths, bar=bar):
            prepared = prepare(line)
            if not prepared:
                continue
            if excluded is not None and excluded.match(line):
                left_out += 1
                continue
            words = [word if prepare.writable(word) else UNKNOWN for word in prepared.split()]
            counter.add([word for word in words if word != UNKNOWN])
            file.write(" ".join(words) + "\n")
            lines, tokens = lines + 1, tokens + len(words)
    if not lines:
        raise ValueError(
            f"--text: nothing is left of {', '.join(paths)} after preparation for --language={prepare.rules.language}"
            + (f" without the {left_out} lines of --exclude" if left_out else "")
        )
    if prepare.dropped.unwritable > MAX_UNWRITABLE * tokens:
        raise ValueError(
            f"--text: {prepare.dropped.report()[-1]}. These are most of the {tokens} words: check --language and --vocabulary"
        )
    if len(counter.counts) > most_words or counter.dropped:
        _replace_rare({word for word, _ in counter.counts.most_common(most_words)}, output, lines)
    return CorpusCounts(lines, left_out, tokens, len(counter.counts))


def _replace_rare(kept: set[str], corpus: Path, lines: int) -> None:
    """Rewrite a corpus with UNKNOWN for each word that is not kept."""
    with open(corpus, encoding="utf-8") as source, whole_file.open_text(corpus) as file:
        for line in tqdm(source, total=lines, desc="rare words", unit=" lines", delay=2):
            file.write(" ".join(word if word in kept else UNKNOWN for word in line.split()) + "\n")
