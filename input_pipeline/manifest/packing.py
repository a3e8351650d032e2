"""Pack clips into shards with their manifest and index, in a folder or an object store; go on where an earlier run ended.

Each finished shard leaves `.SHARD.packed` beside it (for a store: in a folder of this machine) until all are done: its
index entry and its lines of the manifest. The manifest is written last: where it stands, everything is whole.
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

Records = Callable[[int, int], Iterator[tuple[Mapping, bytes]]]  # from a row to another -> lines and audio


class PackError(ValueError):
    """A corpus that cannot be packed as asked; the message says why."""


class Packed(NamedTuple):
    """What was done."""

    manifest: str
    records: int
    bytes: int
    shards: int
    already: int  # shards that were there


@dataclass(frozen=True)
class Packing:
    """Shards of one corpus, to be written.

    ends [shards]: the row behind the last of each. source: a digest of what is packed, by which an earlier run is known.
    """

    output: str  # folder, or address in a store
    name: str
    ends: Sequence[int]
    source: str

    def run(self, records: Records, total_bytes: int | None = None) -> Packed:
        """Write what is not there yet. Raises PackError, OSError; what is finished stays for the next run.

        Another process of this machine that packs the same is waited for.
        """
        object_store.check_address(self.output)
        if object_store.is_remote(self.output) and not self.output.partition("://")[2].strip("/"):
            raise PackError(f"--output={self.output}: name a bucket, s3://bucket/prefix")
        if packed := self._packed():
            return packed
        work = self._work_folder()
        with exclusive(work / f"{self.name}.jsonl"):
            packed = self._packed() or self._write(records, total_bytes, work)  # by whoever was waited for
        if object_store.is_remote(self.output):
            with contextlib.suppress(OSError):  # something of another packing lies there, or the cache has shards
                for folder in (work, work.parent, work.parent.parent):
                    folder.rmdir()
        return packed

    def _packed(self) -> Packed | None:
        """Return what is there, None unless it is all. Raises PackError where something else has the name."""
        if not self._is_packed(self._manifest):
            return None
        entries = json.loads(self._read(self._index))["shards"].values()
        return Packed(self._manifest, self.ends[-1], sum(e["bytes"] for e in entries), len(entries), len(entries))

    def _write(self, records: Records, total_bytes: int | None, work: Path) -> Packed:
        """Write the shards that are not there, and of their notes the manifest."""
        for path in (*work.glob(f".{self.name}-*.tmp"), *work.glob(f"..{self.name}-*.tmp")):
            path.unlink()  # of a run that was killed: the lock keeps others out
        self._check_space(work, total_bytes)
        notes = [work / f".{self._shard(number)}.packed" for number in range(len(self.ends))]
        done = [self._is_done(note, self._shard(number)) for number, note in enumerate(notes)]
        bar = tqdm(total=total_bytes, desc=f"pack {self.name}", unit="B", unit_scale=True, delay=2.0)
        with bar, ThreadPoolExecutor(1, "finish") as behind:  # a shard is verified while the next one is written
            finishing: Future | None = None
            for number, note in enumerate(notes):
                if done[number]:
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
                    finishing = behind.submit(self._finish, stack.pop_all(), writer, lines, note)
            if finishing is not None:
                finishing.result()
        infos = self._write_manifest(notes, work)
        return Packed(self._manifest, self.ends[-1], sum(i.bytes for i in infos), len(infos), sum(done))

    @property
    def _manifest(self) -> str:
        return object_store.join(self.output, f"{self.name}.jsonl")

    @property
    def _index(self) -> str:
        return object_store.join(self.output, f"{self.name}.shards.json")

    def _shard(self, number: int) -> str:
        return shard_name(self.name, number, len(self.ends))

    def _work_folder(self) -> Path:
        """Return a folder of this machine: the output, or for a store one that the same command finds again."""
        if not object_store.is_remote(self.output):
            return Path(self.output)
        place = hashlib.sha256(object_store.join(self.output, self.name).encode()).hexdigest()[:16]
        return ShardCache.from_environment().folder / "packing" / place

    def _is_packed(self, manifest: str) -> bool:
        """Tell whether all is there already. Raises PackError where something else has the name."""
        if not _exists(manifest) and not _exists(self._index):
            return False
        with contextlib.suppress(ValueError, KeyError, OSError):
            index = json.loads(self._read(self._index))
            if index["source"] == self.source and _exists(manifest):
                sizes = {name: entry["bytes"] for name, entry in index["shards"].items()}
                return all(_size(object_store.join(self.output, name)) == size for name, size in sizes.items())
        if not _exists(manifest):
            return False  # the index of a run that was stopped at its very end
        raise PackError(
            f"{manifest} is there already, and not packed from the same audio in the same way; remove it and its shards, or "
            "choose another --output or --name"
        )

    @staticmethod
    def _read(path: str) -> bytes:
        return object_store.read(path) if object_store.is_remote(path) else Path(path).read_bytes()

    def _check_space(self, work: Path, total_bytes: int | None) -> None:
        """Refuse what would fill the disk, before hours of work; a store needs room for two shards here."""
        needed = (total_bytes or 0) * (2 / len(self.ends) if object_store.is_remote(self.output) else 1)
        have = sum(path.stat().st_size for path in work.glob(f"{self.name}-*") if path.is_file())
        free = shutil.disk_usage(work).free
        if needed > free + have:
            raise PackError(
                f"{work} has {free / 1e9:.2f} GB free, the shards need {needed / 1e9:.2f} GB; free some space"
            )

    def _is_done(self, note: Path, shard: str) -> bool:
        """Tell whether an earlier run of the same packing has finished a shard."""
        try:
            info, source, _ = _read_note(note)
        except (OSError, ValueError, KeyError):
            return False
        place = object_store.join(self.output, shard)
        return source == self.source and _size(place) == info.bytes

    def _finish(self, stack: contextlib.ExitStack, writer: ShardWriter, lines: list[Mapping], note: Path) -> None:
        """Verify and name a shard, upload it where it belongs, and note that it is done."""
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
        """Join the notes to the index and the manifest, which comes last."""
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
    """Cut rows of these sizes [N] into runs of about the same bytes, none empty; return the row behind each's last."""
    total, number = np.cumsum(sizes), np.arange(1, shards + 1)
    ends = np.searchsorted(total * shards, total[-1] * number) + 1
    ends = np.maximum.accumulate(np.maximum(ends - number, 0)) + number  # each has a row
    return np.minimum(ends, len(sizes) - shards + number).tolist()  # and leaves one for each of those behind it


def _read_note(note: Path) -> tuple[ShardInfo, str, Iterator[dict]]:
    """Return a finished shard's index entry, what it was packed from, and its lines. Raises OSError, ValueError, KeyError."""

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
