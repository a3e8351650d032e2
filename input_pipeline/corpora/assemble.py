"""Common steps of all corpora: fetch and unpack archives, match recordings with transcripts, read headers, write manifests.

A corpus module only describes its archives, their layout and its rule for texts.
"""

import argparse
import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

from tqdm import tqdm

from input_pipeline import audio, manifest
from input_pipeline.cores import usable_cores
from input_pipeline.storage import download
from input_pipeline.storage.archive import ArchiveError, DamagedArchiveError, contains, extract
from input_pipeline.text import ScoringRules, is_spaced, language_code, spell_numbers

MAX_LISTED = 10  # names in one message
TOLERANCE_S = 0.05  # by which a segment may end after its file: lists are rounded
CHUNK = 64  # headers that a thread reads per task
DEPTH = 2  # levels below a source at which its content is searched
ADVICE_EMPTY = (
    "check what was skipped above; if nothing was, the corpus is incomplete: fetch or copy it again, or exclude the part "
    "if there is an option for it (--help)"
)
ARCHIVE_ENDINGS = (".tar.gz", ".tar.bz2", ".tar.xz", ".tgz", ".tar", ".zip")

Value = TypeVar("Value")


class CorpusError(ValueError):
    """A corpus that is incomplete or not laid out as published, or invalid options."""


