"""Split the words of a long transcript into segments or subtitle cues, and format cues as SubRip (SRT) or WebVTT."""

import dataclasses
import html
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from decoding.hypothesis import Word
from input_pipeline.text import may_divide, width

# Conjunctions, prepositions and relative pronouns: an English line or cue had better end before one of them.
_ENGLISH = (
    "about above across after against although among and around as at because before behind below beneath beside between "
    "beyond but by despite down during except for from if in inside into like near nor of off on onto or out over past "
    "since so than that though through till to toward towards under unless until up upon when where whereas whether which "
    "while who whom whose with within without yet"
)
BREAK_BEFORE = {"en": frozenset(_ENGLISH.split())}
CLEAR_PAUSE_S = 0.3  # a pause that decides where a cue ends, before any word does
WORD_BONUS = 10  # columns by which lines may differ more if the second one begins with such a word


@dataclass(frozen=True)
class CueSettings:
    """How words are grouped. Raises ValueError for limits without meaning.

    pause_s: a pause of at least this length between two words separates cues. shortest_s: a cue is shown at least so long, if
    the next one leaves the time. longest_s, line_width, lines: limits of a cue; a single word may exceed them. Width is
    counted in columns, of which a Chinese character takes two. characters_per_s: a cue is shown long enough to be read at
    this speed, if the next one leaves the time. joiner: what separates words in the text; '' for languages without spaces.
    language: decides before which words cues and lines had better end (en).
    """

    pause_s: float = 1.0
    shortest_s: float = 1.0
    longest_s: float = 7.0
    line_width: int = 42
    lines: int = 2
    characters_per_s: float = 20.0
    joiner: str = " "
    language: str = ""

    def __post_init__(self):
        """Refuse limits without meaning."""
        for name in ("pause_s", "longest_s", "line_width", "lines", "characters_per_s"):
            _check(getattr(self, name) > 0, name, getattr(self, name), "use a number above 0")
        _check(
            0 <= self.shortest_s <= self.longest_s,
            "shortest_s",
            self.shortest_s,
            f"use 0 to longest_s, {self.longest_s:g}",
        )


def _check(valid: bool, name: str, value: object, advice: str) -> None:
    if not valid:
        raise ValueError(f"config.infer.subtitles.{name} is {value!r}: {advice}")


SUBTITLES = CueSettings()
SEGMENTS = CueSettings(longest_s=30.0, line_width=400, lines=1)


@dataclass(frozen=True)
class Cue:
    """Consecutive words, and the time in which they are shown."""

    text: str
    words: list[Word]
    start_s: float
    end_s: float


def split(words: Iterable[Word], settings: CueSettings = SUBTITLES) -> list[Cue]:
    """Group words into cues: at every long pause, and at the best place of what would exceed a limit.

    The best place is a clear pause, then before a conjunction or preposition, then the longest pause. Cues contain all
    words in order, and do not overlap if the words do not. The time is linear in the number of words.
    """
    cues: list[Cue] = []
    block: list[Word] = []
    for word in words:
        apart = settings.joiner or not block or may_divide(block[-1].text, word.text)
        if block and apart and _pause(block[-1], word) >= settings.pause_s:
            cues.append(_cue(block, settings))
            block = []
        while block and not _fits([*block, word], settings):
            cut = _best_cut([*block, word], settings)
            cues.append(_cue(block[:cut], settings))
            block = block[cut:]
        block.append(word)
    if block:
        cues.append(_cue(block, settings))
    return cues


def lengthen(cues: Sequence[Cue], settings: CueSettings = SUBTITLES) -> list[Cue]:
    """Return cues that are shown for as long as the settings ask for, or until the next one starts."""
    shown = []
    for cue, following in itertools.zip_longest(cues, cues[1:]):
        limit = following.start_s if following else math.inf
        needed_s = max(
            settings.shortest_s, min(len(_undivided(cue.text)) / settings.characters_per_s, settings.longest_s)
        )
        shown.append(dataclasses.replace(cue, end_s=max(cue.end_s, min(cue.start_s + needed_s, limit))))
    return shown


def format_srt(cues: Sequence[Cue], settings: CueSettings = SUBTITLES) -> str:
    """Return cues as a SubRip file; '' without cues."""
    blocks = [
        f"{number}\n{_times(cue, ',')}\n{_lines(cue, settings)}\n"
        for number, cue in enumerate(lengthen(cues, settings), start=1)
    ]
    return "\n".join(blocks)


