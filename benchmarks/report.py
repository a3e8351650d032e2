"""Run all benchmarks, compare with PyTorch if available, and write docs/performance.md with its figure.

    python -m benchmarks.report --manifest=data/an4/train.jsonl --test=data/an4/test.jsonl --torch=/path/to/torch/bin/python

Takes about half an hour on two idle cores. --torch is the Python interpreter of an environment with PyTorch; without it, the
rows that compare with PyTorch have no ratio. Our benchmark and the peer's run alternately, --turns times each; medians are
compared.
"""

import argparse
import datetime
import json
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from benchmarks import measure
from benchmarks.card.sizes import Network
from input_pipeline.storage import console

ROOT = Path(__file__).resolve().parents[1]
NETWORK = Network("gru", 512, 3, batch=8, frames=500, labels=60)
STEP = [f"--{name}={getattr(NETWORK, name)}" for name in ("batch", "frames", "hidden", "layers", "labels")]
# Goals of each network: how many times PyTorch's speed, in a training step and in a forward pass.
PEER_STEPS = {
    ("gru", 512): (1.8, 1.8),
    ("rnn", 512): (1.6, None),
    ("lstm", 512): (1.6, None),
    ("gru", 256): (1.6, None),
    ("gru", 1024): (1.6, None),
}
HALF = "step gru 512 bfloat16"
GROWTH = {
    "frames": (250, 500, 1000, 2000),
    "batch": (2, 4, 8, 16),
    "hidden": (128, 256, 512, 1024),
    "vocab": (29, 300, 4300),
}
PRODUCT = (
    "import time,jax,jax.numpy as jnp; a=jnp.ones((2048,2048)); f=jax.jit(lambda a:a@a); f(a).block_until_ready()\n"
)
PRODUCT += (
    "ts=[]\nfor _ in range(9):\n s=time.perf_counter(); f(a).block_until_ready(); ts.append(time.perf_counter()-s)\n"
)
PRODUCT += "import json; print(json.dumps({'gflops': 2*2048**3/sorted(ts)[4]/1e9}))"


def run(*command: str) -> dict:
    """Run a command and return the JSON line that it prints last. Raises SystemExit if it fails."""
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(f"error: {' '.join(command)} failed:\n{result.stderr}")
    return json.loads(result.stdout.splitlines()[-1])


def ours(name: str, *options: str) -> dict:
    """Run one of our benchmarks."""
    return run(sys.executable, "-m", f"benchmarks.{name}", *options)


def alternate(torch: str, turns: int, name: str, peer: str, options: list[str], keys: list[str]) -> dict:
    """Alternate our benchmark with the peer's; return the medians of both by key, and their ratios, peer / ours."""
    results: dict[str, list[dict]] = {"ours": [], "peer": []}
    for _ in range(turns):
        results["ours"].append(ours(name, *options))
        if torch:
            results["peer"].append(run(torch, "-m", f"benchmarks.peers.{peer}", *options))
    medians: dict = {}
    for key in keys:
        medians[key] = statistics.median(r[key] for r in results["ours"])
        if torch:
            medians[f"peer_{key}"] = statistics.median(r[key] for r in results["peer"])
            medians[f"{key}_ratio"] = round(medians[f"peer_{key}"] / medians[key], 2)
    medians["peer"] = results["peer"][0]["peer"] if torch else "not run"
    return medians