@dataclass(frozen=True)
class Archive:
    """A published file, with its digests and size if they are known."""

    url: str
    md5: str | None = None
    sha256: str | None = None
    size: int | None = None
    file: str = ""  # its name, if the address does not end in it

    @property
    def name(self) -> str:
        return self.file or self.url.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The name without its ending, used for the folder it is unpacked into."""
        return next((self.name.removesuffix(end) for end in ARCHIVE_ENDINGS if self.name.endswith(end)), self.name)

    @property
    def has_digest(self) -> bool:
        return self.md5 is not None or self.sha256 is not None


class Recording(NamedTuple):
    """An audio file, or a part of one, with its text and speaker; noise and impulse responses have neither."""

    audio: str | Path
    text: str = ""
    speaker: str = ""
    offset: float = 0.0  # s, where it starts
    duration: float | None = None  # s; None: to the end of the file
    channel: int | None = None  # from 0, of a file with several


class Prepared(NamedTuple):
    """A prepared corpus: manifest records by split, and the command to run (or the step to take) next."""

    splits: dict[str, list[dict]]
    next_step: str


@dataclass(frozen=True)
class Preparation:
    """One preparation of a corpus: its source, its target folder and its options."""

    folder: Path  # target of manifests, archives and unpacked content
    source: Path | None = None  # local archives or unpacked content
    url: str | None = None  # alternative address: of the archive, or of its folder
    remove_archives: bool = False
    workers: int = field(default_factory=usable_cores)

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> "Preparation":
        """Build it from the arguments that `add_arguments` adds. Raises CorpusError."""
        if args.workers < 1:
            raise CorpusError(f"--workers={args.workers}: use 1 or more")
        source = None if args.source is None else Path(args.source)
        if source is not None and source.is_file():
            raise CorpusError(f"--source={source} is a file: name the folder that contains it")
        if source is not None and not source.is_dir():
            raise CorpusError(f"--source={source}: no such folder: check the path")
        return cls(Path(args.target_dir), source, args.url, args.remove_archives, args.workers)

    def obtain(self, archive: Archive, marker: str) -> Path:
        """Return the folder that contains `marker`: in the source, or unpacked once from a local or fetched archive."""
        if self.source is not None and (root := find_root(self.source, marker)) is not None:
            print(f"{root}: already unpacked, used in place")
            return root
        unpacked = self.unpacked(archive)
        if unpacked.is_dir():
            print(f"{unpacked}: already unpacked; remove the folder to unpack {archive.name} again")
            self._remove(self.folder / archive.name)
        else:
            packed = self._get_archive(archive, marker)
            if not archive.has_digest:
                print(f"no digest of {archive.name} is known; its structure is checked instead")
                self._check_structure(packed, archive, marker)
            self.unpack(packed, unpacked)
        root = find_root(unpacked, marker)
        if root is None:
            raise CorpusError(f"{unpacked} has no {marker}: remove the folder and run the same command again")
        return root

    def _check_structure(self, packed: Path, archive: Archive, marker: str) -> None:
        with self._damaged_removed(packed):
            if contains(packed, marker):
                return
        if self.source is None:
            packed.unlink(missing_ok=True)  # so that the next run fetches it again
        raise CorpusError(f"{packed} is not {archive.name} as published: it has no {marker}: check the address")

    def unpack(self, packed: Path, folder: Path, *, quiet: bool = False) -> None:
        """Unpack an archive; if it was fetched, then remove it if requested, or if it is damaged."""
        with self._damaged_removed(packed):
            extract(packed, folder, quiet=quiet)
        self._remove(packed)

    @contextlib.contextmanager
    def _damaged_removed(self, packed: Path) -> Iterator[None]:
        """Remove a fetched archive that turns out to be damaged, so that the next run fetches it again."""
        try:
            yield
        except DamagedArchiveError as error:
            if self.source is not None:
                raise
            packed.unlink(missing_ok=True)
            raise ArchiveError(f"{error.fault} and was removed: run the same command again") from error

    def _remove(self, packed: Path) -> None:
        """Remove a fetched archive if requested."""
        if self.remove_archives and self.source is None and packed.exists():
            packed.unlink()
            print(f"{packed}: unpacked and removed")

    def unpacked(self, archive: Archive) -> Path:
        """Return the folder that an archive is unpacked into."""
        return self.folder / archive.stem

    def _get_archive(self, archive: Archive, marker: str) -> Path:
        """Return a verified archive, from the source or fetched."""
        if self.source is not None:
            packed = self.source / archive.name
            if not packed.is_file():
                raise CorpusError(
                    f"--source={self.source}: contains neither {archive.name} nor {marker}: check the path"
                )
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
        """Read all headers, then write a manifest for each split; return their records.

        official: published number of utterances by split; a difference is reported. Raises CorpusError, without writing
        any manifest, if a split has no usable recording.
        """
        self._refuse_empty(splits)  # before reading the headers of the others
        records = {name: self.scan(recordings, name) for name, recordings in splits.items()}
        self.write_records(records, official)
        return records

    def write_records(self, splits: Mapping[str, Sequence[dict]], official: Mapping[str, int] | None = None) -> None:
        """Write the manifests of records from `scan`, like `write`."""
        self._refuse_empty(splits)
        compare_counts(splits, official or {})
        for name, records in splits.items():
            manifest.write(self.folder / f"{name}.jsonl", records)

    def _refuse_empty(self, splits: Mapping[str, Sequence]) -> None:
        for name, recordings in splits.items():
            if not recordings:
                raise CorpusError(f"no recordings for {self.folder / name}.jsonl: {ADVICE_EMPTY}")

    def scan(self, recordings: Sequence[Recording], what: str) -> list[dict]:
        """Read the headers of recordings in threads; return manifest records in order, without unreadable recordings."""
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
        report_skipped("unreadable", [result for result in results if isinstance(result, str)])
        return [result for result in results if isinstance(result, dict)]


def _read_header(recording: Recording, prefix: str) -> dict | str:
    """Return the manifest record of an audio file, or a message with the reason why it has none.

    Paths below `prefix`, the corpus's folder, are relative to it, others absolute.
    """
    path = os.path.abspath(recording.audio)
    try:
        path.encode()
        header = audio.info(path)
    except UnicodeEncodeError:
        return f"{path!a} (the name is not UTF-8: rename it)"
    except audio.AudioError as error:
        return str(error)
    left = header.duration_s - recording.offset
    duration = left if recording.duration is None else recording.duration
    if recording.offset < 0 or duration <= 0 or duration > left + TOLERANCE_S:
        return f"{path} (lasts {header.duration_s:.2f} s: {duration:.2f} s from {recording.offset:.2f} s are not in it)"
    if recording.channel is not None and not 0 <= recording.channel < header.channels:
        return f"{path} (has {header.channels} channels, not number {recording.channel})"
    record = {
        "audio_filepath": path.removeprefix(prefix).replace(os.sep, "/"),
        "duration": max(round(min(duration, left), 3), 0.001),
        "text": recording.text,
    }
    if recording.offset or duration < header.duration_s - TOLERANCE_S:
        record["offset"] = round(recording.offset, 3)
    if recording.channel is not None and header.channels > 1:
        record["channel"] = recording.channel
    if recording.speaker:
        record["speaker"] = recording.speaker
    record["sample_rate"] = header.sample_rate_hz
    if header.channels > 1:
        record["channels"] = header.channels
    return record


def add_arguments(parser: argparse.ArgumentParser, corpus: str, archives: str, url: str | None = None) -> None:
    """Add the options common to all corpora and, if a corpus can be fetched from `url`, those of fetched corpora.

    archives: description of the possible content of a source, for the help.
    """
    parser.add_argument("--target_dir", default=f"data/{corpus}", help=f"folder to write (default: data/{corpus})")
    parser.add_argument("--workers", type=int, default=usable_cores(), help="number of threads (default: all cores)")
    if url is None:
        parser.add_argument("--source", required=True, help=f"folder with {archives}")
        parser.set_defaults(url=None, remove_archives=False)
        return
    parser.add_argument("--source", help=f"folder with {archives}, packed or unpacked, to use instead of fetching")
    parser.add_argument("--url", help=f"address to fetch from: of the file, or of its folder (default: {url})")
    parser.add_argument("--remove_archives", action="store_true", help="remove fetched archives after unpacking")


def find_root(folder: Path, marker: str) -> Path | None:
    """Return the nearest folder with a file or folder `marker`: this one, or one at most DEPTH levels below."""
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
    """List all files below a folder with one of these endings (in any case), sorted, except hidden ones.

    Returns [] if the folder does not exist. Raises CorpusError naming a folder that cannot be read.
    """
    paths = []
    visited = set()  # links are followed, but each folder is only visited once
    walk = os.walk(folder, onerror=_refuse_unreadable, followlinks=True)
    for parent, folders, files in tqdm(walk, desc=f"list {folder}", unit=" folders", delay=download.BAR_DELAY_S):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in visited:
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        matching = (name for name in sorted(files) if name.lower().endswith(endings) and not name.startswith("."))
        paths += [os.path.join(parent, name) for name in matching]
    return paths


def _refuse_unreadable(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise CorpusError(
            f"{error.filename}: cannot be read ({error.strerror}): make it readable, or move it out of the corpus"
        ) from error


def file_id(path: str | Path) -> str:
    """Return the name of a file without folder and ending."""
    return os.path.splitext(os.path.basename(path))[0]


def read_text(path: str | Path, errors: str = "strict") -> str:
    """Read a UTF-8 text file of a corpus. Raises CorpusError naming it."""
    try:
        return Path(path).read_text(encoding="utf-8-sig", errors=errors)
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise CorpusError(
            f"{path}:{line}: not UTF-8 text ({error.reason}): convert it to UTF-8 (iconv -f latin1 -t utf-8, if it is "
            "Latin-1), or fetch it again"
        ) from error
    except FileNotFoundError as error:
        raise CorpusError(f"{path} is missing, so the corpus is incomplete: fetch it again") from error


def read_keyed(path: str | Path, errors: str = "strict") -> Iterator[tuple[str, str]]:
    """Yield (key, text) from lines of `key text`, separated by white space; the text may be empty; skip blank lines."""
    for line in read_text(path, errors).split("\n"):
        if parts := line.split(maxsplit=1):
            yield parts[0], parts[1].strip() if len(parts) > 1 else ""


def match(
    transcripts: Iterable[tuple[str, str]],
    files: Iterable[str | Path],
    speaker: Callable[[str], str],
    key: Callable[[str | Path], str] = file_id,
) -> list[Recording]:
    """Match transcripts (id, text) with audio files by id, in the order of the files; report unmatched ones.

    An id with several different texts or several files is skipped, because the right one is unknown.
    """
    texts, contradictory = _unique(transcripts)
    audio_files, ambiguous = _unique((key(path), path) for path in files)
    report_skipped("several different transcripts", contradictory)
    report_skipped("several audio files with this name", ambiguous)
    report_skipped("transcript without audio file", sorted(texts.keys() - audio_files.keys() - set(ambiguous)))
    report_skipped("audio file without transcript", sorted(audio_files.keys() - texts.keys() - set(contradictory)))
    both = [name for name in audio_files if name in texts]
    report_skipped("empty transcript", [name for name in both if not texts[name]])
    return [Recording(audio_files[name], texts[name], speaker(name)) for name in both if texts[name]]


def _unique(pairs: Iterable[tuple[str, Value]]) -> tuple[dict[str, Value], list[str]]:
    """Return the values of keys with a single value, and the other keys, sorted."""
    first: dict[str, Value] = {}
    different = {key for key, value in pairs if first.setdefault(key, value) != value}
    return {key: value for key, value in first.items() if key not in different}, sorted(different)


def add_text_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options for texts that are not from a corpus with known rules: those of `text_rule`."""
    text = "plain: lower case without punctuation; as_is: unchanged (default: as_is)"
    parser.add_argument("--text", choices=("plain", "as_is"), default="as_is", help=text)
    text = "language of the texts, for --text=plain, --spell_numbers and training: en, tr, zh, ... (default: en)"
    parser.add_argument("--language", type=language_code, help=text)
    parser.add_argument("--spell_numbers", action="store_true", help="write numbers as words of the language")


