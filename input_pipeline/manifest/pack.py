"""Pack a manifest's audio into shards: `python -m input_pipeline.pack train.jsonl --shards=32 --output=DIR`.

DIR may be in an object store (s3://bucket/prefix, gs://...). DIR/train.jsonl is a manifest like any other, and of the
same corpus: a training may be resumed with it. Audio files are packed unchanged; of a longer file, the segment and channel
that a row names are cut out without loss. Exit code: 0 for success, 1 for
failure, 2 for wrong usage. After an interruption, the same command resumes.
"""

import argparse
import collections
import hashlib
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from input_pipeline import manifest
from input_pipeline.audio import Segment, Source, cut
from input_pipeline.manifest import Manifest
from input_pipeline.manifest.packing import Packed, PackError, Packing, equal_ends
from input_pipeline.manifest.segments import PACKED_KEYS
from input_pipeline.shards import source as shard_source
from input_pipeline.shards.format import parse_reference
from input_pipeline.storage import console, object_store
from input_pipeline.storage.disk_errors import advice
from input_pipeline.storage.paths import refuse_inputs, why_missing

SHARD_MB = 256.0
THREADS = 8
AHEAD_CLIPS, AHEAD_BYTES = 256, 256 << 20  # read at most, before they are written
SEGMENT_BYTES_S = 32_000  # a guess, as the size of a segment is not known before it is cut
MAX_NAMED = 5


@dataclass(frozen=True)
class PackOptions:
    """Shards to write: their number, or (0) their size; the name of the manifest ('': the old one); how it is read.

    ignore_keys: as for `manifest.read`. Raises PackError.
    """

    shards: int = 0
    shard_mb: float = SHARD_MB
    name: str = ""
    threads: int = THREADS
    ignore_keys: Sequence[str] = ()

    def __post_init__(self):
        """Raise PackError for numbers that are not above 0."""
        if self.shards < 0 or self.shard_mb <= 0 or self.threads < 1:
            raise PackError(
                f"--shards={self.shards}, --shard_mb={self.shard_mb:g}, --threads={self.threads}: give numbers above 0"
            )


def pack(path: str, output: str, **options: Any) -> Packed:
    """Pack a manifest into shards; options: fields of PackOptions.

    Raises PackError, ManifestError, ShardError, OSError, naming file and line of clips that cannot be read.
    """
    chosen = PackOptions(**options)
    name = chosen.name or os.path.basename(path).removesuffix(".jsonl")
    if "/" in name or not name:
        raise PackError(f"--name={name}: give a name without a folder; --output sets the folder")
    refuse_inputs([os.path.join(output, f"{name}.jsonl")], [path])
    utterances = manifest.read(path, need_text=False, ignore_keys=chosen.ignore_keys)
    with ThreadPoolExecutor(chosen.threads, "read") as pool:
        sizes, modified_ns = _measure(utterances, pool)
        shards = chosen.shards or min(len(sizes), math.ceil(sizes.sum() / (chosen.shard_mb * 1e6)))
        if shards > len(sizes):
            raise PackError(f"--shards={shards}: {path} has {len(sizes)} utterances; use as many shards at most")
        packing = Packing(output, name, equal_ends(sizes, shards), _digest(utterances, sizes, modified_ns, shards))

        lines, next_row = manifest.records(path), 0

        def records(first: int, end: int) -> Iterator[tuple[Mapping, bytes]]:
            nonlocal next_row  # shards are written in order: the lines are read once
            part, next_row = islice(lines, first - next_row, end - next_row), end
            contents = _contents(utterances, sizes, first, end, pool)
            for row, (line, audio) in enumerate(zip(part, contents, strict=True), start=first):
                yield _packed_line(line, utterances, row), audio

        return packing.run(records, int(sizes.sum()))


def _measure(utterances: Manifest, pool: ThreadPoolExecutor) -> tuple[np.ndarray, np.ndarray]:
    """Return size [N] int64 and time of modification [N] int64, in ns, of each clip. Raises PackError for missing clips."""

    def look(path: str) -> tuple[int, int, str]:
        reference = parse_reference(path)
        try:
            if reference is not None:
                return reference.size or 1, 0, ""
            if object_store.is_remote(path):
                return object_store.size_of(path), 0, ""
            stat = os.stat(path)
        except OSError as error:
            missing = isinstance(error, FileNotFoundError)
            return 0, 0, _describe_missing(path) if missing else str(error.strerror or error)
        if os.path.isdir(path):
            return 0, 0, "is a folder"
        return stat.st_size, stat.st_mtime_ns, "" if stat.st_size else "is empty"

    looks = pool.map(look, utterances.audio)
    measured = list(tqdm(looks, total=len(utterances), desc="check audio", unit=" clips", delay=2.0, leave=False))
    bad = [(row, problem) for row, (_, _, problem) in enumerate(measured) if problem]
    if bad:
        named = "\n".join(f"  {utterances.where(row)} {problem}" for row, problem in bad[:MAX_NAMED])
        rest = f"\n  and {len(bad) - MAX_NAMED} more" if len(bad) > MAX_NAMED else ""
        raise PackError(
            f"{len(bad)} of {len(utterances)} clips cannot be packed:\n{named}{rest}\n"
            "Correct the manifest: python -m input_pipeline.manifest check FILE --output=CLEANED"
        )
    file_sizes, modified_ns, _ = zip(*measured, strict=True)
    parts = np.maximum(1, np.fmin(file_sizes, np.ceil(utterances.duration * SEGMENT_BYTES_S)))
    sizes = np.where(np.isnan(utterances.offset), file_sizes, parts)
    return sizes.astype(np.int64), np.array(modified_ns, np.int64)


