"""Align a whole recording with its text: sections between anchors, and the best path in each."""

from collections.abc import Sequence

import numpy as np

from decoding.alignment.anchors import Section, sections_between
from decoding.alignment.forced import PlacedWord, Placement, Prices, place

LARGEST = 10**10  # frames times symbols of a section, minutes of work: with more, they have nothing in common


def place_recording(
    log_probs: np.ndarray, best: np.ndarray, words: Sequence[np.ndarray], space: int, prices: Prices
) -> Placement:
    """Find the words of a text that were spoken, and the frames of other speech.

    log_probs: [T, K] natural logarithms, in memory or in a file. best: the most probable symbol of each frame, [T]. words:
    the symbols [n] of each, n > 0. space: the symbol between words, BLANK if there is none.
    """
    placed: list[PlacedWord] = []
    other: list[np.ndarray] = []
    for section in sections_between(words, best, space):
        found = _place(log_probs, words, section, space, prices)
        placed += [_move(word, section) for word in found.words]
        other.append(found.other + section.first)
    return Placement(placed, np.concatenate(other))


def _place(
    log_probs: np.ndarray, words: Sequence[np.ndarray], section: Section, space: int, prices: Prices
) -> Placement:
    part = words[section.first_word : section.end_word]
    frames = section.end - section.first
    if frames * sum(map(len, part)) > LARGEST:
        part = []
    return place(log_probs[section.first : section.end], part, space, prices)


def _move(word: PlacedWord, section: Section) -> PlacedWord:
    """Return a word of a section with its place in the whole text and recording."""
    symbols = [s._replace(first=s.first + section.first, end=s.end + section.first) for s in word.symbols]
    return PlacedWord(word.word + section.first_word, symbols, word.margin)
