"""Print the files of a run and the error rates it reached.

python -m ds2_jax.cli.run_summary runs/quickstart "test=test.json"
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path


def main(workdir: str, results: Sequence[str] = ("test=test.json",)) -> None:
    """Print a run's folder, curves and checkpoints, and the error rates in its result files, given as 'what=file'."""
    run = Path(workdir)
    curves = [str(run / name) for name in ("curves.png", "metrics.jsonl", "tensorboard") if (run / name).exists()]
    print(f"\nrun:         {run} (run.json and config.json: command, versions, data, settings)")
    print(f"curves:      {', '.join(curves)}")
    print(f"checkpoints: {run / 'checkpoints'}: {', '.join(sorted(p.name for p in (run / 'checkpoints').iterdir()))}")
    for entry in results:
        what, _, file = entry.partition("=")
        result = json.loads((run / file).read_text(encoding="utf-8"))
        report = (run / file).with_suffix(".html")
        print(f"{what}: WER {result['wer']:.2%}, CER {result['cer']:.2%} ({result['utterances']} utterances; {report})")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:] or ("test=test.json",))
