"""Split the words of a long transcript into segments or subtitle cues, and format cues as SubRip (SRT) or WebVTT."""

import dataclasses
import html
import itertools
import math
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from decoding.hypothesis import Word


@dataclass(frozen=True)
class CueSettings:
    """How words are grouped. Raises ValueError for limits without meaning.

    pause_s: a pause of at least this length between two words separates cues. longest_s, most_characters: limits of a cue;
    a single word may exceed them. joiner: what separates words in the text; '' for languages without spaces.
    """

    pause_s: float = 1.0
    longest_s: float = 6.0
    most_characters: int = 84
    joiner: str = " "

    def __post_init__(self):
        """Refuse limits without meaning."""
        for name in ("pause_s", "longest_s", "most_characters"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)!r}: use a number above 0")


SUBTITLES = CueSettings()  # two lines of 42 characters
SEGMENTS = CueSettings(pause_s=1.0, longest_s=30.0, most_characters=400)
LINE = 42  # characters in a line of a subtitle
SHORTEST_S = 1.0  # a cue is shown for so long, if the next one leaves the time


@dataclass(frozen=True)
class Cue:
    """Consecutive words, and the time in which they are shown."""

    text: str
    words: list[Word]
    start_s: float
    end_s: float


def split(words: Iterable[Word], settings: CueSettings = SUBTITLES) -> list[Cue]:
    """Group words into cues: at every long pause, and at the longest pause of what would exceed a limit.

    Cues contain all words in order, and do not overlap if the words do not. The time is linear in the number of words.
    """
    cues: list[Cue] = []
    block: list[Word] = []
    for word in words:
        if block and _pause(block[-1], word) >= settings.pause_s:
            cues.append(_cue(block, settings))
            block = []
        while block and not _fits([*block, word], settings):
            cut = _best_cut([*block, word])
            cues.append(_cue(block[:cut], settings))
            block = block[cut:]
        block.append(word)
    if block:
        cues.append(_cue(block, settings))
    return cues


def lengthen(cues: Sequence[Cue], shortest_s: float = SHORTEST_S) -> list[Cue]:
    """Return cues that are shown for at least this time, or until the next one starts."""
    shown = []
    for cue, following in itertools.zip_longest(cues, cues[1:]):
        limit = following.start_s if following else math.inf
        shown.append(dataclasses.replace(cue, end_s=max(cue.end_s, min(cue.start_s + shortest_s, limit))))
    return shown


def format_srt(cues: Sequence[Cue]) -> str:
    """Return cues as a SubRip file; '' without cues."""
    blocks = [
        f"{number}\n{_times(cue, ',')}\n{_lines(cue.text)}\n" for number, cue in enumerate(lengthen(cues), start=1)
    ]
    return "\n".join(blocks)


def format_vtt(cues: Sequence[Cue]) -> str:
    """Return cues as a WebVTT file."""

    def escape(text: str) -> str:
        return html.escape(text, quote=False)

    return "\n".join(["WEBVTT\n", *(f"{_times(cue, '.')}\n{_lines(cue.text, escape)}\n" for cue in lengthen(cues))])


def _pause(word: Word, following: Word) -> float:
    return round(following.start_s - word.end_s, 3)  # equal pauses differ by rounding errors


def _fits(words: Sequence[Word], settings: CueSettings) -> bool:
    characters = sum(len(word.text) for word in words) + len(settings.joiner) * (len(words) - 1)
    return characters <= settings.most_characters and words[-1].end_s - words[0].start_s <= settings.longest_s


def _best_cut(words: Sequence[Word]) -> int:
    """Return the number of words before the longest pause in the second half; the last one of equal pauses."""
    pauses = {cut: _pause(words[cut - 1], words[cut]) for cut in range(1, len(words))}
    return max((cut for cut in pauses if 2 * cut >= len(words)), key=lambda cut: (pauses[cut], cut))


def _cue(words: Sequence[Word], settings: CueSettings) -> Cue:
    return Cue(settings.joiner.join(word.text for word in words), list(words), words[0].start_s, words[-1].end_s)


def _times(cue: Cue, point: str) -> str:
    return f"{_clock(cue.start_s, point)} --> {_clock(cue.end_s, point)}"


def _clock(seconds: float, point: str) -> str:
    """Format a time as hours:minutes:seconds and milliseconds."""
    rest, milliseconds = divmod(round(seconds * 1000), 1000)
    return f"{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}{point}{milliseconds:03}"


def _lines(text: str, escape: Callable[[str], str] = str) -> str:
    """Break a text into lines of equal length as far as possible."""
    count = -(-len(text) // LINE)
    for width in range(max(1, len(text) // max(1, count)), LINE + 1):
        lines = _wrap(text, width)
        if len(lines) <= count:
            break
    return "\n".join(map(escape, lines))


def _wrap(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_long_words=" " not in text, break_on_hyphens=False)
