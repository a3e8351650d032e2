"""Figures of a server, in the text format of Prometheus."""

import collections
from dataclasses import dataclass, field

import numpy as np

QUANTILES = (0.5, 0.95, 0.98)
KEPT = 10_000  # delays, for quantiles


@dataclass
class Delays:
    """Delays [s] since the start: their number and sum, and the latest ones, for quantiles."""

    count: int = 0
    total: float = 0.0
    latest: collections.deque[float] = field(default_factory=lambda: collections.deque(maxlen=KEPT))

    def observe(self, delay_s: float | None) -> None:
        """Add a delay; None if it is unknown."""
        if delay_s is not None:
            self.count += 1
            self.total += delay_s
            self.latest.append(delay_s)

    def format(self, name: str, meaning: str) -> list[str]:
        """Return lines of a summary."""
        values = np.array(self.latest)
        quantiles = [f'{name}{{quantile="{q}"}} {np.quantile(values, q):.6f}' for q in QUANTILES] if len(values) else []
        return [
            f"# HELP {name} {meaning}",
            f"# TYPE {name} summary",
            *quantiles,
            f"{name}_sum {self.total:.6f}",
            f"{name}_count {self.count}",
        ]


@dataclass
class Metrics:
    """Counters of a server since its start.

    queue: chunks of the last step. partial: delays of partial results, from the arrival of the last sample that each
    needed. final: of final results, from the commit, else as of partial ones.
    """

    sessions: int = 0
    refused: int = 0
    files: int = 0
    audio_s: float = 0.0
    queue: int = 0
    partial: Delays = field(default_factory=Delays)
    final: Delays = field(default_factory=Delays)

    def format(self, active: int) -> str:
        """Return all figures, with the number of open sessions."""
        lines = []
        for name, kind, meaning, value in (
            ("ds2_sessions", "gauge", "Open sessions.", active),
            ("ds2_sessions_total", "counter", "Sessions since the start.", self.sessions),
            ("ds2_refused_total", "counter", "Sessions refused because all were in use.", self.refused),
            ("ds2_files_total", "counter", "Files transcribed.", self.files),
            ("ds2_audio_seconds_total", "counter", "Audio received, in seconds.", self.audio_s),
            ("ds2_queue", "gauge", "Chunks computed in the last step.", self.queue),
        ):
            lines += [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}", f"{name} {value:.10g}"]
        lines += self.partial.format("ds2_partial_delay_seconds", "Delay of partial results.")
        lines += self.final.format("ds2_final_delay_seconds", "Delay of final results.")
        return "\n".join(lines) + "\n"
