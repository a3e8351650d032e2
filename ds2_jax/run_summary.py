"""Say where a run's files are and what it reached: `python -m ds2_jax.run_summary runs/quickstart`."""

import json
import sys
from pathlib import Path


def main(workdir: str) -> None:
    """Print the run's folder, curves, checkpoints, reports and error rates, as they are recorded there."""
    run = Path(workdir)
    print(f"run:         {run} (config.json, run.json: what was run, with what)")
    print(f"curves:      {run}/metrics.jsonl, tensorboard --logdir {run}/tensorboard")
    print(f"checkpoints: {run}/checkpoints/{', '.join(sorted(p.name for p in (run / 'checkpoints').iterdir()))}")
    for name in ("test", "eval"):
        report = run / f"{name}.json"
        if report.exists():
            result = json.loads(report.read_text(encoding="utf-8"))
            print(f"{name + ' report:':12s} {run}/{name}.html: WER {result['wer']:.2%}, CER {result['cer']:.2%}")


if __name__ == "__main__":
    main(sys.argv[1])
