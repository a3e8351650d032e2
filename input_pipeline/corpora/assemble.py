"""What every corpus needs: its archives brought here, recordings joined with transcripts, headers read, manifests written.

A corpus module says where its archives are, how they are laid out and which text rule holds; the work is done here.
"""

import argparse
import contextlib
import csv
import io
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

from tqdm import tqdm

from input_pipeline import audio, manifest
from input_pipeline.cores import usable_cores
from input_pipeline.storage import download
from input_pipeline.storage.archive import ArchiveError, DamagedArchiveError, extract
from input_pipeline.text import ScoringRules

NAMED_AT_MOST = 10  # files in one message
CHUNK = 64  # headers that a thread reads before it comes back
DEPTH = 2  # how far below a source its content is looked for
WHY_NOTHING = (
    "what was skipped is named above; if nothing was, this is not the whole corpus: fetch or copy it again, or leave the "
    "part out where there is an option for it (--help)"
)
MEND_QUOTES = "mend the quotes, put each text into one line, or save the table parted by tabs"
ARCHIVE_ENDINGS = (".tar.gz", ".tar.bz2", ".tar.xz", ".tgz", ".tar", ".zip")

Value = TypeVar("Value")


class CorpusError(ValueError):
    """A corpus that is not laid out as published, or lacks what makes it usable."""


