"""Choose utterances of a recording that was aligned with its text: whole phrases between pauses in which all words fit."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

DROPPED = 10.0  # cost of a second that is left out
CUT = 0.7  # cost of an utterance: a pause of so many seconds had better be cut at
LONGEST_PAUSE_S = 3.0  # inside an utterance
ROUNDING = 1e-6


@dataclass(frozen=True)
class UtteranceSettings:
    """Limits of utterances: `config.align`. Raises ValueError naming field, value and what is allowed.

    shortest_s, longest_s: of an utterance. pause_s: the shortest pause at which one may end. edge_s: audio of a pause that
    belongs to it. word_limit: ln, by which a word may be less probable than what was recognised in its place,
    and silence beside it than speech.
    """

    shortest_s: float = 2.0
    longest_s: float = 15.0
    pause_s: float = 0.2
    edge_s: float = 0.3
    word_limit: float = 5.0

    def __post_init__(self):
        """Refuse limits without meaning."""
        if not 0 <= self.shortest_s < self.longest_s:
            raise ValueError(
                f"config.align.shortest_s is {self.shortest_s!r}: use 0 or more, less than longest_s, {self.longest_s:g}"
            )
        for name in ("pause_s", "edge_s", "word_limit"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"config.align.{name} is {getattr(self, name)!r}: use 0 or more")


class Pause(NamedTuple):
    """A pause between two pieces, in seconds; start_s == end_s at an end of the recording without one."""

    start_s: float
    end_s: float


class Piece(NamedTuple):
    """A word, or speech that is not in the text, in the recording.

    word: its index, -1 for other speech. fits: whether it may belong to an utterance. after: the pause behind it, None if
    there is none. parted: whether text was left out between this piece and the next one.
    """

    word: int
    start_s: float
    end_s: float
    fits: bool
    after: Pause | None
    parted: bool


class Utterance(NamedTuple):
    """The words first <= i <= last of the pieces, and where they are."""

    first: int
    last: int
    start_s: float
    end_s: float


class Phrase(NamedTuple):
    """Pieces first <= i <= last between two pauses."""

    first: int
    last: int
    before: Pause
    after: Pause
    fits: bool
    parted: bool


def choose(pieces: Sequence[Piece], begin: Pause, settings: UtteranceSettings) -> list[Utterance]:
    """Return the utterances of a recording in order. begin: the pause before the first piece."""
    found: list[Utterance] = []
    run: list[Phrase] = []
    for phrase in [*_phrases(pieces, begin), None]:
        if phrase is not None and phrase.fits:
            run.append(phrase)
        if phrase is None or not phrase.fits or phrase.parted or _length(phrase.after) > LONGEST_PAUSE_S:
            found += _divide(run, settings)
            run = []
    return found


def _phrases(pieces: Sequence[Piece], begin: Pause) -> list[Phrase]:
    phrases = []
    first, before = 0, begin
    for i, piece in enumerate(pieces):
        if piece.after is None:
            continue
        inside = pieces[first : i + 1]
        fits = all(one.fits for one in inside) and not any(one.parted for one in inside[:-1])
        phrases.append(Phrase(first, i, before, piece.after, fits, piece.parted))
        first, before = i + 1, piece.after
    return phrases


def _divide(run: Sequence[Phrase], settings: UtteranceSettings) -> list[Utterance]:
    """Divide phrases that fit into utterances: as little as possible is left out, and cuts are at long pauses."""
    costs, choice = (
        [0.0],
        [0],
    )  # of the first n phrases; where the last utterance begins, n if the last phrase is left out
    for end in range(1, len(run) + 1):
        last = run[end - 1]
        best = (costs[end - 1] + DROPPED * (last.after.start_s - last.before.end_s), end)
        inner = 0.0
        for begin in range(end - 1, -1, -1):
            if begin < end - 1:
                inner += _length(run[begin].after)
            start_s, end_s = _span(run[begin], last, settings)
            if last.after.start_s - run[begin].before.end_s > settings.longest_s:
                break
            if settings.shortest_s <= end_s - start_s + ROUNDING and end_s - start_s <= settings.longest_s:
                best = min(best, (costs[begin] + CUT + inner, begin))
        costs.append(best[0])
        choice.append(best[1])
    utterances = []
    end = len(run)
    while end:
        begin = choice[end]
        if begin == end:
            end -= 1
            continue
        utterances.append(Utterance(run[begin].first, run[end - 1].last, *_span(run[begin], run[end - 1], settings)))
        end = begin
    return utterances[::-1]


def _span(first: Phrase, last: Phrase, settings: UtteranceSettings) -> tuple[float, float]:
    """Return start and end of an utterance: with the edges, or with more of the pauses if it is too short."""
    room = [_length(first.before) / 2, _length(last.after) / 2]
    edges = [min(settings.edge_s, half) for half in room]
    bare_s = last.after.start_s - first.before.end_s
    for side in (0, 1):
        missing = settings.shortest_s - bare_s - sum(edges)
        edges[side] += min(max(missing, 0.0), room[side] - edges[side])
    return first.before.end_s - edges[0], last.after.start_s + edges[1]


def _length(pause: Pause) -> float:
    return pause.end_s - pause.start_s
