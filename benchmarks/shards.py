"""Time packing into shards, loading from them, and how long a device waits if they come from an object store.

    python -m benchmarks.shards --manifest data/an4/train.jsonl [--files 3000] [--file_kb 200] [--step_s 0.4] [--latency_ms 50]

Prints one JSON line:
- `pack_mb_per_s` and `cp_mb_per_s`: `--files` files of random bytes, packed and copied (with `sync`) alternately, read from
  the disk rather than the page cache; medians of `--runs`. The same per CPU second: `..._mb_per_processor_s`.
- `files` and `shards`: seconds of audio decoded per CPU second, clip by clip in random order.
- `waiting`: the fraction of an epoch, including its first batch, that a device waits for data if it computes `--step_s` per
  batch, by source: files; a local store with a latency of `--latency_ms` per answer, whose shards are cached as they are
  read (`store`), are not cached (`store_uncached`) or are in the cache already (`store_again`); and without both cache and
  prefetching (`store_when_asked`).
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from absl import flags
from tqdm import tqdm

from benchmarks.local_store import BUCKET
from benchmarks.measure import machine
from input_pipeline import audio, manifest
from input_pipeline.audio.features import FeatureSettings
from input_pipeline.audio.front_end import FrontEnd
from input_pipeline.batches.corpus import Corpus
from input_pipeline.batches.loader import LoadSettings
from input_pipeline.batches.plan import BatchSettings
from input_pipeline.manifest.pack import pack
from input_pipeline.shards import source as shard_source
from input_pipeline.storage import console


def write_files(folder: Path, files: int, file_kb: int) -> Path:
    """Write files of random bytes and their manifest; return its path."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number in tqdm(range(files), desc="write files", delay=2):
        (folder / f"{number}.flac").write_bytes(rng.bytes(1000 * file_kb))
    manifest.write(
        folder / "train.jsonl",
        ({"audio_filepath": f"{number}.flac", "duration": 1.0, "text": "a"} for number in range(files)),
    )
    return folder / "train.jsonl"


def drop_from_cache(folder: Path) -> None:
    """Drop the files of a folder from the page cache, so that they are read from the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def time_packing(folder: Path, files: int, file_kb: int, runs: int) -> dict[str, float]:
    """Pack and copy the same files alternately; return the median MB/s of both, in wall time and in CPU time."""
    source = write_files(folder / "files", files, file_kb)
    seconds: dict[str, list[float]] = {}
    for _ in tqdm(range(runs), desc="pack and copy", delay=2):
        for name, command in (
            ("cp", f"cp -r {source.parent} {folder / 'copied'} && sync -f {folder}"),
            ("pack", f"{sys.executable} -m input_pipeline.pack {source} --output={folder / 'packed'}"),
        ):
            drop_from_cache(source.parent)
            start, used = time.perf_counter(), children_cpu_s()
            subprocess.run(command, shell=True, check=True, stdout=subprocess.DEVNULL)
            seconds.setdefault(f"{name}_mb_per_s", []).append(time.perf_counter() - start)
            seconds.setdefault(f"{name}_mb_per_processor_s", []).append(children_cpu_s() - used)
        for copy in ("copied", "packed"):
            shutil.rmtree(folder / copy)
    return {name: round(files * file_kb / 1000 / statistics.median(values)) for name, values in seconds.items()}


def children_cpu_s() -> float:
    """Return the CPU seconds of all finished child processes."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def time_loading(paths: dict[str, str], runs: int) -> dict[str, int]:
    """Decode all clips of each manifest in random order; return the seconds of audio per CPU second."""
    seconds: dict[str, list[float]] = {name: [] for name in paths}
    audio_s = float(manifest.read(next(iter(paths.values())), need_text=False).duration.sum())
    for run in range(runs):
        for name, path in paths.items():
            clips = manifest.read(path, need_text=False).audio
            start = time.process_time()
            for row in np.random.default_rng(run).permutation(len(clips)):
                audio.read(clips[int(row)], 16000)
            seconds[name].append(time.process_time() - start)
    return {name: round(audio_s / statistics.median(values)) for name, values in seconds.items()}


def waiting(path: str, step_s: float, batch: int, threads: int) -> float:
    """Return the fraction of an epoch that a device waits if it computes `step_s` per batch; threads=0: no prefetching."""
    corpus = Corpus(
        manifest.read(path, need_text=False),
        None,
        FrontEnd(FeatureSettings(), "utterance"),
        BatchSettings(size=batch, buckets=8, shuffle="instance_shuffle"),
        load=LoadSettings(threads=max(threads, 1), prefetch=4),
    )
    specs = corpus.plan_epoch(1)
    batches = corpus.batches(specs) if threads else map(corpus.make_loader(), specs)
    waited, start = 0.0, time.perf_counter()
    for _ in tqdm(specs, desc=f"wait for {path}", delay=2):
        requested = time.perf_counter()
        loaded = next(batches)
        waited += time.perf_counter() - requested
        assert loaded["valid"].any(), loaded["problem"]
        time.sleep(step_s)
    return round(waited / (time.perf_counter() - start), 4)


@contextmanager
def store(latency_s: float) -> Iterator[None]:
    """Run a store in its own process, and set the environment variables by which this process finds it."""
    command = [sys.executable, "-m", "benchmarks.local_store", str(latency_s)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        os.environ.update(json.loads(process.stdout.readline()))
        import fsspec

        fsspec.filesystem("s3").mkdir(BUCKET)
        yield
        assert process.stdin is not None
        process.stdin.close()


def time_waiting(a: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Return the fraction of time spent waiting, by source of the batches."""
    os.environ["DS2_CACHE"] = str(folder / "cache" / "shards")
    shares = {"files": waiting(a.manifest, a.step_s, a.batch, a.threads)}
    with store(a.latency_ms / 1000):
        remote = pack(a.manifest, f"s3://{BUCKET}/corpus", shards=a.shards).manifest
        audio.read(manifest.read(remote, need_text=False).audio[0])  # opens the connections before the first epoch
        for name, cache_gb, threads in (
            ("store_uncached", "0", a.threads),
            ("store", "10", a.threads),
            ("store_again", "10", a.threads),
            ("store_when_asked", "0", 0),
        ):
            os.environ["DS2_CACHE_GB"] = cache_gb
            shard_source.reset()
            shares[name] = waiting(remote, a.step_s, a.batch, threads)
    return shares


@console.command
def main() -> None:
    """Run the benchmark and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--files", type=int, default=3000, help="number of files to pack and copy")
    parser.add_argument("--file_kb", type=int, default=200, help="size of each file (LibriSpeech: 200 kB on average)")
    parser.add_argument("--shards", type=int, default=8, help="number of shards in the store")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--step_s", type=float, default=0.4, help="seconds of computation per batch")
    parser.add_argument("--latency_ms", type=float, default=50.0, help="delay of each answer of the store")
    parser.add_argument("--runs", type=int, default=5)
    a = parser.parse_args()
    flags.FLAGS.mark_as_parsed()  # grain reads flags
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        packing = time_packing(folder, a.files, a.file_kb, a.runs)
        packed = pack(a.manifest, str(folder / "shards"), shards=a.shards).manifest
        loading = time_loading({"files": a.manifest, "shards": packed}, a.runs)
        shares = time_waiting(a, folder)
    result = {"benchmark": "shards", **packing, **loading, "waiting": shares, "machine": machine()}
    print(json.dumps(result | {"options": vars(a)}))


if __name__ == "__main__":
    main()