def format_vtt(cues: Sequence[Cue], settings: CueSettings = SUBTITLES) -> str:
    """Return cues as a WebVTT file."""

    def escape(text: str) -> str:
        return html.escape(text, quote=False)

    blocks = (f"{_times(cue, '.')}\n{_lines(cue, settings, escape)}\n" for cue in lengthen(cues, settings))
    return "\n".join(["WEBVTT\n", *blocks])


def _pause(word: Word, following: Word) -> float:
    return round(following.start_s - word.end_s, 3)  # equal pauses differ by rounding errors


def _fits(words: Sequence[Word], settings: CueSettings) -> bool:
    if words[-1].end_s - words[0].start_s > settings.longest_s:
        return False
    columns = sum(width(word.text) for word in words) + len(settings.joiner) * (len(words) - 1)
    if columns <= settings.line_width or columns > settings.line_width * settings.lines:
        return columns <= settings.line_width
    return len(_wrap([word.text for word in words], settings.line_width, settings.joiner)) <= settings.lines


def _best_cut(words: Sequence[Word], settings: CueSettings) -> int:
    """Return the number of words before the best place in the second half; the last one of equal places."""
    second_half = [cut for cut in range(1, len(words)) if 2 * cut >= len(words)]
    whole = [cut for cut in second_half if settings.joiner or may_divide(words[cut - 1].text, words[cut].text)]
    cuts = whole or second_half
    pauses = {cut: _pause(words[cut - 1], words[cut]) for cut in cuts}
    longest = max(cuts, key=lambda cut: (pauses[cut], cut))
    before = BREAK_BEFORE.get(settings.language, frozenset())
    preferred = [cut for cut in cuts if words[cut].text.lower() in before]
    return longest if pauses[longest] >= CLEAR_PAUSE_S or not preferred else preferred[-1]


def _cue(words: Sequence[Word], settings: CueSettings) -> Cue:
    return Cue(settings.joiner.join(word.text for word in words), list(words), words[0].start_s, words[-1].end_s)


def _times(cue: Cue, point: str) -> str:
    return f"{_clock(cue.start_s, point)} --> {_clock(cue.end_s, point)}"


def _clock(seconds: float, point: str) -> str:
    """Format a time as hours:minutes:seconds and milliseconds."""
    rest, milliseconds = divmod(round(seconds * 1000), 1000)
    return f"{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}{point}{milliseconds:03}"


def _lines(cue: Cue, settings: CueSettings, escape: Callable[[str], str] = str) -> str:
    """Break a cue into as few lines as possible, of similar width, the second one beginning with a preferred word."""
    texts, joiner = [word.text for word in cue.words], settings.joiner
    lines = _wrap(texts, settings.line_width, joiner)
    if len(lines) == 2 and len(texts) > 1:
        before = BREAK_BEFORE.get(settings.language, frozenset())
        halves = [(joiner.join(texts[:cut]), joiner.join(texts[cut:]), cut) for cut in range(1, len(texts))]
        fitting = [
            (abs(width(first) - width(second)) - WORD_BONUS * (texts[cut].lower() in before), [first, second])
            for first, second, cut in halves
            if max(width(first), width(second)) <= settings.line_width and (joiner or may_divide(first, second))
        ]
        lines = min(fitting)[1] if fitting else lines
    return "\n".join(map(escape, lines))


def _wrap(texts: Sequence[str], columns: int, joiner: str) -> list[str]:
    """Return lines of at most so many columns, each as full as possible; a word that is too long is broken."""
    lines = [""]
    for text in texts if joiner else _undivided(texts):
        addition = joiner + text if lines[-1] else text
        if width(lines[-1]) + width(addition) <= columns:
            lines[-1] += addition
            continue
        if lines[-1]:
            lines.append("")
        for part in _undivided(text):
            if width(lines[-1]) + width(part) > columns and lines[-1]:
                lines.append("")
            lines[-1] += part
    return lines


def _undivided(parts: Iterable[str]) -> list[str]:
    """Join the parts, or the characters, of a text that must not be divided: letters and their marks."""
    joined: list[str] = []
    for part in parts:
        if joined and not may_divide(joined[-1], part):
            joined[-1] += part
        else:
            joined.append(part)
    return joined