def _packed_line(line: Mapping, utterances: Manifest, row: int) -> dict:
    """Return a row's line for its record, which is cut out: what it was cut out of stands under keys of its own."""
    if isinstance(utterances.clips[row], Segment):
        line = {PACKED_KEYS.get(key, key): value for key, value in line.items()}
    return {**line, "audio_filepath": utterances.original_path(row)}


def _describe_missing(path: str) -> str:
    reason = "" if object_store.is_remote(path) else why_missing(path)
    return f"does not exist: {reason}" if reason else "does not exist"


def _digest(utterances: Manifest, sizes: np.ndarray, modified_ns: np.ndarray, shards: int) -> str:
    """Return a digest of what is packed and how, without reading the audio."""
    digest = hashlib.sha256(f"{utterances.digest()} {shards}".encode())
    digest.update(sizes.astype("<i8").tobytes() + modified_ns.astype("<i8").tobytes())
    return digest.hexdigest()


def _contents(
    utterances: Manifest, sizes: np.ndarray, first: int, end: int, pool: ThreadPoolExecutor
) -> Iterator[bytes]:
    """Yield the audio of rows first <= row < end in order, read ahead by the pool's threads. Raises PackError."""
    waiting: collections.deque[tuple[int, Future[bytes]]] = collections.deque()
    ahead, row = 0, first
    while row < end or waiting:
        if row < end and len(waiting) < AHEAD_CLIPS and (not waiting or ahead + sizes[row] <= AHEAD_BYTES):
            waiting.append((row, pool.submit(_content, utterances.clips[row])))
            ahead += int(sizes[row])
            row += 1
            continue
        done, future = waiting.popleft()
        try:
            content = future.result()
        except (OSError, ValueError) as error:
            raise PackError(f"{utterances.where(done)} cannot be read: {error}") from error
        ahead -= int(sizes[done])
        yield content


def _content(clip: Source) -> bytes:
    if isinstance(clip, Segment):
        return cut(clip)
    source = shard_source.resolve(str(clip))
    return Path(source).read_bytes() if isinstance(source, str) else source.getvalue()


@console.command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m input_pipeline.pack", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "manifest",
        help="manifest to pack; its audio may be files, records of shards, or objects in a store",
    )
    parser.add_argument("--output", required=True, help="folder, or s3://bucket/prefix, gs://bucket/prefix")
    parser.add_argument("--shards", type=int, default=0, help="number of shards (default: as --shard_mb requires)")
    parser.add_argument("--shard_mb", type=float, default=SHARD_MB, help=f"size of a shard (default: {SHARD_MB:g} MB)")
    parser.add_argument("--name", default="", help="of the manifest and shards written (default: that of the manifest)")
    parser.add_argument("--threads", type=int, default=THREADS, help=f"threads that read audio (default: {THREADS})")
    parser.add_argument("--ignore_keys", default="", help="comma-separated keys of rows that mean no part of a file")
    a = parser.parse_args(argv)
    start = time.perf_counter()
    try:
        options = {"shards": a.shards, "shard_mb": a.shard_mb, "name": a.name, "threads": a.threads}
        done = pack(a.manifest, a.output, **options, ignore_keys=manifest.parse_ignored(a.ignore_keys))
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: {error}{advice(error, '--output')}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted; run the same command again to resume", file=sys.stderr)
        return 130
    seconds = time.perf_counter() - start
    if done.existing == done.shards:
        print(f"{done.manifest} is packed already: {done.records:,} utterances in {done.shards} shards")
        return 0
    earlier = f", {done.existing} of which existed already" if done.existing else ""
    print(
        f"{done.manifest}: {done.records:,} utterances, {done.bytes / 1e6:,.1f} MB in {done.shards} shards{earlier} "
        f"({seconds:.1f} s, {done.bytes / 1e6 / seconds:,.0f} MB/s)"
    )
    return 0
