"""Measure one GPU's floors, the recurrent layers and CTC, ours against PyTorch, in less than five minutes.

    python -m benchmarks.card.layers --output=results --budget=270
    python -m benchmarks.card.layers --output=results --before=folder        # with rnn.py and ctc.py of another version
    python -m benchmarks.card.layers --output=trial --device=cpu --shrink=16   # a trial without a card

Needs Python with JAX and PyTorch for CUDA (--torch=INTERPRETER if PyTorch is elsewhere), flax and optax. PyTorch's process
measures while ours traces its programs; then ours compiles in waves, in parallel, the most important variants first, and
times each while nothing is compiled. Each figure is written as soon as it is measured, to layers_torch.jsonl and
layers_ours.jsonl, so that a run that is cut off is of use. A process that crashes or hangs is started again, without the
step that ended it. The table of `benchmarks.card.table` is printed last.

A layer is one of a network's upper ones: 336 frames, both directions, input as wide as the state; forward and backward
pass, parameters included. All utterances have full length; ours masks them nevertheless. TF32 and bfloat16 as in training:
`tf32` are float32 arrays whose products may use TF32. PyTorch's bfloat16 layers have bfloat16 parameters; autocast runs
cuDNN's recurrent layers in a type of its own choice, recorded as `output`.
"""

import argparse
import sys
import time
from pathlib import Path

from benchmarks.card import table
from benchmarks.card.children import Child
from input_pipeline.storage import console

TORCH_SHARE = 0.35  # of the budget, at most
END_S = 3  # for ending processes and printing


def parser(description: str | None, budget_s: int) -> argparse.ArgumentParser:
    """Return the options that both measurements have."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--output", type=Path, required=True, help="folder for the figures")
    options.add_argument("--budget", type=float, default=budget_s, help="seconds after which the run ends")
    options.add_argument("--torch", default=sys.executable, help="Python interpreter with PyTorch")
    options.add_argument("--device", default="cuda", help="PyTorch's device")
    options.add_argument("--shrink", type=int, default=1, help="divide all sizes by this, for a trial")
    return options


@console.command
def main() -> None:
    """Run both processes and print the table."""
    options = parser(__doc__, 270)
    options.add_argument("--before", default="", help="folder with rnn.py and ctc.py of another version")
    a = options.parse_args()
    begin = time.time()
    until = begin + a.budget - END_S
    a.output.mkdir(parents=True, exist_ok=True)
    sizes, output = f"--shrink={a.shrink}", a.output.absolute()
    theirs = [f"--journal={output / 'layers_torch.jsonl'}", "--part=layers", f"--device={a.device}", sizes]
    mine = [f"--journal={output / 'layers_ours.jsonl'}", sizes]
    if a.before:
        mine.append(f"--before={Path(a.before).absolute()}")
    children = [
        Child("benchmarks.peers.torch_card", theirs, until, a.torch),
        Child("benchmarks.card.layers_ours", mine, until),
    ]
    try:
        children[0].run(TORCH_SHARE * a.budget)
        children[1].run()
    finally:
        for child in children:
            child.end()
    tables = table.format_tables(a.output)
    (a.output / "tables.md").write_text(tables + "\n")
    print(f"{time.time() - begin:.0f} s of {a.budget:.0f} s\n{tables}", flush=True)


if __name__ == "__main__":
    main()