def measure_all(a: argparse.Namespace) -> dict:
    """Run all benchmarks and return the figures by name."""
    figures: dict = {"machine": measure.machine(), "versions": measure.versions()}
    figures["commit"] = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    growth = [(name, size) for name, sizes in GROWTH.items() for size in sizes]
    with tqdm(total=len(PEER_STEPS) + len(growth) + 9, desc="benchmarks") as bar:

        def record(name: str, value) -> None:
            figures[name] = value
            bar.update()

        record("product_gflops", run(sys.executable, "-c", PRODUCT)["gflops"])
        keys = ["step_median_s", "forward_s", "peak_memory_mb"]
        for cell, hidden in PEER_STEPS:
            options = [*STEP, f"--cell={cell}", f"--hidden={hidden}"]
            record(f"step {cell} {hidden}", alternate(a.torch, a.turns, "train_step", "torch_step", options, keys))
        record(HALF, ours("train_step", *STEP, "--compute_dtype=bfloat16"))
        record("recurrent", alternate(a.torch, a.turns, "recurrent", "torch_recurrent", [], ["median_s", "forward_s"]))
        record("ctc", ours("ctc"))
        record("transcribe", ours("transcribe", f"--manifest={a.test}"))
        record("end_to_end", ours("end_to_end", f"--manifest={a.manifest}"))
        augmented = "--augment=configs/augmentation_an4.json"
        record("end_to_end augmented", ours("end_to_end", f"--manifest={a.manifest}", augmented))
        record("start_up tiny", ours("start_up", "--config=configs/tiny.py", f"--manifest={a.manifest}"))
        record("start_up an4", ours("start_up", "--config=configs/an4.py", f"--manifest={a.manifest}"))
        figures["growth"] = {name: [] for name in GROWTH}
        for name, size in growth:
            result = ours("train_step", *STEP, f"--{name}={size}", "--steps=3")
            figures["growth"][name].append([size, result["step_min_s"]])
            bar.update()
    return figures


