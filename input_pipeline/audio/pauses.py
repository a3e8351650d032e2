"""Find the pauses of a recording by its level, which is measured while it is read."""

from dataclasses import dataclass

import numpy as np

from input_pipeline.audio.cutting import FLOOR, HIGH, LOW, QUIET, SILENT_DB, SURELY_QUIET_DB, runs

TICK_S = 0.01
AROUND_S = 10.0  # on both sides of a second; decides what is quiet in it


class LevelMeter:
    """Measures the level of a recording in ticks of 10 ms, from pieces of any length."""

    def __init__(self, sample_rate_hz: int):
        self._tick = max(1, round(TICK_S * sample_rate_hz))
        self._tick_s = self._tick / sample_rate_hz
        self._rest = np.zeros(0, np.float32)
        self._levels_db: list[np.ndarray] = []

    def feed(self, samples: np.ndarray) -> None:
        """Add samples [N]."""
        samples = np.concatenate([self._rest, samples])
        whole = len(samples) // self._tick * self._tick
        rows = samples[:whole].reshape(-1, self._tick)
        power = np.einsum("ns,ns->n", rows, rows) / self._tick
        self._levels_db.append((10 * np.log10(power + FLOOR)).astype(np.float32))
        self._rest = samples[whole:].copy()

    def pauses(self) -> "Pauses":
        """Return the pauses of what was measured."""
        levels_db = np.concatenate([np.zeros(0, np.float32), *self._levels_db])
        return Pauses(levels_db, _quiet(levels_db, self._tick_s), self._tick_s)


@dataclass(frozen=True)
class Pauses:
    """The level of a recording in dB, [N], and whether it is quiet there, [N] bool; tick_s: seconds of one."""

    levels_db: np.ndarray
    quiet: np.ndarray
    tick_s: float

    def between(self, start_s: float, end_s: float, shortest_s: float) -> list[tuple[float, float]]:
        """Return start and end, in seconds, of the quiet stretches of at least this length in a part of the recording."""
        first, last = self._ticks(start_s, end_s)
        found = runs(self.quiet[first:last])
        wide = [(begin, end) for begin, end in found if (end - begin) * self.tick_s >= shortest_s]
        return [((first + begin) * self.tick_s, (first + end) * self.tick_s) for begin, end in wide]

    def quietest_s(self, start_s: float, end_s: float) -> float:
        """Return the middle, in seconds, of the quietest tenth of a second in a part of the recording."""
        first, last = self._ticks(start_s, end_s)
        width = min(round(0.1 / self.tick_s), max(last - first, 1))
        levels_db = self.levels_db[first:last]
        if len(levels_db) < width:
            return (start_s + end_s) / 2
        means = np.convolve(levels_db, np.ones(width) / width, "valid")
        return (first + int(means.argmin()) + width / 2) * self.tick_s

    def _ticks(self, start_s: float, end_s: float) -> tuple[int, int]:
        return max(0, round(start_s / self.tick_s)), max(0, round(end_s / self.tick_s))


def _quiet(levels_db: np.ndarray, tick_s: float) -> np.ndarray:
    """Return whether each tick is quiet among those around it, second by second."""
    quiet = np.zeros(len(levels_db), np.bool_)
    second, around = round(1 / tick_s), round(AROUND_S / tick_s)
    for start in range(0, len(levels_db), second):
        near = levels_db[max(0, start - around) : start + second + around]
        audible = near[near > SILENT_DB]
        low, high = np.percentile(audible, (LOW, HIGH)) if len(audible) else (SILENT_DB, SILENT_DB)
        limit = max(low + QUIET * (high - low), high - SURELY_QUIET_DB, SILENT_DB)
        quiet[start : start + second] = levels_db[start : start + second] <= limit
    return quiet
