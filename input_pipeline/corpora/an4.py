"""AN4 (Carnegie Mellon University, 1991): spelled names, numbers and commands, 16 kHz, under an hour of speech.

Free for any use under a BSD-like licence. Test is the official one; dev is eight speakers of the official training set.
"""

import argparse
import io
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import soundfile
from tqdm import tqdm

from input_pipeline import manifest
from input_pipeline.corpora import download

URL = "http://www.speech.cs.cmu.edu/databases/an4/an4_sphere.tar.gz"
ARCHIVE = "an4_sphere.tar.gz"
OFFICIAL_UTTERANCES = {"train": 948, "test": 130}
DEV_SPEAKERS = frozenset({"ffmm", "fjmd", "mcsc", "mdcs", "mema", "mrab", "mrjc2", "msct"})
NAMED_AT_MOST = 10  # utterances in one message

# `<s> ERASE C Q Q F SEVEN </s> (an407-fcaw-b)`, with or without the marks of start and end
TRANSCRIPT = re.compile(r"(?:<s>\s+)?(?P<text>.*?)\s*(?:</s>)?\s*\((?P<utterance>[^()\s]+)\)")


class An4Error(ValueError):
    """The AN4 distribution is not laid out as expected."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the corpus's options to a command line."""
    parser.add_argument("--target_dir", default="data/an4", help="folder to write (default: data/an4)")
    parser.add_argument("--url", default=URL, help=f"where {ARCHIVE} is fetched (default: {URL})")
    parser.add_argument("--source", help=f"folder with {ARCHIVE}, or with its content, to use instead of fetching it")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="threads (default: all cores)")


def prepare(args: argparse.Namespace) -> tuple[Path, dict[str, list[dict]]]:
    """Fetch, unpack, check and convert AN4; return its folder and the manifest records of each split."""
    if args.workers < 1:
        raise An4Error(f"--workers={args.workers}: must be 1 or more; choose another value")
    folder = Path(args.target_dir)
    unpacked = folder / "unpacked"
    if args.source is not None and _find_root(Path(args.source)) is not None:
        return folder, convert(Path(args.source), folder, args.workers)
    if args.source is not None:
        archive = Path(args.source) / ARCHIVE
        if not archive.is_file():
            raise An4Error(f"--source={args.source}: holds neither {ARCHIVE} nor its folders etc and wav; check it")
    else:
        archive = download.fetch(args.url, folder / ARCHIVE)
    if unpacked.exists():
        shutil.rmtree(unpacked)  # of a run that was killed
    download.extract(archive, unpacked)
    try:
        return folder, convert(unpacked, folder, args.workers)
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)


def convert(source: Path, folder: Path, workers: int) -> dict[str, list[dict]]:
    """Convert an unpacked distribution into FLAC files and three manifests; return the manifests' records."""
    root = _find_root(source)
    if root is None:
        raise An4Error(f"{source}: no etc/an4_train.fileids in it or one folder below; this is not {ARCHIVE}")
    print(f"no digest of {ARCHIVE} is published; its structure is checked instead:")
    splits: dict[str, list[dict]] = {"train": [], "dev": [], "test": []}
    for official, expected in OFFICIAL_UTTERANCES.items():
        wanted = _read_part(root, official, expected)
        for record in _convert_all(root, folder, wanted, workers, official):
            held_out = official == "train" and record["speaker"] in DEV_SPEAKERS
            splits["dev" if held_out else official].append(record)
    for name, records in splits.items():
        if not records:
            raise An4Error(f"{root}: nothing is left for {name}.jsonl; fetch the archive again")
    for name, records in splits.items():
        manifest.write(folder / f"{name}.jsonl", records)
    return splits


def _find_root(source: Path) -> Path | None:
    """Find the folder that holds etc/ and wav/: the source itself or one below it."""
    if not source.is_dir():
        return None
    for folder in (source, *sorted(path for path in source.iterdir() if path.is_dir())):
        if (folder / "etc" / "an4_train.fileids").is_file():
            return folder
    return None


