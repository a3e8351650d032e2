"""Cut a long recording at its pauses into parts as short as utterances, in constant memory.

Positions are steps: the samples of one output frame of the network, so that parts fit into one another without rest. A
pause is a stretch of steps whose power is low among those of the seconds around it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

SILENT_DB = -90.0  # one unit of 16-bit samples
FLOOR = 1e-12
LOW, HIGH = 5, 95  # percentiles of a neighbourhood's power that stand for its silence and its speech
QUIET = 0.3  # a step is quiet below this share of the way from silence to speech, in dB
SURELY_QUIET_DB = 40.0  # below speech
PART_S, LONGEST_PART_S = 0.3, 13.0  # a part ends at the first pause after the one, and at the other, pause or not
BELOW_SPEECH_DB = 25.0  # a part softer than the speech around it by more than this is not amplified to its level


@dataclass(frozen=True)
class CutSettings:
    """Where parts end, in seconds.

    shortest_s: a part ends at the first pause after this length, else at the longest one before. pause_s: the shortest pause.
    longest_s: a part ends here, pause or not. edge_s: silence that a part sees at both ends, at most. lead_s: of a pause, what
    belongs to the part after it; the rest belongs to the part before it, as symbols come late. context_s: audio of the
    neighbour that a part sees where there is no pause between them. around_s: audio before and after that decides what is
    quiet.
    """

    shortest_s: float = PART_S
    pause_s: float = 0.35
    longest_s: float = LONGEST_PART_S
    edge_s: float = 0.3
    lead_s: float = 0.1
    context_s: float = 1.0
    around_s: float = 10.0


@dataclass(frozen=True)
class Part:
    """Audio between two pauses.

    samples [N] f32: with the context. first: step of the recording at which its own steps begin. steps: their number.
    context: steps before them. joined: whether the part before ends where this one begins, without a pause. speech_db: level
    of the speech around it.
    """

    samples: np.ndarray
    first: int
    steps: int
    context: int
    joined: bool
    speech_db: float


class Cutter:
    """Cuts audio that arrives in pieces; step: samples of a step."""

    def __init__(self, step: int, sample_rate_hz: int, settings: CutSettings):
        self._step, self._rate_hz, self._settings = step, sample_rate_hz, settings
        self._samples = np.zeros(0, np.float32)
        self._power_db = np.zeros(0)
        self._base = 0  # step at which both begin
        self._start = 0  # step at which the next part begins
        self._joined = False
        self._quiet = 0  # quiet steps just before it
        self._padding = 0  # samples that complete the last step

    @property
    def steps(self) -> int:
        """Steps received so far."""
        return self._base + len(self._power_db)

    def feed(self, samples: np.ndarray, *, last: bool = False) -> Iterator[Part]:
        """Add samples [N] f32; yield the parts that are complete, all of them if the samples are the last ones."""
        if last:
            self._padding = -(len(self._samples) + len(samples)) % self._step
            samples = np.concatenate([samples, np.zeros(self._padding, np.float32)])
        self._samples = np.concatenate([self._samples, samples])
        known = len(self._power_db)
        rows = self._samples[known * self._step : len(self._samples) // self._step * self._step].reshape(-1, self._step)
        power = np.einsum("ns,ns->n", rows, rows) / self._step
        self._power_db = np.concatenate([self._power_db, 10 * np.log10(power + FLOOR)])
        needed = self._count(self._settings.longest_s + self._settings.around_s)
        while self._start < self.steps and (last or self.steps - self._start >= needed):
            yield from self._next_part()
            self._forget()

    def _count(self, seconds: float) -> int:
        return round(seconds * self._rate_hz / self._step)

    def _next_part(self) -> Iterator[Part]:
        """Yield the part that begins at the current step, if there is sound; move on to its end."""
        s = self._settings
        power_db = self._power_db[self._start - self._base :][: self._count(s.longest_s + s.around_s)]
        back = min(self._start - self._base, self._count(s.around_s))
        around = self._power_db[self._start - self._base - back :][: back + len(power_db)]
        audible = around[around > SILENT_DB]
        low, high = np.percentile(audible, (LOW, HIGH)) if len(audible) else (SILENT_DB, SILENT_DB)
        quiet = power_db <= max(low + QUIET * (high - low), high - SURELY_QUIET_DB, SILENT_DB)
        edge = self._count(s.edge_s)
        if quiet.all():
            self._quiet += len(quiet)
            self._move(len(quiet), joined=False)
            return
        lead = int(np.argmin(quiet))
        begin = 0 if self._joined else max(0, lead - edge)
        end, pause = self._find_end(power_db, quiet, begin)
        sound_end = end - int(np.argmin(quiet[:end][::-1]))
        stop = min(end, sound_end + edge) if pause else end
        before = self._count(s.context_s) if self._joined else min(max(0, edge - lead), self._quiet)
        yield self._cut(begin, stop, before, 0 if pause else self._count(s.context_s), float(high))
        self._quiet = end - sound_end
        self._move(end, joined=not pause)

    def _find_end(self, power_db: np.ndarray, quiet: np.ndarray, begin: int) -> tuple[int, bool]:
        """Return the step at which a part that begins at `begin` ends, and whether there is a pause."""
        s = self._settings
        longest = begin + self._count(s.longest_s)
        least = begin + self._count(min(s.shortest_s, PART_S))
        wide = [(first, end) for first, end in runs(quiet) if end - first >= self._count(s.pause_s)]
        pauses = [(first, end) for first, end in wide if least < first < longest]
        late = [(first, end) for first, end in pauses if first > begin + self._count(s.shortest_s)]
        if not late and len(power_db) <= longest:
            return len(power_db), True
        if pauses:
            first, end = late[0] if late else max(pauses, key=lambda pause: pause[1] - pause[0])
            return max((first + end) // 2, end - self._count(s.lead_s)), True
        half = begin + self._count(s.longest_s) // 2
        return half + int(np.argmin(power_db[half:longest])), False

    def _cut(self, begin: int, end: int, before: int, after: int, speech_db: float) -> Part:
        """Return the part from `begin` to `end`, counted from the current step, with steps before and after it."""
        offset = self._start - self._base
        before = min(before, offset + begin)
        first, last = (offset + begin - before) * self._step, (offset + end + after) * self._step
        last = min(last, len(self._samples) - self._padding)
        return Part(self._samples[first:last].copy(), self._start + begin, end - begin, before, self._joined, speech_db)

    def _move(self, steps: int, *, joined: bool) -> None:
        self._start += steps
        self._joined = joined

    def _forget(self) -> None:
        """Drop what no later part needs."""
        kept = self._count(self._settings.around_s + self._settings.context_s)
        surplus = max(0, self._start - self._base - kept)
        self._samples, self._power_db = self._samples[surplus * self._step :], self._power_db[surplus:]
        self._base += surplus


def runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """Return first and end of each run of true values."""
    edges = np.diff(np.concatenate([[0], mask.astype(np.int8), [0]]))
    return list(zip(np.flatnonzero(edges == 1).tolist(), np.flatnonzero(edges == -1).tolist(), strict=True))
