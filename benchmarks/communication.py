"""Expected speed-up of weak scaling, on paper: a compiled program's operations and messages, and stated link speeds.

    python -m benchmarks.communication docs/scaling.json --config=configs/librispeech.py:16 --frames=704

A step on N devices takes what it takes on one, and the all-reduces that nothing hides: 2 (N - 1) / N times their bytes
over each device's link (rings; where machines of 8 are joined by a slower network, first within a machine, then an
eighth between machines, then within again), and a start of each collective. Prints a table of markdown.
"""

import argparse
import dataclasses
import json
from pathlib import Path

DEVICES = (2, 4, 8, 16)
ORIGINAL = {2: 1.97, 4: 3.74, 8: 6.21, 16: 10.70}


@dataclasses.dataclass(frozen=True)
class Machine:
    """Devices and their links. Bytes a second and device, in one direction; share: of the peak that a step reaches."""

    name: str
    peak: float  # dense bfloat16 operations a second
    share: float  # 0: the compiler's own estimate of the time
    inside: float  # between devices of a machine, or all of them where there is no network
    between: float  # of a device's share in the network between machines; 0: none is needed
    start_s: float  # of a collective over 16 devices
    size: int = 8  # devices of a machine


MACHINES = (
    Machine("TPU v5e, ICI 4 x 400 Gbit/s (half of it each way)", 197e12, 0.0, 100e9, 0.0, 20e-6),
    Machine("A100, NVLink 600 GB/s, InfiniBand 200 Gbit/s each", 312e12, 0.2, 300e9, 25e9, 60e-6),
    Machine("A100 at 40 % of its peak", 312e12, 0.4, 300e9, 25e9, 60e-6),
    Machine("H100, NVLink 900 GB/s, InfiniBand 400 Gbit/s each", 989e12, 0.2, 450e9, 50e9, 60e-6),
    Machine("A100, one Ethernet of 100 Gbit/s for 8", 312e12, 0.2, 300e9, 12.5e9 / 8, 100e-6),
)


def ring_s(size: float, devices: int, speed: float) -> float:
    """Return seconds that an all-reduce of `size` bytes over a ring takes."""
    return 2 * (devices - 1) / devices * size / speed


def exchange_s(size: float, runs: int, devices: int, machine: Machine) -> float:
    """Return seconds of all collectives of a step, one after the other."""
    inside = min(devices, machine.size) if machine.between else devices
    seconds = ring_s(size, inside, machine.inside) + runs * machine.start_s
    if devices > inside:
        seconds += ring_s(size / inside, devices // inside, machine.between)
    return seconds


def step_s(result: dict, machine: Machine) -> float:
    """Return seconds of a step's computation on one device."""
    return result["flop"] / (machine.peak * machine.share) if machine.share else result["estimated_s"]


def all_reduces(result: dict) -> dict:
    """Return what a program sends in all-reduces: bytes, those overlapped, and runs; one chip's sends nothing."""
    return result["collectives"].get("all-reduce", {"bytes": 0, "overlapped_bytes": 0, "runs": 0})


def speed_up(result: dict, devices: int, machine: Machine) -> float:
    """Return the expected speed-up of `devices` in weak scaling, with what the program overlaps hidden."""
    reduce = all_reduces(result)
    exposed = reduce["bytes"] - reduce["overlapped_bytes"]
    alone = step_s(result, machine)
    return devices * alone / (alone + exchange_s(exposed, reduce["runs"], devices, machine))


def table(result: dict) -> str:
    """Lay out the expected speed-ups of a program."""
    head = ["machine", "a step alone, ms", "exchange on 16, ms", *map(str, DEVICES)]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    reduce = all_reduces(result)
    for machine in MACHINES:
        exchange = exchange_s(reduce["bytes"] - reduce["overlapped_bytes"], reduce["runs"], 16, machine)
        numbers = [f"{1e3 * step_s(result, machine):.1f}", f"{1e3 * exchange:.2f}"]
        lines.append(
            f"| {' | '.join([machine.name, *numbers, *(f'{speed_up(result, n, machine):.2f}' for n in DEVICES)])} |"
        )
    measured = [f"{ORIGINAL[n]:.2f}" for n in DEVICES]
    lines.append(f"| {' | '.join(['the original, measured: Tesla K40m', '', '', *measured])} |")
    return "\n".join(lines)


def main() -> None:
    """Parse, find the program, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", help="JSON of benchmarks.compile_for")
    parser.add_argument("--config", default="configs/librispeech.py:16")
    parser.add_argument("--frames", type=int, required=True)
    a = parser.parse_args()
    try:
        found = json.loads(Path(a.figures).read_text())
    except (OSError, json.JSONDecodeError) as error:
        parser.error(f"{a.figures} cannot be read ({error}): make it with benchmarks.compile_for --json={a.figures}")
    fitting = [r for r in found if (r["config"], r["step"], r["shape"][1]) == (a.config, "train", a.frames)]
    if not fitting:
        parser.error(f"{a.figures} has no training step of {a.config} with {a.frames} frames")
    result = fitting[0]
    if not result["collectives"]:
        parser.error(
            f"{a.config} is compiled for one chip, which sends nothing: take a program of several, such as FILE:16"
        )
    reduce = all_reduces(result)
    print(
        f"{result['rows_of_a_chip']:g} utterances of {a.frames} frames on a device: {result['flop'] / 1e12:.2f} TFLOP; "
        f"{reduce['runs']} all-reduces of {reduce['bytes'] / 1e6:.1f} MB, {reduce['overlapped_bytes'] / 1e6:.1f} MB of them "
        f"overlapped\n\n{table(result)}"
    )


if __name__ == "__main__":
    main()
