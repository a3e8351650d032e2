"""Find words of a text in what was recognised, and divide text and recording between them.

Letters are compared without spaces, so that pauses and languages without spaces need no rules of their own. Anchors are equal runs
of the alignment with the fewest edits; if one side is much longer, first come runs that occur once in both. A section lies
between two anchors.
"""

import bisect
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from rapidfuzz.distance import Levenshtein

from decoding.hypothesis import BLANK
from decoding.search.greedy import collapse

ANCHOR = 8  # equal letters in a row
LONGEST = 100  # letters of an anchor; longer runs are several
UNIQUE = 16  # letters of a run that is looked for in all of the text
COMPARABLE = 1.5  # times as many letters on one side as on the other, up to which all of both is compared by edits
LOPSIDED = 4  # times as many letters on one side as on the other: edits tell nothing about where they belong


class Section(NamedTuple):
    """The words first_word <= i < end_word are in the frames first <= u < end, if they were spoken."""

    first_word: int
    end_word: int
    first: int
    end: int


def sections_between(words: Sequence[np.ndarray], best: np.ndarray, space: int) -> list[Section]:
    """Divide words, the symbols [n] of each, and the best symbol of each frame, [T], at anchors; return all sections."""
    heard = [run for run in collapse(best) if run[0] not in (BLANK, space)]
    text = np.concatenate([np.zeros(0, np.int32), *words])
    begins = np.cumsum([0, *map(len, words)])
    cuts = [(0, 0)]
    for begin, spoken, length in _matches(text.tolist(), [symbol for symbol, _, _ in heard]):
        word = int(begins[np.abs(begins - begin - length // 2).argmin()])
        if begin < word < begin + length:
            before, after = heard[spoken + word - begin - 1], heard[spoken + word - begin]
            cuts.append((int(np.searchsorted(begins, word)), (before[2] + after[1]) // 2))
    cuts.append((len(words), len(best)))
    return [Section(a[0], b[0], a[1], b[1]) for a, b in itertools.pairwise(cuts)]


def _matches(text: list[int], heard: list[int]) -> list[tuple[int, int, int]]:
    """Return the anchors: their place in the text, their place in what was heard, and their length, at most LONGEST."""
    blocks: list[tuple[int, int, int]] = []
    done, done_heard = 0, 0
    # Of texts that repeat themselves, runs that occur once are misleading, and edits are not.
    runs = [] if _ratio(text, heard) <= COMPARABLE else _unique_runs(text, heard)
    for place, place_heard, size in [*runs, (len(text), len(heard), 0)]:
        for a, b, length in _edit_matches(text[done:place], heard[done_heard:place_heard]):
            blocks.append((done + a, done_heard + b, length))
        blocks.append((place, place_heard, size))
        done, done_heard = place + size, place_heard + size
    return [
        (a + start, b + start, min(LONGEST, size - start))
        for a, b, size in blocks
        for start in range(0, size, LONGEST)
        if size - start >= ANCHOR
    ]


def _ratio(text: list[int], heard: list[int]) -> float:
    """Return how many times as long one side is as the other."""
    shorter, longer = sorted((len(text), len(heard)))
    return longer / max(shorter, 1)


def _edit_matches(text: list[int], heard: list[int]) -> list[tuple[int, int, int]]:
    """Return equal runs of the alignment with the fewest edits; none if one side is so much longer that they are chance."""
    if _ratio(text, heard) > LOPSIDED:
        return []
    blocks = Levenshtein.opcodes(text, heard).as_matching_blocks()
    return [(block.a, block.b, block.size) for block in blocks if block.size >= ANCHOR]


def _unique_runs(text: list[int], heard: list[int]) -> list[tuple[int, int, int]]:
    """Return runs of letters that occur once in the text and once in what was heard, as many as are in the same order.

    They hold where one side is much longer than the other, such as the text of a book beside one of its chapters.
    """
    places, places_heard = _unique_places(text), _unique_places(heard)
    pairs = [(place, places_heard[run]) for run, place in places.items() if run in places_heard]
    runs: list[list[int]] = []
    for place, place_heard in _longest_increasing(sorted(pairs)):
        if runs and place - runs[-1][0] == place_heard - runs[-1][1] <= runs[-1][2]:
            runs[-1][2] = place - runs[-1][0] + UNIQUE
        elif not runs or min(place - runs[-1][0], place_heard - runs[-1][1]) >= runs[-1][2]:
            runs.append([place, place_heard, UNIQUE])
    return [(place, place_heard, size) for place, place_heard, size in runs]


def _unique_places(symbols: list[int]) -> dict[str, int]:
    """Return the place of each run of UNIQUE symbols that occurs once."""
    written = "".join(map(chr, symbols))
    places: dict[str, int] = {}
    for place in range(len(written) - UNIQUE + 1):
        run = written[place : place + UNIQUE]
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
