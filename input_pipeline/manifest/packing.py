"""Pack clips into shards with their manifest and index, in a folder or an object store; resume an interrupted run.

Until all shards are finished, each finished one has a note `.SHARD.packed` (beside it; for a store, in a local folder)
with its index entry and its lines of the manifest. The manifest is written last: where it exists, all shards do.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from input_pipeline import manifest as manifests
from input_pipeline.shards.cache import ShardCache
from input_pipeline.shards.format import ORIGINAL_KEY, ShardInfo, shard_name
from input_pipeline.shards.writer import ShardWriter
from input_pipeline.storage import object_store
from input_pipeline.storage.lock import exclusive

Records = Callable[[int, int], Iterator[tuple[Mapping, bytes]]]  # first row, end row -> lines and audio


class PackError(ValueError):
    """A corpus that cannot be packed with these options; the message says why."""


class Packed(NamedTuple):
    """A packed corpus."""

    manifest: str
    records: int
    bytes: int
    shards: int
    existing: int  # shards of an earlier run


@dataclass(frozen=True)
class Packing:
    """The shards of a corpus, to be written.

    ends [shards]: one past the last row of each. source: a digest of what is packed, which identifies an earlier run.
    """

    output: str  # folder, or address in a store
    name: str
    ends: Sequence[int]
    source: str

    def run(self, records: Records, total_bytes: int | None = None) -> Packed:
        """Write the shards that do not exist yet. Raises PackError, OSError; finished shards are kept for the next run.

        A process of this machine that packs the same corpus is waited for.
        """
        object_store.check_address(self.output)
        if object_store.is_remote(self.output) and not self.output.partition("://")[2].strip("/"):
            raise PackError(f"--output={self.output}: name a bucket, s3://bucket/prefix")
        if packed := self._packed():
            return packed
        work = self._work_folder()
        with exclusive(work / f"{self.name}.jsonl"):
            packed = self._packed() or self._write(records, total_bytes, work)  # packed by the process before
        if object_store.is_remote(self.output):
            with contextlib.suppress(OSError):  # another packing uses them, or the cache has shards
                for folder in (work, work.parent, work.parent.parent):
                    folder.rmdir()
        return packed

    def _packed(self) -> Packed | None:
        """Return the corpus if it is packed completely, else None. Raises PackError if another one has its name."""
        if not self._is_packed(self._manifest):
            return None
        entries = json.loads(self._read(self._index))["shards"].values()
        return Packed(self._manifest, self.ends[-1], sum(e["bytes"] for e in entries), len(entries), len(entries))

    def _write(self, records: Records, total_bytes: int | None, work: Path) -> Packed:
        """Write the missing shards, then index and manifest."""
        for path in (*work.glob(f".{self.name}-*.tmp"), *work.glob(f"..{self.name}-*.tmp")):
            path.unlink()  # left by a run that was killed; other runs are kept out by the lock
        self._check_space(work, total_bytes)
        notes = [work / f".{self._shard(number)}.packed" for number in range(len(self.ends))]
        finished = [self._is_finished(note, self._shard(number)) for number, note in enumerate(notes)]
        bar = tqdm(total=total_bytes, desc=f"pack {self.name}", unit="B", unit_scale=True, delay=2.0)
        with bar, ThreadPoolExecutor(1, "finish") as thread:  # a shard is verified while the next one is written
            finishing: Future | None = None
            for number, note in enumerate(notes):
                if finished[number]:
                    continue
                first = self.ends[number - 1] if number else 0
                with contextlib.ExitStack() as stack:
                    writer = stack.enter_context(ShardWriter(work / self._shard(number)))
                    lines = []
                    for line, audio in records(first, self.ends[number]):
                        writer.write(line, audio)
                        lines.append(line)
                        bar.update(len(audio))
                    if finishing is not None:
                        finishing.result()
                    finishing = thread.submit(self._finish, stack.pop_all(), writer, lines, note)
            if finishing is not None:
                finishing.result()
        infos = self._write_manifest(notes, work)
        return Packed(self._manifest, self.ends[-1], sum(i.bytes for i in infos), len(infos), sum(finished))

    @property
    def _manifest(self) -> str:
        return object_store.join(self.output, f"{self.name}.jsonl")

    @property
    def _index(self) -> str:
        return object_store.join(self.output, f"{self.name}.shards.json")

    def _shard(self, number: int) -> str:
        return shard_name(self.name, number, len(self.ends))

    def _work_folder(self) -> Path:
        """Return the local folder to write to: the output, or for a store, one that depends only on its address."""
        if not object_store.is_remote(self.output):
            return Path(self.output)
        key = hashlib.sha256(object_store.join(self.output, self.name).encode()).hexdigest()[:16]
        return ShardCache.from_environment().folder / "packing" / key

    def _is_packed(self, manifest: str) -> bool:
        """Tell whether manifest, index and all shards exist. Raises PackError if another corpus has the name."""
        if not _exists(manifest) and not _exists(self._index):
            return False
        with contextlib.suppress(ValueError, KeyError, OSError):
            index = json.loads(self._read(self._index))
            if index["source"] == self.source and _exists(manifest):
                sizes = {name: entry["bytes"] for name, entry in index["shards"].items()}
                return all(_size(object_store.join(self.output, name)) == size for name, size in sizes.items())
        if not _exists(manifest):
            return False  # a run that was stopped before it wrote the manifest
        raise PackError(
            f"{manifest} exists already, packed from other audio or with other options; remove it and its shards, or choose "
            "another --output or --name"
        )

    @staticmethod
    def _read(path: str) -> bytes:
        return object_store.read(path) if object_store.is_remote(path) else Path(path).read_bytes()

    def _check_space(self, work: Path, total_bytes: int | None) -> None:
        """Raise PackError before the work if the disk has too little room; for a store, two shards need room here."""
        needed = (total_bytes or 0) * (2 / len(self.ends) if object_store.is_remote(self.output) else 1)
        existing = sum(path.stat().st_size for path in work.glob(f"{self.name}-*") if path.is_file())
        free = shutil.disk_usage(work).free
        if needed > free + existing:
            raise PackError(
                f"{work} has {free / 1e9:.2f} GB free, the shards need {needed / 1e9:.2f} GB; free some space"
            )

    def _is_finished(self, note: Path, shard: str) -> bool:
        """Tell whether an earlier run has finished a shard."""
        try:
            info, source, _ = _read_note(note)
        except (OSError, ValueError, KeyError):
            return False
        return source == self.source and _size(object_store.join(self.output, shard)) == info.bytes

    def _finish(self, stack: contextlib.ExitStack, writer: ShardWriter, lines: list[Mapping], note: Path) -> None:
        """Verify and rename a shard, upload it if the output is a store, and write its note."""
        with stack:
            info, ranges = writer.finish()
        if object_store.is_remote(self.output):
            object_store.upload(writer.path, object_store.join(self.output, writer.path.name))
            writer.path.unlink()
        described = [
            {
                **line,
                "audio_filepath": f"{writer.path.name}#{number}:{begin}+{size}",
                ORIGINAL_KEY: line.get(ORIGINAL_KEY, line["audio_filepath"]),
            }
            for number, (line, (begin, size)) in enumerate(zip(lines, ranges, strict=True))
        ]
        manifests.write(note, [{"source": self.source, **info._asdict()}, *described])

    def _write_manifest(self, notes: Sequence[Path], work: Path) -> list[ShardInfo]:
        """Write the index and then the manifest from the notes."""
        infos = {self._shard(number): _read_note(note)[0] for number, note in enumerate(notes)}
        index, manifest = work / f"{self.name}.shards.json", work / f"{self.name}.jsonl"
        entries = {name: info._asdict() for name, info in infos.items()}
        manifests.write(index, [{"source": self.source, "shards": entries}])
        manifests.write(manifest, (line for note in notes for line in _read_note(note)[2]))
        if object_store.is_remote(self.output):
            for path in (index, manifest):
                object_store.upload(path, object_store.join(self.output, path.name))
                path.unlink()
        for note in notes:
            note.unlink()
        return list(infos.values())


def equal_ends(sizes: np.ndarray, shards: int) -> list[int]:
    """Divide rows of these sizes [N] into shards of about equal size, none empty; return one past the last row of each."""
    total, number = np.cumsum(sizes), np.arange(1, shards + 1)
    ends = np.searchsorted(total * shards, total[-1] * number) + 1
    ends = np.maximum.accumulate(np.maximum(ends - number, 0)) + number  # at least one row each
    return np.minimum(ends, len(sizes) - shards + number).tolist()  # and one left for each later shard


def _read_note(note: Path) -> tuple[ShardInfo, str, Iterator[dict]]:
    """Return index entry, source and manifest lines of a finished shard. Raises OSError, ValueError, KeyError."""

    def lines() -> Iterator[dict]:
        with open(note, "rb") as file:
            next(file)
            yield from map(json.loads, file)

    with open(note, "rb") as file:
        head = json.loads(file.readline())
    return ShardInfo(head["bytes"], head["sha256"], head["records"]), head["source"], lines()


def _exists(path: str) -> bool:
    return object_store.exists(path) if object_store.is_remote(path) else os.path.exists(path)


def _size(path: str) -> int | None:
    try:
        return object_store.size_of(path) if object_store.is_remote(path) else os.path.getsize(path)
    except FileNotFoundError:
        return None
    except object_store.Missing:
        return None
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