def text_rule(name: str, language: str, *, spell: bool = False) -> Callable[[str], str]:
    """Return the rule for texts of a `--text` option: `plain` (lower case without punctuation) or `as_is`.

    language: whose case, spaces and punctuation. spell: write numbers as words of the language. Raises ValueError.
    """
    plain = ScoringRules(remove_spaces=not is_spaced(language), language=language).apply
    rule = plain if name == "plain" else lambda text: " ".join(text.split())
    if not spell:
        return rule
    spell_numbers("1", language)  # fails at once if it cannot be done
    return lambda text: rule(spell_numbers(text, language))


def compare_counts(splits: Mapping[str, Sequence], official: Mapping[str, int]) -> None:
    """Report splits whose number of utterances differs from the published one."""
    for name, recordings in splits.items():
        if len(recordings) != official.get(name, len(recordings)):
            print(f"  {name}: {len(recordings):,} utterances, officially {official[name]:,}")


def parse_choice(text: str, known: Iterable[str], option: str) -> list[str]:
    """Return the chosen names of a comma-separated option, in the order of `known`. Raises CorpusError."""
    known = list(known)
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise CorpusError(f"{option}={text}: {', '.join(unknown) or 'nothing'} is not one of {', '.join(known)}")
    return [name for name in known if name in names]


def report_skipped(reason: str, names: Sequence[str]) -> None:
    """Print how many recordings are skipped for a reason, and the first of them."""
    if names:
        more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
        print(f"  skipped {len(names)} ({reason}): {', '.join(names[:MAX_LISTED])}{more}")