@dataclass(frozen=True)
class Archive:
    """A published file and what it is verified by."""

    url: str
    md5: str | None = None
    sha256: str | None = None
    size: int | None = None
    file: str = ""  # its name, where the address does not end in it

    @property
    def name(self) -> str:
        return self.file or self.url.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The name without its ending: the folder it is unpacked into."""
        return next((self.name.removesuffix(end) for end in ARCHIVE_ENDINGS if self.name.endswith(end)), self.name)

    @property
    def has_digest(self) -> bool:
        return self.md5 is not None or self.sha256 is not None


class Recording(NamedTuple):
    """An audio file and what a corpus says of it; noise and impulse responses have neither text nor speaker."""

    audio: str | Path
    text: str = ""
    speaker: str = ""


class Prepared(NamedTuple):
    """What a corpus module hands back: manifest records by split, and the line to run (or the words to read) next."""

    splits: dict[str, list[dict]]
    next_step: str


@dataclass(frozen=True)
class Place:
    """Where a corpus comes from and where it goes."""

    folder: Path  # manifests, archives and what is unpacked
    source: Path | None = None  # archives or unpacked content that are here already
    url: str | None = None  # another address: of the archive, or of the folder it is in
    remove_archives: bool = False
    workers: int = field(default_factory=usable_cores)

    @classmethod
    def of(cls, args: argparse.Namespace) -> "Place":
        """Take the arguments that `add_arguments` adds."""
        if args.workers < 1:
            raise CorpusError(f"--workers={args.workers}: must be 1 or more; choose another value")
        source = None if args.source is None else Path(args.source)
        if source is not None and not source.is_dir():
            raise CorpusError(f"--source={source}: there is no such folder; check the path")
        return cls(Path(args.target_dir), source, args.url, args.remove_archives, args.workers)

    def obtain(self, archive: Archive, marker: str) -> Path:
        """Return the folder that holds `marker`: in the source, or unpacked (once) from an archive found or fetched."""
        if self.source is not None and (root := find_root(self.source, marker)) is not None:
            print(f"{root}: unpacked already, used where it is")
            return root
        unpacked = self.unpacked(archive)
        if unpacked.is_dir():
            print(f"{unpacked}: unpacked already; remove the folder to unpack {archive.name} anew")
            self._remove(self.folder / archive.name)
        else:
            packed = self._bring(archive, marker)
            self.unpack(packed, unpacked)
            if find_root(unpacked, marker) is None:
                shutil.rmtree(unpacked)
                if self.source is None:
                    packed.unlink(missing_ok=True)  # another look at it would end the same
                raise CorpusError(f"{packed} is not {archive.name} as published: no {marker} in it; check the address")
            if not archive.has_digest:
                print(f"no digest of {archive.name} is known; its structure is checked instead")
        root = find_root(unpacked, marker)
        if root is None:
            raise CorpusError(f"{unpacked} holds no {marker}: remove the folder and run the same line again")
        return root

    def unpack(self, packed: Path, folder: Path, *, quiet: bool = False) -> None:
        """Unpack an archive; one that was fetched goes then if that was asked for, or if it turns out damaged."""
        try:
            extract(packed, folder, quiet=quiet)
        except DamagedArchiveError as error:
            if self.source is not None:
                raise
            packed.unlink(missing_ok=True)
            raise ArchiveError(f"{error.fault} and was removed; run the same line again") from error
        self._remove(packed)

    def _remove(self, packed: Path) -> None:
        """Remove an archive that was fetched, if that was asked for."""
        if self.remove_archives and self.source is None and packed.exists():
            packed.unlink()
            print(f"{packed}: unpacked, and removed")

    def unpacked(self, archive: Archive) -> Path:
        """Return the folder that an archive is unpacked into."""
        return self.folder / archive.stem

    def _bring(self, archive: Archive, marker: str) -> Path:
        """Return an archive, verified: the source's, or fetched."""
        if self.source is not None:
            packed = self.source / archive.name
            if not packed.is_file():
                raise CorpusError(f"--source={self.source}: holds neither {archive.name} nor {marker}; check it")
            download.verify(packed, md5=archive.md5, sha256=archive.sha256, size=archive.size)
            return packed
        url = archive.url
        if self.url is not None:
            url = self.url if self.url.endswith(archive.name) else f"{self.url.rstrip('/')}/{archive.name}"
        target = self.folder / archive.name
        return download.fetch(url, target, md5=archive.md5, sha256=archive.sha256, size=archive.size)

    def write(
        self, splits: Mapping[str, Sequence[Recording]], official: Mapping[str, int] | None = None
    ) -> dict[str, list[dict]]:
        """Read all headers, then write one manifest a split; return their records.

        `official` has the published number of utterances by split; another number is said. Raises CorpusError where
        nothing is left of a split, and writes none then.
        """
        self._refuse_empty(splits)  # before the headers of the others are read
        written = {name: self.scan(recordings, name) for name, recordings in splits.items()}
        self.write_records(written, official)
        return written

    def write_records(self, splits: Mapping[str, Sequence[dict]], official: Mapping[str, int] | None = None) -> None:
        """Write the manifests of records that `scan` returned, as `write` does."""
        self._refuse_empty(splits)
        compare_counts(splits, official or {})
        for name, records in splits.items():
            manifest.write(self.folder / f"{name}.jsonl", records)

    def _refuse_empty(self, splits: Mapping[str, Sequence]) -> None:
        for name, found in splits.items():
            if not found:
                raise CorpusError(f"nothing is left for {self.folder / name}.jsonl; {WHY_NOTHING}")

    def scan(self, recordings: Sequence[Recording], what: str) -> list[dict]:
        """Read the headers of recordings in threads; return manifest records in order, without those unreadable."""
        prefix = os.path.join(os.path.abspath(self.folder), "")
        chunks = [recordings[start : start + CHUNK] for start in range(0, len(recordings), CHUNK)]
        results: list[dict | str] = []
        bar = tqdm(total=len(recordings), desc=f"scan {what}", unit=" files", delay=download.BAR_DELAY_S)
        with bar, ThreadPoolExecutor(self.workers) as threads:
            try:
                for part in threads.map(lambda chunk: [_read_header(one, prefix) for one in chunk], chunks):
                    results += part
                    bar.update(len(part))
            except BaseException:
                threads.shutdown(cancel_futures=True)
                raise
        name_skipped("cannot be read", [result for result in results if isinstance(result, str)])
        return [result for result in results if isinstance(result, dict)]


