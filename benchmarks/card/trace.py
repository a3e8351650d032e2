"""Summarise a profiler trace: the device's kernels by the time that they take."""

import collections
from pathlib import Path

import jax

TOP = 40


def summary(folder: Path, steps: int) -> str:
    """Return the kernels of a trace in `folder` by time for each of `steps` steps, and the device's idle time.

    Raises FileNotFoundError without a trace.
    """
    files = sorted(folder.rglob("*.xplane.pb"))
    if not files:
        raise FileNotFoundError(f"{folder} contains no trace (*.xplane.pb)")
    data = jax.profiler.ProfileData.from_file(str(files[-1]))
    planes = [plane for plane in data.planes if plane.name.startswith("/device:GPU")]
    totals: dict[str, list[float]] = collections.defaultdict(lambda: [0, 0.0])
    spans = []
    for line in (line for plane in planes for line in plane.lines if line.name.startswith("Stream")):
        for event in line.events:
            totals[event.name][0] += 1
            totals[event.name][1] += event.duration_ns
            spans.append((event.start_ns, event.start_ns + event.duration_ns))
    lines = [f"planes: {', '.join(plane.name for plane in data.planes)}"]
    if not spans:
        return "\n".join([*lines, "no kernel of a GPU in the trace"])
    whole, busy = max(end for _, end in spans) - min(start for start, _ in spans), covered(spans)
    lines += [
        f"{steps} steps in {whole / 1e6:.2f} ms, a kernel running in {busy / whole:.1%} of it; "
        f"{sum(int(n) for n, _ in totals.values()) / steps:.0f} kernels a step",
        f"{'ms a step':>10} {'share':>6} {'runs':>7} {'us each':>8}  kernel",
    ]
    ordered = sorted(totals.items(), key=lambda item: -item[1][1])
    for name, (count, ns) in ordered[:TOP]:
        lines.append(
            f"{ns / steps / 1e6:10.3f} {ns / whole:6.1%} {count / steps:7.0f} {ns / count / 1e3:8.2f}  {name[:90]}"
        )
    rest = sum(ns for _, (_, ns) in ordered[TOP:])
    lines.append(f"{rest / steps / 1e6:10.3f} {rest / whole:6.1%}  in {len(ordered[TOP:])} other kernels")
    return "\n".join(lines)


def covered(spans: list[tuple[float, float]]) -> float:
    """Return the length of the union of intervals."""
    total, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total
