"""Estimate the speed-up of weak scaling from a compiled program's operations and messages, and from stated link speeds.

    python -m benchmarks.communication docs/scaling.json --config=configs/librispeech.py:16 --frames=704

A step on N devices takes the time of a step on one device, plus the time of the all-reduces that no computation hides:
2 (N - 1) / N times their bytes over each device's link (ring algorithm), plus the latency of each collective. Machines of
8 devices that are connected by a slower network reduce within each machine, exchange an eighth of the data per device
between machines, and gather within each machine. Prints a Markdown table.
"""

import argparse
import dataclasses
import json
from pathlib import Path

from input_pipeline.storage import console

DEVICES = (2, 4, 8, 16)
ORIGINAL = {2: 1.97, 4: 3.74, 8: 6.21, 16: 10.70}


@dataclasses.dataclass(frozen=True)
class Machine:
    """A type of machine and its links. Link speeds are in bytes per second per device, in one direction."""

    name: str
    peak: float  # dense bfloat16 operations per second
    share: float  # fraction of the peak that a step reaches; 0: use the compiler's time estimate
    inside: float  # between the devices of a machine, or between all devices without a network
    between: float  # a device's share of the network between machines; 0: no network
    start_s: float  # latency of a collective over 16 devices
    size: int = 8  # devices per machine


MACHINES = (
    Machine("TPU v5e, ICI 4 x 400 Gbit/s (half in each direction)", 197e12, 0.0, 100e9, 0.0, 20e-6),
    Machine("A100, NVLink 600 GB/s, InfiniBand 200 Gbit/s each", 312e12, 0.2, 300e9, 25e9, 60e-6),
    Machine("A100 at 40% of its peak", 312e12, 0.4, 300e9, 25e9, 60e-6),
    Machine("H100, NVLink 900 GB/s, InfiniBand 400 Gbit/s each", 989e12, 0.2, 450e9, 50e9, 60e-6),
    Machine("A100, one 100 Gbit/s Ethernet for 8 GPUs", 312e12, 0.2, 300e9, 12.5e9 / 8, 100e-6),
)


def ring_s(size: float, devices: int, speed: float) -> float:
    """Return the seconds of a ring all-reduce of `size` bytes."""
    return 2 * (devices - 1) / devices * size / speed


def exchange_s(size: float, runs: int, devices: int, machine: Machine) -> float:
    """Return the seconds of all collectives of a step, run one after another."""
    inside = min(devices, machine.size) if machine.between else devices
    seconds = ring_s(size, inside, machine.inside) + runs * machine.start_s
    if devices > inside:
        seconds += ring_s(size / inside, devices // inside, machine.between)
    return seconds


def step_s(result: dict, machine: Machine) -> float:
    """Return the seconds of a step's computation on one device."""
    return result["flop"] / (machine.peak * machine.share) if machine.share else result["estimated_s"]


def all_reduces(result: dict) -> dict:
    """Return bytes, overlapped bytes and number of a program's all-reduces; a program for one chip has none."""
    return result["collectives"].get("all-reduce", {"bytes": 0, "overlapped_bytes": 0, "runs": 0})


def speed_up(result: dict, devices: int, machine: Machine) -> float:
    """Return the expected weak-scaling speed-up on `devices`; overlapped communication takes no time."""
    reduce = all_reduces(result)
    exposed = reduce["bytes"] - reduce["overlapped_bytes"]
    alone = step_s(result, machine)
    return devices * alone / (alone + exchange_s(exposed, reduce["runs"], devices, machine))


def table(result: dict) -> str:
    """Format the expected speed-ups of a program as a Markdown table."""
    head = ["machine", "step alone, ms", "exchange on 16, ms", *map(str, DEVICES)]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    reduce = all_reduces(result)
    for machine in MACHINES:
        exchange = exchange_s(reduce["bytes"] - reduce["overlapped_bytes"], reduce["runs"], 16, machine)
        numbers = [f"{1e3 * step_s(result, machine):.1f}", f"{1e3 * exchange:.2f}"]
        lines.append(
            f"| {' | '.join([machine.name, *numbers, *(f'{speed_up(result, n, machine):.2f}' for n in DEVICES)])} |"
        )
    measured = [f"{ORIGINAL[n]:.2f}" for n in DEVICES]
    lines.append(f"| {' | '.join(['the original, measured on Tesla K40m', '', '', *measured])} |")
    return "\n".join(lines)


@console.command
def main() -> None:
    """Print the table for one program of a file of figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", help="JSON file written by benchmarks.compile_for")
    parser.add_argument("--config", default="configs/librispeech.py:16")
    parser.add_argument("--frames", type=int, required=True)
    a = parser.parse_args()
    try:
        programs = json.loads(Path(a.figures).read_text())
    except (OSError, json.JSONDecodeError) as error:
        parser.error(
            f"{a.figures} cannot be read ({error}): create it with python -m benchmarks.compile_for --json={a.figures}"
        )
    wanted = (a.config, "train", a.frames)
    matching = [r for r in programs if (r["config"], r["step"], r["shape"][1]) == wanted and "estimated_s" in r]
    if not matching:
        parser.error(f"{a.figures} contains no training step of {a.config} with {a.frames} frames for TPUs")
    result = matching[0]
    if not result["collectives"]:
        parser.error(
            f"{a.config} is compiled for one chip, which exchanges nothing: choose a program for several, such as FILE:16"
        )
    reduce = all_reduces(result)
    print(
        f"{result['rows_of_a_chip']:g} utterances of {a.frames} frames per device: {result['flop'] / 1e12:.2f} TFLOP; "
        f"{reduce['runs']} all-reduces of {reduce['bytes'] / 1e6:.1f} MB in total, {reduce['overlapped_bytes'] / 1e6:.1f} MB "
        f"overlapped\n\n{table(result)}"
    )


if __name__ == "__main__":
    main()