def _read_header(recording: Recording, prefix: str) -> dict | str:
    """Return the manifest record of one audio file, or the file and why it has none.

    Paths below `prefix`, the corpus's folder, are written relative to it, others in full.
    """
    path = os.path.abspath(recording.audio)
    try:
        path.encode()
        header = audio.info(path)
    except UnicodeEncodeError:
        return f"{path!a} (the name is not UTF-8; rename it)"
    except audio.AudioError as error:
        return str(error)
    record = {
        "audio_filepath": path.removeprefix(prefix).replace(os.sep, "/"),
        "duration": max(round(header.duration_s, 3), 0.001),
        "text": recording.text,
    }
    if recording.speaker:
        record["speaker"] = recording.speaker
    record["sample_rate"] = header.sample_rate_hz
    if header.channels > 1:
        record["channels"] = header.channels
    return record


def add_arguments(parser: argparse.ArgumentParser, corpus: str, archives: str, url: str | None = None) -> None:
    """Add the options of all corpora, and where `url` says from where one is fetched, those of fetched ones.

    `archives` names what a source may hold.
    """
    parser.add_argument("--target_dir", default=f"data/{corpus}", help=f"folder to write (default: data/{corpus})")
    parser.add_argument("--workers", type=int, default=usable_cores(), help="threads (default: all cores)")
    if url is None:
        parser.add_argument("--source", required=True, help=f"folder with {archives}")
        parser.set_defaults(url=None, remove_archives=False)
        return
    parser.add_argument("--source", help=f"folder with {archives}, packed or unpacked, to use instead of fetching")
    parser.add_argument("--url", help=f"fetch from there instead: a file, or the folder it is in (default: {url})")
    parser.add_argument("--remove_archives", action="store_true", help="remove fetched archives once unpacked")


def find_root(folder: Path, marker: str) -> Path | None:
    """Find the folder that holds a file or folder `marker`: this one or one up to DEPTH levels below, the nearest."""
    level = [folder]
    for _ in range(DEPTH + 1):
        for candidate in level:
            if (candidate / marker).exists():
                return candidate
        level = [Path(entry.path) for parent in level for entry in _folders(parent)]
    return None


def _folders(folder: Path) -> list[os.DirEntry]:
    with contextlib.suppress(PermissionError), os.scandir(folder) as entries:
        return sorted((entry for entry in entries if entry.is_dir()), key=lambda entry: entry.name)
    return []


def list_files(folder: Path, *endings: str) -> list[str]:
    """List all files below a folder that have one of these endings (of any case), sorted; hidden ones are not seen.

    A folder that does not exist holds none. Raises CorpusError naming one that cannot be read.
    """
    found = []
    seen = set()  # links are followed, but not round in circles
    walk = os.walk(folder, onerror=_refuse_unreadable, followlinks=True)
    for parent, folders, files in tqdm(walk, desc=f"list {folder}", unit=" folders", delay=download.BAR_DELAY_S):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        audible = (name for name in sorted(files) if name.lower().endswith(endings) and not name.startswith("."))
        found += [os.path.join(parent, name) for name in audible]
    return found


