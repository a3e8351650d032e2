"""Show that a language model is memory-mapped, and shared by all processes that decode with it. Linux only.

    python -m benchmarks.mapped_model --lm=lm.bin --processes=2 --threads=2

Each process loads the model with the native engine (the first one with a cold page cache) and decodes synthetic utterances
of the model's words. Then, while all processes are still running, each one's memory is read from /proc. Prints one JSON line:
the seconds to map the model, to read its words, and to create the engine from both; and for each process, in MB, the
resident memory in total and of the model's mapping. In `pss`, a page shared by two processes counts half for each.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from subprocess import PIPE

import numpy as np

from benchmarks import measure
from decoding.lm import model_file
from decoding.search.beam import BeamSettings, make_engine
from input_pipeline.storage import console
from input_pipeline.text import Vocabulary

ROOT = Path(__file__).resolve().parents[1]
FRAME_S = 0.03
WORDS_PER_UTTERANCE = 12
CERTAINTY = 0.6  # probability of the correct symbol in its frame
MAX_SYMBOLS = 5000
FIGURES = ("Rss", "Pss", "Shared_Clean", "Private_Clean", "Private_Dirty")


def drop_from_cache(path: str) -> None:
    """Drop a file from the page cache, so that the next process reads it from the disk."""
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def memory_mb(lines: list[str]) -> dict[str, float]:
    """Sum FIGURES over mappings in the format of /proc/PID/smaps, in MB."""
    totals = dict.fromkeys(FIGURES, 0.0)
    for line in lines:
        name, _, value = line.partition(":")
        if name in totals:
            totals[name] += int(value.split()[0]) / 1024
    return {name.lower(): round(value, 2) for name, value in totals.items()}


def mapped_mb(path: str) -> dict[str, float]:
    """Return FIGURES for this process's mappings of one file, in MB."""
    inside, lines = False, []
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            inside = line.endswith(os.path.realpath(path))
        elif inside:
            lines.append(line)
    return memory_mb(lines)


def vocabulary_of(words: list[str]) -> Vocabulary:
    """Return the vocabulary of a network that writes these words: their characters, and a space unless each is a character."""
    symbols = sorted(set("".join(words)))[:MAX_SYMBOLS]
    single_characters = all(len(word) == 1 for word in words)  # as for Mandarin
    return Vocabulary(tuple(symbols) if single_characters else (" ", *symbols))


def synthesise(words: list[str], vocabulary: Vocabulary, count: int, seed: int) -> list[np.ndarray]:
    """Return log-probabilities [U, K] of utterances of random words, with a blank after each symbol."""
    rng = np.random.default_rng(seed)
    separator = " " if " " in vocabulary.symbols else ""
    writable = [word for word in words if set(word) <= set(vocabulary.symbols)]
    arrays = []
    for _ in range(count):
        text = separator.join(writable[i] for i in rng.integers(0, len(writable), WORDS_PER_UTTERANCE))
        rows = rng.dirichlet(np.full(vocabulary.size, 0.05), 2 * len(text)) * (1 - CERTAINTY) + 1e-12
        correct = np.zeros(len(rows), int)
        correct[::2] = vocabulary.encode(text)
        rows[np.arange(len(rows)), correct] += CERTAINTY
        arrays.append(np.log(rows / rows.sum(1, keepdims=True)).astype(np.float32))
    return arrays


def work(a: argparse.Namespace) -> None:
    """Load and decode in this process; print the times, wait for a line of input, print the memory use."""
    settings = BeamSettings(engine="native", lm=a.lm, threads=a.threads)
    start = time.perf_counter()
    words = model_file.read_words(a.lm)
    read_s = time.perf_counter() - start
    vocabulary = vocabulary_of(words)
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.write(next(word for word in words if set(word) <= set(vocabulary.symbols)))
        file.flush()
        start = time.perf_counter()
        make_engine(vocabulary, BeamSettings(engine="native", lm=a.lm, unigrams=file.name), FRAME_S)
        map_s = time.perf_counter() - start
    start = time.perf_counter()
    engine = make_engine(vocabulary, settings, FRAME_S)
    engine_s = time.perf_counter() - start
    loaded = mapped_mb(a.lm)
    arrays = synthesise(words, vocabulary, a.utterances, a.worker)
    start = time.perf_counter()
    engine.decode_batch(arrays)
    decode_s = time.perf_counter() - start
    times = {"map_s": map_s, "read_words_s": read_s, "engine_s": engine_s, "decode_s": decode_s}
    print(json.dumps({name: round(value, 3) for name, value in times.items()} | {"words": len(words)}), flush=True)
    sys.stdin.readline()
    rollup = Path("/proc/self/smaps_rollup").read_text().splitlines()
    print(json.dumps({"model_when_loaded": loaded, "model": mapped_mb(a.lm), "all": memory_mb(rollup)}), flush=True)
    sys.stdin.readline()


def run(a: argparse.Namespace) -> dict:
    """Run the processes in parallel and collect their output."""
    command = [sys.executable, "-m", "benchmarks.mapped_model", f"--lm={os.path.abspath(a.lm)}"]
    command += [f"--threads={a.threads}", f"--utterances={a.utterances}"]
    drop_from_cache(a.lm)
    workers = []
    for number in range(a.processes):
        arguments = [*command, f"--worker={number}"]
        workers.append(subprocess.Popen(arguments, cwd=ROOT, stdin=PIPE, stdout=PIPE, text=True))
        if number == 0:
            times = json.loads(_line(workers[0]))  # alone: these times are reported
    others = [json.loads(_line(worker)) for worker in workers[1:]]
    memory = []
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("\n")
        worker.stdin.flush()
        memory.append(json.loads(_line(worker)))
    for worker in workers:
        worker.communicate("\n", timeout=60)
    return {**times, "engine_again_s": [other["engine_s"] for other in others], "processes": memory}


def _line(worker: subprocess.Popen) -> str:
    assert worker.stdout is not None
    line = worker.stdout.readline()
    if not line:
        raise SystemExit(f"a process ended with exit code {worker.wait()}; its message is above")
    return line


@console.command
def main() -> None:
    """Run the benchmark and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lm", default="models/an4/lm.bin")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2, help="decoder threads per process")
    parser.add_argument("--utterances", type=int, default=100, help="utterances per process")
    parser.add_argument("--worker", type=int, default=-1, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.worker >= 0:
        work(a)
        return
    if not Path("/proc/self/smaps_rollup").exists():
        raise SystemExit("/proc/self/smaps_rollup does not exist; this benchmark reads it and runs on Linux only")
    result = {
        "benchmark": "mapped_model",
        "machine": measure.machine(),
        "lm_mb": round(os.path.getsize(a.lm) / 2**20, 2),
    }
    options = {name: value for name, value in vars(a).items() if name != "worker"}
    print(json.dumps(result | run(a) | {"options": options}))


if __name__ == "__main__":
    main()
