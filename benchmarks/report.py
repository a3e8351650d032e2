"""Run all benchmarks, compare with PyTorch if available, and write docs/performance.md with its figure.

    python -m benchmarks.report --manifest=data/an4/train.jsonl --test=data/an4/test.jsonl --torch=/path/to/torch/bin/python

Takes about 15 minutes on two idle cores. --torch is the Python interpreter of an environment with PyTorch; without it, the
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
PEER_STEPS = [("gru", 512), ("rnn", 512), ("lstm", 512), ("gru", 256), ("gru", 1024)]
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
    with tqdm(total=len(PEER_STEPS) + len(growth) + 8, desc="benchmarks") as bar:

        def record(name: str, value) -> None:
            figures[name] = value
            bar.update()

        record("product_gflops", run(sys.executable, "-c", PRODUCT)["gflops"])
        keys = ["step_median_s", "forward_s", "peak_memory_mb"]
        for cell, hidden in PEER_STEPS:
            options = [*STEP, f"--cell={cell}", f"--hidden={hidden}"]
            record(f"step {cell} {hidden}", alternate(a.torch, a.turns, "train_step", "torch_step", options, keys))
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


def table(figures: dict) -> list[tuple[str, str, str]]:
    """Return the rows of the table: measurement, result, goal."""

    def against(row: dict, key: str, unit: str = "s") -> str:
        if f"{key}_ratio" not in row:
            return f"{row[key]:.3g} {unit}; PyTorch not run"
        return f"**{row[f'{key}_ratio']:.2f}** ({row[key]:.3g} {unit} versus {row[f'peer_{key}']:.3g})"

    main = figures["step gru 512"]
    memory = f"{main['peak_memory_mb']:.0f} MB"
    if "peer_peak_memory_mb" in main:
        share = main["peak_memory_mb"] / main["peer_peak_memory_mb"]
        memory = f"**{share:.2f}** ({memory} versus {main['peer_peak_memory_mb']:.0f})"
    ctc, plain, full = figures["ctc"], figures["end_to_end"], figures["end_to_end augmented"]
    rows = [
        ("training step, batch 8, 5 s, 3 x 512 GRU: speed relative to PyTorch", against(main, "step_median_s"), "1.6")
    ]
    rows += [
        (f"the same, {cell.upper()} {hidden}", against(figures[f"step {cell} {hidden}"], "step_median_s"), "")
        for cell, hidden in PEER_STEPS[1:]
    ]
    return [
        *rows,
        ("forward pass, 3 x 512 GRU", against(main, "forward_s"), "1.2"),
        ("recurrent layer alone, forward and backward", against(figures["recurrent"], "median_s"), "1.3"),
        ("peak memory of the process in the training step, relative to PyTorch", memory, "at most 1.0"),
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
        + f"; compared with {figures['step gru 512']['peer']}. A ratio above 1 means that DS2-JAX is faster. Raw figures: "
        "[performance.json](performance.json).",
        "",
        "| measurement | result | goal |",
        "|---|---|---|",
        *(f"| {measurement} | {result} | {goal} |" for measurement, result, goal in table(figures)),
        "",
        f"The matrix products of the step are {gflop:.0f} GFLOP. A product of 2048 x 2048 matrices runs at {speed:.0f} GFLOP/s on "
        f"this machine, so the lower limit is {gflop / speed:.2f} s; the step reaches {gflop / speed / step:.0%} of that speed.",
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