def _refuse_unreadable(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise CorpusError(
            f"{error.filename}: cannot be read ({error.strerror}); let it be read, or move it out of the corpus"
        ) from error


def file_id(path: str | Path) -> str:
    """Return a file's name without folder and ending."""
    return os.path.splitext(os.path.basename(path))[0]


def read_text(path: str | Path, errors: str = "strict") -> str:
    """Read a UTF-8 text file of a corpus; raises CorpusError that names it."""
    try:
        return Path(path).read_text(encoding="utf-8-sig", errors=errors)
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise CorpusError(
            f"{path}:{line}: is not UTF-8 text ({error.reason}); save it as UTF-8 (iconv -f latin1 -t utf-8, if it is "
            "Latin-1), or fetch it again"
        ) from error
    except FileNotFoundError as error:
        raise CorpusError(f"{path} is missing; this is not the whole corpus: fetch it again") from error


def read_keyed(path: str | Path, errors: str = "strict") -> Iterator[tuple[str, str]]:
    """Read lines of `key text`, parted by a space or a tab; the text may be empty, blank lines are nothing."""
    for line in read_text(path, errors).split("\n"):
        if parts := line.split(maxsplit=1):
            yield parts[0], parts[1].strip() if len(parts) > 1 else ""


def read_rows(path: str | Path, errors: str = "strict") -> Iterator[list[str]]:
    """Read the rows of a table, the header first; raises CorpusError that names file and line.

    Columns are parted by tabs, or by the one of , ; | most frequent in the header, or as Excel's line `sep=;` before it
    says. Between tabs or bars, quotes are marks of the text; a quoted field that goes over several lines is refused,
    since what opened it is mostly a quote that was forgotten.
    """
    content, first = read_text(path, errors), 1
    header, _, rest = content.partition("\n")
    if header.lower().startswith("sep=") and len(header) == len("sep=;"):
        delimiter, content, first = header[-1], rest, 2
    else:
        delimiter = "\t" if "\t" in header else max(",;|", key=header.count)
    quoting = csv.QUOTE_NONE if delimiter in "\t|" else csv.QUOTE_MINIMAL
    rows = csv.reader(io.StringIO(content), delimiter=delimiter, quoting=quoting, strict=True)  # type: ignore[arg-type]
    skipped = first - 1
    try:
        for row in rows:
            last = rows.line_num + skipped
            if last > first:
                raise CorpusError(f"{path}:{first}: a quote here is closed only in line {last}; {MEND_QUOTES}")
            yield row
            first = last + 1
    except csv.Error as error:
        raise CorpusError(f"{path}:{first}: {error}; {MEND_QUOTES}") from error


def match(
    transcripts: Iterable[tuple[str, str]],
    files: Iterable[str | Path],
    speaker: Callable[[str], str],
    key: Callable[[str | Path], str] = file_id,
) -> list[Recording]:
    """Join transcripts (id, text) with audio files by id, in the order of the files; name what has no counterpart.

    An id that stands twice with different texts, or has two files, is left out: which is right cannot be told.
    """
    texts, contradicting = _unique(transcripts)
    audio_files, doubled = _unique((key(path), path) for path in files)
    name_skipped("have several transcripts that differ", contradicting)
    name_skipped("have several audio files of one name", doubled)
    name_skipped("have a transcript but no audio file", sorted(texts.keys() - audio_files.keys() - set(doubled)))
    name_skipped("have an audio file but no transcript", sorted(audio_files.keys() - texts.keys() - set(contradicting)))
    both = [name for name in audio_files if name in texts]
    name_skipped("have an empty transcript", [name for name in both if not texts[name]])
    return [Recording(audio_files[name], texts[name], speaker(name)) for name in both if texts[name]]


def _unique(pairs: Iterable[tuple[str, Value]]) -> tuple[dict[str, Value], list[str]]:
    """Return what stands under each key, and the keys under which different values stand, which are left out of it."""
    found: dict[str, Value] = {}
    different = {key for key, value in pairs if found.setdefault(key, value) != value}
    return {key: value for key, value in found.items() if key not in different}, sorted(different)


def text_rule(name: str, *, spaces: bool = True) -> Callable[[str], str]:
    """Return the rule of a `--text` option: `plain` for lower-case words without punctuation, `as_is` for neither."""
    return ScoringRules(remove_spaces=not spaces).apply if name == "plain" else lambda text: " ".join(text.split())


def compare_counts(found: Mapping[str, Sequence], official: Mapping[str, int]) -> None:
    """Say where a split has another number of utterances than was published."""
    for name, recordings in found.items():
        if len(recordings) != official.get(name, len(recordings)):
            print(f"  {name}: {len(recordings):,} utterances, officially {official[name]:,}")


def choose(named: str, known: Iterable[str], option: str) -> list[str]:
    """Read a comma-separated choice, in the order of what is known. Raises CorpusError for other names and for none."""
    known = list(known)
    names = [name.strip() for name in named.split(",") if name.strip()]
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise CorpusError(f"{option}={named}: {', '.join(unknown) or 'nothing'} is not one of {', '.join(known)}")
    return [name for name in known if name in names]


def name_skipped(why: str, names: Sequence[str]) -> None:
    """Say how many recordings are left out and why, and name the first of them."""
    if names:
        more = f" and {len(names) - NAMED_AT_MOST} more" if len(names) > NAMED_AT_MOST else ""
        print(f"  skipped, as they {why}: {len(names)}: {', '.join(names[:NAMED_AT_MOST])}{more}")
