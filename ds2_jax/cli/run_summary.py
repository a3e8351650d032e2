"""Print the files of a run and the error rates it reached: `python -m ds2_jax.cli.run_summary runs/quickstart "test=test.json"`."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from input_pipeline.storage import console


@console.command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m ds2_jax.cli.run_summary", description=__doc__.partition(":")[0])
    parser.add_argument("workdir", help="folder of the run")
    parser.add_argument("results", nargs="*", default=["test=test.json"], help="label=file in the workdir")
    args = parser.parse_args(argv)
    try:
        print_summary(Path(args.workdir), args.results)
    except FileNotFoundError as error:
        print(f"{parser.prog}: there is no {error.filename}: name a run, and a result that it has", file=sys.stderr)
        return 1
    except (OSError, ValueError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    return 0


def print_summary(run: Path, results: Sequence[str]) -> None:
    """Print a run's files and the error rates in its result files, given as 'label=file'. Raises OSError, ValueError."""
    checkpoints = ", ".join(sorted(path.name for path in (run / "checkpoints").iterdir()))
    curves = [str(run / name) for name in ("curves.png", "metrics.jsonl", "tensorboard") if (run / name).exists()]
    print(f"\nrun:         {run} (run.json and config.json: command, versions, data, settings)")
    print(f"curves:      {', '.join(curves)}")
    print(f"checkpoints: {run / 'checkpoints'}: {checkpoints}")
    for entry in results:
        label, _, file = entry.partition("=")
        result = json.loads((run / file).read_text(encoding="utf-8"))
        report = (run / file).with_suffix(".html")
        print(
            f"{label}: WER {result['wer']:.2%}, CER {result['cer']:.2%} ({result['utterances']} utterances; {report})"
        )


if __name__ == "__main__":
    sys.exit(main())
