"""Format the figures of `benchmarks.card.layers` and `benchmarks.card.steps` as Markdown tables, and print them.

python -m benchmarks.card.table results
"""

import argparse
import re
from pathlib import Path

from benchmarks.card.journal import FAILED, Figures, read
from input_pipeline.storage import console

FILES = ("layers_torch", "layers_ours", "steps_torch", "steps_ours", "training")
VARIANT = re.compile(
    r"(?P<what>.* B\d+) (?P<who>ours|before|torch|train|eval) (?P<precision>\w+) ?(?P<variant>.*(?<! trace))"
)
OPEN = "open"

Lines = dict[str, Figures]


def read_all(folder: Path) -> Lines:
    """Return the figures of all steps by name, without those that failed."""
    lines = [line for name in FILES for line in read(folder / f"{name}.jsonl")]
    return {line["step"]: line for line in lines if FAILED not in line}


def failures(folder: Path) -> list[str]:
    """Return a line for each step that failed."""
    lines = [line for name in FILES for line in read(folder / f"{name}.jsonl")]
    return [f"- {line['step']}: {line[FAILED][:160]}" for line in lines if FAILED in line]


def best(lines: Lines, what: str, who: str, precision: str) -> tuple[str, Figures] | None:
    """Return the fastest variant and its figures."""
    found = {}
    for name, figures in lines.items():
        parts = VARIANT.fullmatch(name)
        if parts and (parts["what"], parts["who"], parts["precision"]) == (what, who, precision):
            found[parts["variant"]] = figures
    variant = min(found, key=lambda v: found[v]["median_ms"], default=None)
    return None if variant is None else (variant, found[variant])


def row(lines: Lines, what: str, precision: str, who: str, per: str) -> str:
    """Return a row that compares the peer, the version before, and ours at present and at best."""
    peers = {"bfloat16": ("bfloat16", "autocast")}.get(precision, (precision,))
    theirs = [found for p in peers if (found := best(lines, what, "torch", p))]
    peer = min((figures for _, figures in theirs), key=lambda f: f["median_ms"], default=None)
    before, ours = best(lines, what, "before", precision), best(lines, what, who, precision)
    present = lines.get(f"{what} {who} {precision} {'present ' if who == 'ours' else ''}plain")
    cells = [what.removeprefix("layer "), precision]
    cells += [shown(figures, per) for figures in (peer, before[1] if before else None, present)]
    cells.append(f"{shown(ours[1], per)} ({ours[0]})" if ours else OPEN)
    cells.append(f"{peer['median_ms'] / ours[1]['median_ms']:.2f}" if ours and peer else OPEN)
    cells.append(f"{peer['peak_mb'] if peer else OPEN} / {ours[1]['peak_mb'] if ours else OPEN}")
    cells.append(share(lines, precision, ours[1]) if ours else OPEN)
    return f"| {' | '.join(cells)} |"


def shown(figures: Figures | None, key: str) -> str:
    """Return a figure, or `open`."""
    return OPEN if figures is None else f"{figures[key]:g}"


def share(lines: Lines, precision: str, figures: Figures) -> str:
    """Return the operations per second as a share of the card's large product in this precision."""
    product = lines.get(f"product {precision}")
    return f"{figures['tflops'] / product['tflops']:.1%}" if product and product["tflops"] else OPEN


def comparison(lines: Lines, who: str, per: str, unit: str) -> list[str]:
    """Return the table of layers (who: ours) or of steps (train, eval); [] without figures."""
    found = [parts for name in lines if (parts := VARIANT.fullmatch(name))]
    kind = [p for p in found if p["what"].startswith("layer ") == (who == "ours") and p["who"] in (who, "torch")]
    precision = [(p["what"], p["precision"].replace("autocast", "bfloat16")) for p in kind]
    if not kind:
        return []
    head = ["", "precision", f"PyTorch, {unit}", f"before, {unit}", f"present, {unit}", f"best, {unit}"]
    head += ["PyTorch's time / best", "peak MB, PyTorch / ours", "share of the product's speed"]
    title = {"ours": "Layers, forward and backward", "train": "Training steps"}[who]
    rows = [row(lines, what, p, who, per) for what, p in dict.fromkeys(precision)]
    return [f"\n{title}:\n", f"| {' | '.join(head)} |", "|" + "---|" * len(head), *rows]


def variants(lines: Lines) -> list[str]:
    """Return a line for each of our layers in each precision: its variants, the fastest first, in us a frame."""
    found: dict[str, dict[str, float]] = {}
    for name, figures in lines.items():
        parts = VARIANT.fullmatch(name)
        if parts and parts["who"] in ("ours", "before"):
            times = found.setdefault(f"{parts['what']} {parts['who']} {parts['precision']}", {})
            times[parts["variant"]] = figures["us_a_frame"]
    return [
        f"- {name}: " + ", ".join(f"{variant} {times[variant]:g}" for variant in sorted(times, key=lambda v: times[v]))
        for name, times in found.items()
    ]


def rest(lines: Lines) -> list[str]:
    """Return the other figures, one line each."""
    others = [name for name in lines if not VARIANT.fullmatch(name)]
    evaluations = [name for name in lines if (p := VARIANT.fullmatch(name)) and p["who"] == "eval"]
    hidden = ("step", "at")
    return [
        f"- {name}: " + ", ".join(f"{key} {value}" for key, value in lines[name].items() if key not in hidden)
        for name in [*others, *evaluations]
    ]


def format_tables(folder: Path) -> str:
    """Return all tables, the other figures and the failures."""
    lines = read_all(folder)
    failed = failures(folder)
    return "\n".join(
        [
            *comparison(lines, "ours", "us_a_frame", "us a frame"),
            *comparison(lines, "train", "median_ms", "ms"),
            "\nVariants, us a frame:\n",
            *variants(lines),
            "\nOther figures:\n",
            *rest(lines),
            *(["\nFailed:\n", *failed] if failed else []),
        ]
    )


@console.command
def main() -> None:
    """Print the tables of a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder with the figures")
    print(format_tables(parser.parse_args().folder))


if __name__ == "__main__":
    main()
