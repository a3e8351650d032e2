"""Find the words of a text in what was recognised.

Equal are the words of the alignment with the fewest edits; if one side is much longer, first come runs that occur once in both.
"""

import bisect
from collections.abc import Hashable, Sequence
from typing import NamedTuple

from rapidfuzz.distance import Levenshtein

UNIQUE = 4  # words of a run that is looked for in all of the text
COMPARABLE = 1.5  # times as many words on one side as on the other, up to which all of both is compared by edits
LOPSIDED = 4  # times as many words on one side as on the other: edits tell nothing about where they belong

Run = tuple[Hashable, ...]


class Match(NamedTuple):
    """Words that are equal: in the text from `text` on, in what was recognised from `heard` on."""

    text: int
    heard: int
    size: int


def match(text: Sequence[str], heard: Sequence[str]) -> list[Match]:
    """Return the words that were recognised as they are written, in order; size > 0."""
    matches: list[Match] = []
    done, done_heard = 0, 0
    # Of texts that repeat themselves, runs that occur once are misleading, and edits are not.
    runs = [] if _ratio(len(text), len(heard)) <= COMPARABLE else _unique_runs(text, heard)
    for run in [*runs, Match(len(text), len(heard), 0)]:
        for one in _edit_matches(text[done : run.text], heard[done_heard : run.heard]):
            matches.append(Match(done + one.text, done_heard + one.heard, one.size))
        matches.append(run)
        done, done_heard = run.text + run.size, run.heard + run.size
    return [one for one in matches if one.size]


def _ratio(a: int, b: int) -> float:
    """Return how many times as long one side is as the other."""
    return max(a, b) / max(min(a, b), 1)


def _edit_matches(text: Sequence[str], heard: Sequence[str]) -> list[Match]:
    """Return equal runs of the alignment with the fewest edits; none if one side is so much longer that they are chance."""
    if _ratio(len(text), len(heard)) > LOPSIDED:
        return []
    return [Match(block.a, block.b, block.size) for block in Levenshtein.opcodes(text, heard).as_matching_blocks()]


def _unique_runs(text: Sequence[str], heard: Sequence[str]) -> list[Match]:
    """Return runs of words that occur once in the text and once in what was heard, as many as are in the same order.

    They hold where one side is much longer than the other, such as the text of a book beside one of its chapters.
    """
    places, places_heard = _unique_places(text), _unique_places(heard)
    pairs = [(place, places_heard[run]) for run, place in places.items() if run in places_heard]
    runs: list[Match] = []
    for place, place_heard in _longest_increasing(sorted(pairs)):
        last = runs[-1] if runs else Match(0, 0, 0)
        if runs and place - last.text == place_heard - last.heard <= last.size:
            runs[-1] = last._replace(size=place - last.text + UNIQUE)
        elif not runs or min(place - last.text, place_heard - last.heard) >= last.size:
            runs.append(Match(place, place_heard, UNIQUE))
    return runs


def _unique_places(words: Sequence[str]) -> dict[Run, int]:
    """Return the place of each run of UNIQUE words that occurs once."""
    places: dict[Run, int] = {}
    for place in range(len(words) - UNIQUE + 1):
        run = tuple(words[place : place + UNIQUE])
        places[run] = -1 if run in places else place
    return {run: place for run, place in places.items() if place >= 0}


def _longest_increasing(pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the longest subsequence of pairs whose second numbers increase."""
    ends: list[int] = []  # smallest second number at which a subsequence of each length ends
    last: list[int] = []  # and the index of its pair
    before: list[int] = []
    for i, (_, number) in enumerate(pairs):
        length = bisect.bisect_left(ends, number)
        before.append(last[length - 1] if length else -1)
        ends[length : length + 1] = [number]
        last[length : length + 1] = [i]
    chain, i = [], last[-1] if last else -1
    while i >= 0:
        chain.append(pairs[i])
        i = before[i]
    return chain[::-1]
