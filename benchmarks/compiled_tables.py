"""Format the figures of benchmarks.compile_for as Markdown tables.

python -m benchmarks.compiled_tables        # writes the tables of GPUs in docs/scaling.md from docs/scaling.json
"""

import json
import re
from pathlib import Path

from input_pipeline.storage import console, whole_file

PAGE, FIGURES = Path("docs/scaling.md"), Path("docs/scaling.json")
PROGRAM = ("recipe", "step", "rows x frames x labels", "rows per chip")
SIZES = (*PROGRAM, "arguments GB", "temporaries GB", "peak GB", "of memory", "TFLOP")
TPU = (*SIZES, "ms (compiler's estimate)", "collectives", "MB sent", "compile s")
GPU = (*SIZES, "kernels", "launches", "kernels a frame: forward + backward", "loops in one graph")


def table(results: list[dict]) -> str:
    """Format results for chips of one kind."""
    head = GPU if any("loops" in result for result in results) else TPU
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for r in results:
        changed = f" {r['set']}" if r.get("set") else ""
        first = [
            f"`{Path(r['config']).name}`{changed}",
            r["step"],
            " x ".join(map(str, r["shape"])),
            f"{r['rows_of_a_chip']:g}",
        ]
        if "refused" in r:
            lines.append(f"| {' | '.join(first)} | does not fit: {r['refused'][:120]} |")
            continue
        gb = [f"{r[name] / 1e9:.2f}" for name in ("arguments_bytes", "temporary_bytes", "peak_bytes")]
        part = [f"{r['peak_bytes'] / (r['memory_gib'] * 2**30):.0%}", f"{r['flop'] / 1e12:.3g}"]
        rest = _launches(r) if "loops" in r else _messages(r)
        lines.append(f"| {' | '.join([*first, *gb, *part, *rest])} |")
    return "\n".join(lines)


def _messages(r: dict) -> list[str]:
    kinds = ", ".join(f"{sums['runs']} {kind}" for kind, sums in r["collectives"].items()) or "none"
    sent = sum(sums["bytes"] for sums in r["collectives"].values()) / 1e6
    return [f"{1e3 * r['estimated_s']:.3g}", kinds, f"{sent:.3g}", f"{r['compile_s']}"]


def _launches(r: dict) -> list[str]:
    whole = sum(loop["graph"] == "whole" for loop in r["loops"])
    rates = frame_rates(r)
    text = [f"{part} {' + '.join(f'{rate:.3g}' for rate in rates[part])}" for part in sorted(rates, reverse=True)]
    return [str(r["kernels"]), str(r["launches"]), ", ".join(text), f"{whole} of {len(r['loops'])}"]


def frame_rates(r: dict) -> dict[str, list[float]]:
    """Return the kernels of CTC, and of the recurrent layer with most, for each output frame: forward and backward."""
    training = r["step"] == "train"
    rates: dict[str, list[float]] = {}
    for loop in r["loops"]:
        pair = rates.setdefault(loop["part"], [0.0, 0.0] if training else [0.0])
        frames = r["output_frames"] * (r["accumulate"] if training else 1)
        pair[loop["backward"]] += loop["turns"] * loop["kernels"] / frames
    layers = [rate for part, rate in rates.items() if part != "CTC"]
    most = {"layer": [max(rate) for rate in zip(*layers, strict=True)]} if layers else {}
    return most | ({"CTC": rates["CTC"]} if "CTC" in rates else {})


def gpu_tables(results: list[dict]) -> str:
    """Format the results for GPUs, one table a topology."""
    names = sorted({r["topology"] for r in results if "loops" in r}, reverse=True)
    tables = (table([r for r in results if r["topology"] == name]) for name in names)
    return "\n\n".join(f"**{name}**\n\n{text}" for name, text in zip(names, tables, strict=True))


def with_tables(page: str, results: list[dict]) -> str:
    """Return a page with new tables in the place of those between its two marks."""
    begin, end = "<!-- GPU tables -->", "<!-- end of GPU tables -->"
    return re.sub(f"{begin}.*{end}", lambda _: f"{begin}\n\n{gpu_tables(results)}\n\n{end}", page, flags=re.DOTALL)


@console.command
def main() -> None:
    """Write the tables into the page."""
    text = with_tables(PAGE.read_text(), json.loads(FIGURES.read_text()))
    with whole_file.open_text(PAGE) as page:
        page.write(text)


if __name__ == "__main__":
    main()
