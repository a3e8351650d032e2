"""Word and character error rates: counts, alignments, sums over a corpus, and a confidence interval.

Units and edge cases are those of PaddlePaddle's DeepSpeech2; rapidfuzz computes edit distances. The rate of a corpus is
the sum of errors divided by the sum of reference lengths, never a mean of rates.
"""

import collections
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rapidfuzz.distance import Levenshtein

from input_pipeline.text import ScoringRules

MAX_DRAWN = 1 << 20  # utterances of the resamples in memory at a time


@dataclass(frozen=True)
class Counts:
    """Errors by kind, and the length of the reference."""

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    reference: int = 0

    @property
    def errors(self) -> int:
        """Return the number of all errors."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Return errors divided by the length of the reference. Raises ValueError for an empty reference."""
        if self.reference == 0:
            raise ValueError("the reference is empty, so there is no error rate")
        return self.errors / self.reference

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
            self.reference + other.reference,
        )


def count_errors(reference: Sequence[str], hypothesis: Sequence[str]) -> Counts:
    """Count the edits of a shortest way to turn a reference into a hypothesis."""
    kinds = collections.Counter(op.tag for op in Levenshtein.editops(reference, hypothesis))
    return Counts(kinds["replace"], kinds["delete"], kinds["insert"], len(reference))


def word_errors(reference: str, hypothesis: str, ignore_case: bool = False, delimiter: str = " ") -> Counts:
    """Count word errors; empty words between delimiters are ignored."""
    if ignore_case:
        reference, hypothesis = reference.lower(), hypothesis.lower()
    return count_errors(*([word for word in text.split(delimiter) if word] for text in (reference, hypothesis)))


def char_errors(reference: str, hypothesis: str, ignore_case: bool = False, remove_space: bool = False) -> Counts:
    """Count character errors; spaces count, consecutive ones as one, unless `remove_space` is set."""
    if ignore_case:
        reference, hypothesis = reference.lower(), hypothesis.lower()
    separator = "" if remove_space else " "
    return count_errors(*(separator.join(word for word in text.split(" ") if word) for text in (reference, hypothesis)))


def wer(reference: str, hypothesis: str, ignore_case: bool = False, delimiter: str = " ") -> float:
    """Return the word error rate. Raises ValueError for a reference without words."""
    return word_errors(reference, hypothesis, ignore_case, delimiter).rate


def cer(reference: str, hypothesis: str, ignore_case: bool = False, remove_space: bool = False) -> float:
    """Return the character error rate. Raises ValueError for an empty reference."""
    return char_errors(reference, hypothesis, ignore_case, remove_space).rate


# 'equal', 'substitute', 'delete' or 'insert'; token of the reference; token of the hypothesis
Step = tuple[str, str | None, str | None]


def align(reference: Sequence[str], hypothesis: Sequence[str]) -> list[Step]:
    """Align the tokens of two sequences with the fewest edits."""
    steps: list[Step] = []
    for op in Levenshtein.opcodes(reference, hypothesis):
        old, new = reference[op.src_start : op.src_end], hypothesis[op.dest_start : op.dest_end]
        if op.tag == "delete":
            steps += [("delete", token, None) for token in old]
        elif op.tag == "insert":
            steps += [("insert", None, token) for token in new]
        else:
            kind = "equal" if op.tag == "equal" else "substitute"
            steps += [(kind, a, b) for a, b in zip(old, new, strict=True)]
    return steps


def bootstrap_interval(
    counts: Sequence[Counts], *, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Return a confidence interval of the corpus rate by resampling utterances (Bisani and Ney 2004, section 2).

    Resamples that have only empty references are left out. Raises ValueError if all references are empty.
    """
    errors = np.array([c.errors for c in counts], np.int64)
    lengths = np.array([c.reference for c in counts], np.int64)
    if not lengths.any():
        raise ValueError("all references are empty, so there is no error rate")
    rng = np.random.default_rng(seed)
    batch = max(1, MAX_DRAWN // len(counts))
    rates = []
    for start in range(0, resamples, batch):
        drawn = rng.integers(len(counts), size=(min(batch, resamples - start), len(counts)))
        total = lengths[drawn].sum(1)
        rates.append(errors[drawn].sum(1)[total > 0] / total[total > 0])
    low, high = np.quantile(np.concatenate(rates), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class Result:
    """The errors of a corpus, its speakers and its utterances."""

    words: Counts
    characters: Counts
    word_interval: tuple[float, float]
    character_interval: tuple[float, float]
    utterances: list[tuple[Counts, Counts]]  # words and characters, in order
    speakers: dict[str, tuple[Counts, Counts]]
    empty_references: int
    rules: ScoringRules
    names: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return the figures of the corpus as JSON values; substitutions, deletions and insertions are of words."""
        return {
            "wer": round(self.words.rate, 6),
            "wer_interval": [round(bound, 6) for bound in self.word_interval],
            "cer": round(self.characters.rate, 6),
            "cer_interval": [round(bound, 6) for bound in self.character_interval],
            "utterances": len(self.utterances),
            "words": self.words.reference,
            "characters": self.characters.reference,
            "substitutions": self.words.substitutions,
            "deletions": self.words.deletions,
            "insertions": self.words.insertions,
            "scoring": self.rules.describe(),
        }


def count_utterance(reference: str, hypothesis: str, rules: ScoringRules) -> tuple[Counts, Counts]:
    """Count the word and character errors of an utterance.

    Rules that remove spaces do so only for characters; words are separated by white space in any case.
    """
    spaced = dataclasses.replace(rules, remove_spaces=False)
    pair = spaced.apply(reference), spaced.apply(hypothesis)
    return word_errors(*pair), char_errors(*pair, remove_space=rules.remove_spaces)


def summarise(
    references: Sequence[str],
    hypotheses: Sequence[str],
    *,
    rules: ScoringRules,
    speakers: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
) -> Result:
    """Count the errors of all utterances; insertions into empty references count, too.

    Raises ValueError if all references are empty, or the lists differ in length.
    """
    for what, given in (("hypotheses", hypotheses), ("speakers", speakers), ("names", names)):
        if given is not None and len(given) != len(references):
            raise ValueError(f"there are {len(references)} references but {len(given)} {what}; there must be one each")
    utterances = [count_utterance(r, h, rules) for r, h in zip(references, hypotheses, strict=True)]
    empty = sum(characters.reference == 0 for _, characters in utterances)
    if empty == len(utterances):
        raise ValueError("all references are empty; use a manifest with text")
    by_speaker: dict[str, tuple[Counts, Counts]] = {}
    for speaker, (words, characters) in zip(speakers, utterances, strict=True) if speakers else ():
        total = by_speaker.get(speaker, (Counts(), Counts()))
        by_speaker[speaker] = (total[0] + words, total[1] + characters)
    return Result(
        words=sum((words for words, _ in utterances), Counts()),
        characters=sum((characters for _, characters in utterances), Counts()),
        word_interval=bootstrap_interval([words for words, _ in utterances]),
        character_interval=bootstrap_interval([characters for _, characters in utterances]),
        utterances=utterances,
        speakers=dict(sorted(by_speaker.items())),
        empty_references=empty,
        rules=rules,
        names=list(names or []),
    )
