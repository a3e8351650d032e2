"""Time the start of the Python API in fresh processes: `import ds2_jax`, then the model, then the first transcript.

    python -m benchmarks.first_transcript

Programs compiled by an untimed run are cached. Prints one JSON line with medians in seconds of wall time, counted from the
start of the interpreter's first statement.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks import measure
from input_pipeline.storage import console

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = """
import json, sys, time
start = time.perf_counter()
import ds2_jax
imported = time.perf_counter()
model = ds2_jax.load(sys.argv[1])
loaded = time.perf_counter()
model.transcribe(sys.argv[2])
print(json.dumps([imported - start, loaded - start, time.perf_counter() - start]))
"""


def start(model: str, clip: str) -> list[float]:
    """Return the seconds after which the package was imported, the model loaded and the clip transcribed."""
    command = [sys.executable, "-c", PROGRAM, model, clip]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1])


@console.command
def main() -> None:
    """Parse, time, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/an4")
    parser.add_argument("--clip", default="tests/clips/cen1-mtos-b.flac")
    parser.add_argument("--runs", type=int, default=5)
    a = parser.parse_args()
    start(a.model, a.clip)  # compiles
    imported, loaded, transcribed = zip(*(start(a.model, a.clip) for _ in range(a.runs)), strict=True)
    result = {
        "benchmark": "first_transcript",
        "versions": measure.versions(),
        "import_s": round(statistics.median(imported), 3),
        "load_s": round(statistics.median(loaded), 2),
        "transcribe_s": round(statistics.median(transcribed), 2),
    }
    print(json.dumps(result | {"options": vars(a)}))


if __name__ == "__main__":
    main()
