"""Measure whole training steps on one GPU, ours against PyTorch, a trace, and a real training, in less than five minutes.

    python -m benchmarks.card.steps --output=results --budget=290
    python -m benchmarks.card.steps --output=trial --device=cpu --shrink=64   # a trial without a card

Needs Python with JAX and PyTorch for CUDA (--torch=INTERPRETER if PyTorch is elsewhere), and what a training needs. Networks:
the two standard convolutions and 3 x 1024 GRU, 5 x 1024 LSTM and 5 x 2048 simple RNN, bidirectional, batches of 10 s, with
loss, gradient, clipping and Adam. Order and files as of `benchmarks.card.layers`: steps_torch.jsonl, steps_ours.jsonl,
trace.txt (kernels by time; XLA uses no CUDA graphs while it is traced), training.jsonl and training.log.
The trainings read the repository's clips, many times each, augmented as by recipe an4.
"""

import time

from benchmarks.card import table
from benchmarks.card.children import Child
from benchmarks.card.layers import END_S, parser
from input_pipeline.storage import console

TORCH_SHARE, TRAINING_SHARE = 0.25, 0.3  # of the budget, at most and at least


@console.command
def main() -> None:
    """Run the processes and print the table."""
    options = parser(__doc__, 290)
    options.add_argument("--no_training", action="store_true", help="measure steps only")
    a = options.parse_args()
    begin = time.time()
    until = begin + a.budget - END_S
    a.output.mkdir(parents=True, exist_ok=True)
    sizes, output = f"--shrink={a.shrink}", a.output.absolute()
    theirs = [f"--journal={output / 'steps_torch.jsonl'}", "--part=steps", f"--device={a.device}", sizes]
    mine = [f"--journal={output / 'steps_ours.jsonl'}", sizes]
    children = [
        Child("benchmarks.peers.torch_card", theirs, until, a.torch),
        Child("benchmarks.card.steps_ours", mine, until - (0 if a.no_training else TRAINING_SHARE * a.budget)),
    ]
    try:
        children[0].run(TORCH_SHARE * a.budget)
        children[1].run()
        if not a.no_training:
            journal = f"--journal={output / 'training.jsonl'}"
            children.append(Child("benchmarks.card.steps_training", [journal, sizes], until))
            children[-1].run()
    finally:
        for child in children:
            child.end()
    tables = table.format_tables(a.output)
    (a.output / "tables.md").write_text(tables + "\n")
    print(f"{time.time() - begin:.0f} s of {a.budget:.0f} s\n{tables}", flush=True)


if __name__ == "__main__":
    main()