def _read_part(root: Path, official: str, expected: int) -> dict[str, str]:
    """Read which utterances an official part has: text by path below wav/, without those that lack text or audio."""
    texts = read_transcripts(root / "etc" / f"an4_{official}.transcription")
    paths = [line for line in _read_lines(root / "etc" / f"an4_{official}.fileids") if line]
    listed = {Path(path).name for path in paths}
    audio = {path for path in paths if _sphere_file(root, path).is_file()}
    print(f"  {official}: {len(texts)} transcripts and {len(audio)} audio files, officially {expected}")
    _name_skipped("have a transcript but are not in the list of files", sorted(set(texts) - listed))
    _name_skipped("have no transcript", [path for path in paths if Path(path).name not in texts])
    _name_skipped("have no audio file", [path for path in paths if path not in audio])
    return {path: texts[Path(path).name] for path in paths if path in audio and Path(path).name in texts}


def _sphere_file(root: Path, path: str) -> Path:
    return root / "wav" / f"{path}.sph"


def _name_skipped(what: str, names: Sequence[str]) -> None:
    if names:
        more = f" and {len(names) - NAMED_AT_MOST} more" if len(names) > NAMED_AT_MOST else ""
        print(f"  skipped, as they {what}: {len(names)}: {', '.join(names[:NAMED_AT_MOST])}{more}")


def read_transcripts(path: Path) -> dict[str, str]:
    """Read a transcription file into lower-case text by utterance id."""
    texts = {}
    for number, line in enumerate(_read_lines(path), start=1):
        if not line:
            continue
        match = TRANSCRIPT.fullmatch(line)
        if match is None:
            raise An4Error(f"{path}:{number}: {line!r} is not `<s> TEXT </s> (utterance)`; mend or remove the line")
        texts[match["utterance"]] = " ".join(match["text"].lower().split())
    return texts


def _read_lines(path: Path) -> list[str]:
    if not path.is_file():
        raise An4Error(f"{path} is missing; this is not the whole of {ARCHIVE}: fetch it again")
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise An4Error(f"{path} is not text ({error}); fetch the archive again") from error


def _convert_all(root: Path, folder: Path, wanted: Mapping[str, str], workers: int, official: str) -> list[dict]:
    """Convert the audio of one part in threads (libsndfile lets go of Python's lock); return records in file order."""

    def convert_one(path: str) -> dict | str:
        return _convert_file(_sphere_file(root, path), folder, wanted[path])

    for speaker in {Path(path).parent.name for path in wanted}:
        (folder / "audio" / speaker).mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(workers) as threads:
        try:
            done = threads.map(convert_one, wanted)
            results = list(tqdm(done, total=len(wanted), desc=f"convert {official}", unit=" files"))
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise
    _name_skipped("cannot be read", [result for result in results if isinstance(result, str)])
    return [result for result in results if isinstance(result, dict)]


def _convert_file(sphere: Path, folder: Path, text: str) -> dict | str:
    """Re-encode one SPHERE file as FLAC, sample for sample; return its record, or the file and why it has none."""
    try:
        samples, rate = soundfile.read(sphere, dtype="int16")
    except soundfile.LibsndfileError as error:
        return f"{sphere.name} ({error.error_string})"
    if len(samples) == 0:
        return f"{sphere.name} (no samples)"
    encoded = io.BytesIO()  # written by Python, whose errors name the file and the reason
    soundfile.write(encoded, samples, rate, subtype="PCM_16", format="FLAC")
    speaker = sphere.parent.name
    relative = f"audio/{speaker}/{sphere.stem}.flac"
    (folder / relative).write_bytes(encoded.getbuffer())
    return {
        "audio_filepath": relative,
        "duration": round(len(samples) / rate, 3),
        "text": text,
        "speaker": speaker,
        "sample_rate": rate,
    }