def power(points: list[list[float]]) -> float:
    """Fit seconds = c * size^p to the larger half of the points and return p."""
    sizes, seconds = np.log(np.array(points[len(points) // 2 - 1 :])).T
    return float(np.polyfit(sizes, seconds, 1)[0])


def step_table(figures: dict) -> list[str]:
    """Return the lines of the table of training steps and forward passes beside PyTorch's."""

    def against(row: dict, key: str, goal: float | None = None) -> str:
        if f"{key}_ratio" not in row:
            return f"{row[key]:.3g}"
        return f"**{row[f'{key}_ratio']:.2f}**{f' ({goal})' if goal else ''}: {row[key]:.3g}, {row[f'peer_{key}']:.3g}"

    def memory(row: dict) -> str:
        if "peer_peak_memory_mb" not in row:
            return f"{row['peak_memory_mb']:.0f}"
        share = row["peak_memory_mb"] / row["peer_peak_memory_mb"]
        return f"**{share:.2f}** (0.87): {row['peak_memory_mb']:.0f}, {row['peer_peak_memory_mb']:.0f}"

    lines = [
        "| network | training step | forward pass | peak memory of the process |",
        "|---|---|---|---|",
    ]
    for (cell, hidden), (step, forward) in PEER_STEPS.items():
        row = figures[f"step {cell} {hidden}"]
        speeds = against(row, "step_median_s", step), against(row, "forward_s", forward)
        lines.append(f"| {cell.upper()} {hidden} | {' | '.join(speeds)} | {memory(row)} |")
    return lines


def table(figures: dict) -> list[tuple[str, str, str]]:
    """Return the rows of the other table: measurement, result, goal."""
    recurrent, ctc = figures["recurrent"], figures["ctc"]
    plain, full = figures["end_to_end"], figures["end_to_end augmented"]
    half = figures["step gru 512"]["step_median_s"] / figures[HALF]["step_median_s"]
    layer = f"{recurrent['median_s']:.3g} s"
    if "median_s_ratio" in recurrent:
        layer = f"**{recurrent['median_s_ratio']:.2f}** ({layer}, PyTorch {recurrent['peer_median_s']:.3g} s)"
    return [
        (
            "GRU 512, training step in bfloat16: speed relative to float32",
            f"{half:.2f}",
            "2 where the processor has AMX",
        ),
        ("GRU 512, one layer, forward and backward: speed relative to PyTorch", layer, "1.3"),
        (
            "CTC loss and gradient, B32 U400 L200 K29: speed relative to optax",
            f"**{ctc['speed_against_optax']:.2f}**",
            "1",
        ),
        (
            "temporary memory of CTC, floats per utterance, frame and label",
            f"**{ctc['temporary_floats']}** (optax {ctc['optax_temporary_floats']})",
            "at most 3",
        ),
        (
            "transcribing AN4 test on one core, seconds of audio per second",
            f"**{figures['transcribe']['audio_s_per_s']:.0f}** (WER {figures['transcribe']['wer']:.2%})",
            "60",
        ),
        (
            "training loop with input pipeline, speed relative to the step alone",
            f"**{plain['share_of_step_speed']:.2f}**",
            "0.95",
        ),
        (
            "the same with the recipe's augmentation",
            f"{full['share_of_step_speed']:.2f}; waiting {full['waiting_share']:.1%} of the time",
            "1% waiting",
        ),
        (
            "from the start of `tiny` to the end of step 1, second run",
            f"**{figures['start_up tiny']['again_s']} s**",
            "10 s",
        ),
        (
            "the same for `an4`",
            f"**{figures['start_up an4']['again_s']} s** (first run: {figures['start_up an4']['first_s']} s)",
            "20 s",
        ),
    ]


def draw(figures: dict, path: Path) -> None:
    """Plot the time of a training step against each size."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(GROWTH), figsize=(12, 3), sharey=True, layout="constrained")
    for axis, (name, points) in zip(axes, figures["growth"].items(), strict=True):
        sizes, seconds = np.array(points).T
        axis.loglog(sizes, seconds, "o-", color="#20639b")
        axis.set_title(f"{name}: time ~ size^{power(points):.2f}", fontsize=10)
        axis.set_xticks(sizes, [f"{size:.0f}" for size in sizes])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("seconds per training step")
    figure.savefig(path, dpi=80)


def write(figures: dict, folder: Path, command: str) -> None:
    """Write the figures as JSON, plot and page; text after MARKER in an existing page is kept."""
    folder.mkdir(exist_ok=True)
    draw(figures, folder / "performance.png")
    (folder / "performance.json").write_text(json.dumps(figures, indent=1) + "\n")
    page = folder / "performance.md"
    kept = page.read_text().split(MARKER, 1)[1] if page.exists() and MARKER in page.read_text() else "\n"
    gflop, speed = NETWORK.train_flop / 1e9, figures["product_gflops"]
    step = figures["step gru 512"]["step_median_s"]
    lines = [
        "# Performance",
        "",
        f"Measured on {datetime.date.today()} with `{command}`",
        f"on {figures['machine']}, commit {figures['commit']}, "
        + ", ".join(f"{name} {version}" for name, version in figures["versions"].items())
        + f"; compared with {figures['step gru 512']['peer']}. Raw figures: [performance.json](performance.json).",
        "",
        f"Networks of {NETWORK.layers} bidirectional layers, {NETWORK.batch} utterances of 5 s, in float32: **PyTorch's time "
        "divided by ours** (the goal), then both medians in seconds, ours first; **our memory divided by PyTorch's** (the goal), then "
        "both in MB.",
        "",
        *step_table(figures),
        "",
        "| measurement | result | goal |",
        "|---|---|---|",
        *(f"| {measurement} | {result} | {goal} |" for measurement, result, goal in table(figures)),
        "",
        f"A product of 2048 x 2048 matrices runs at {speed:.0f} GFLOP/s on this machine. The products of GRU 512's step, computed "
        f"directly, are {gflop:.0f} GFLOP, {gflop / speed:.2f} s at that speed; the step takes {step:.2f} s, as convolutions in the "
        "Fourier domain need fewer operations.",
        "",
        "![Growth of the time of a training step](performance.png)",
        "",
        MARKER,
    ]
    page.write_text("\n".join(lines) + kept)


MARKER = "<!-- written by hand from here on -->\n"


@console.command
def main() -> None:
    """Run all benchmarks and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", required=True, help="AN4's training manifest")
    parser.add_argument("--test", required=True, help="AN4's test manifest")
    parser.add_argument("--torch", default="", help="Python interpreter of an environment with PyTorch")
    parser.add_argument("--turns", type=int, default=3, help="runs of each benchmark in comparisons with PyTorch")
    parser.add_argument("--output", default="docs", help="folder of the page, below the repository")
    a = parser.parse_args()
    write(measure_all(a), ROOT / a.output, "python -m benchmarks.report " + " ".join(sys.argv[1:]))


if __name__ == "__main__":
    main()
