"""Time preparing an unpacked corpus: a folder tree like LibriSpeech's, of hard links to one short clip.

    python -m benchmarks.prepare_corpus [--files 5000]

Prints one JSON line with medians over the runs, in wall time: `scan_files_per_s` for reading all headers,
`prepare_files_per_s` for the whole command (list folders, read transcripts, join, read headers, write the manifest).
`scan_processor_us` is the CPU time of the scan per file. The files are in the page cache, as they are after unpacking.
"""

import argparse
import contextlib
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import measure
from input_pipeline.cores import usable_cores
from input_pipeline.corpora import librispeech, prepare
from input_pipeline.corpora.assemble import Preparation
from input_pipeline.storage import console

CLIP = Path(__file__).parents[1] / "tests" / "clips" / "cen2-fash-b.flac"
PER_CHAPTER = 50


def make_tree(folder: Path, files: int) -> None:
    """Create a part of the corpus: speaker / chapter / utterances and their `.trans.txt`."""
    first = folder / "first.flac"
    shutil.copy(CLIP, first)
    for start in range(0, files, PER_CHAPTER):
        speaker, chapter = str(100 + start // (2 * PER_CHAPTER)), str(1000 + start)
        chapter_folder = folder / "LibriSpeech" / "dev-clean" / speaker / chapter
        chapter_folder.mkdir(parents=True)
        names = [f"{speaker}-{chapter}-{number:04d}" for number in range(min(PER_CHAPTER, files - start))]
        for name in names:
            os.link(first, chapter_folder / f"{name}.flac")
        lines = "".join(f"{name} MISTER QUILTER IS THE APOSTLE\n" for name in names)
        (chapter_folder / f"{speaker}-{chapter}.trans.txt").write_text(lines, encoding="utf-8")


@console.command
def main() -> None:
    """Run the benchmark and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--workers", type=int, default=usable_cores())
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--folder", help="folder for the tree (default: the system's temporary folder)")
    a = parser.parse_args()
    scan_s, processor_s, prepare_s = [], [], []
    with tempfile.TemporaryDirectory(dir=a.folder) as name, contextlib.redirect_stdout(sys.stderr):
        folder = Path(name)
        make_tree(folder, a.files)
        recordings = librispeech.read_part(folder / "LibriSpeech" / "dev-clean")
        line = ["librispeech", f"--source={folder}", f"--target_dir={folder / 'out'}", "--parts=dev-clean"]
        for _ in range(a.runs):
            start, used = time.perf_counter(), time.process_time()
            scanned = Preparation(folder, workers=a.workers).scan(recordings, "dev-clean")
            scan_s.append(time.perf_counter() - start)
            processor_s.append(time.process_time() - used)
            start = time.perf_counter()
            if prepare.main([*line, f"--workers={a.workers}"]) or len(scanned) != a.files:
                raise SystemExit("error: preparing the tree failed; the reason is above")
            prepare_s.append(time.perf_counter() - start)
    result = {
        "benchmark": "prepare_corpus",
        "files": a.files,
        "scan_files_per_s": round(a.files / statistics.median(scan_s)),
        "prepare_files_per_s": round(a.files / statistics.median(prepare_s)),
        "scan_processor_us": round(1e6 * statistics.median(processor_s) / a.files),
        "prepare_s": round(statistics.median(prepare_s), 4),
        "workers": a.workers,
        "machine": measure.machine(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
