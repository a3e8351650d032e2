"""AN4 (Carnegie Mellon University, 1991): spelled names, numbers and commands, 16 kHz, under an hour of speech.

Free for any use under a BSD-like licence. Test is the official test set; dev consists of eight speakers of the official
training set.
"""

import argparse
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import soundfile
from tqdm import tqdm

from input_pipeline import audio, manifest
from input_pipeline.corpora import assemble, next_step
from input_pipeline.corpora.assemble import Archive, CorpusError, Preparation, Prepared

ARCHIVE = Archive("http://www.speech.cs.cmu.edu/databases/an4/an4_sphere.tar.gz")
MARKER = "etc/an4_train.fileids"
OFFICIAL_UTTERANCES = {"train": 948, "test": 130}
DEV_SPEAKERS = frozenset({"ffmm", "fjmd", "mcsc", "mdcs", "mema", "mrab", "mrjc2", "msct"})
RECIPE = "configs/an4.py"

# `<s> ERASE C Q Q F SEVEN </s> (an407-fcaw-b)`, with or without the sentence marks
TRANSCRIPT = re.compile(r"(?:<s>\s+)?(?P<text>.*?)\s*(?:</s>)?\s*\((?P<utterance>[^()\s]+)\)")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the corpus's options to a command line."""
    assemble.add_arguments(parser, "an4", ARCHIVE.name, ARCHIVE.url)


def prepare(args: argparse.Namespace) -> Prepared:
    """Fetch, unpack, check and convert AN4; write the manifests."""
    preparation = Preparation.from_args(args)
    root = preparation.obtain(ARCHIVE, MARKER)
    splits = convert(root, preparation.folder, preparation.workers)
    return Prepared(splits, next_step.train(RECIPE, preparation.folder))


def convert(source: Path, folder: Path, workers: int) -> dict[str, list[dict]]:
    """Convert an unpacked distribution into FLAC files and three manifests; return the manifests' records."""
    root = assemble.find_root(source, MARKER)
    if root is None:
        raise CorpusError(f"{source}: contains no {MARKER}, so it is not {ARCHIVE.name}: check the path")
    splits: dict[str, list[dict]] = {"train": [], "dev": [], "test": []}
    for official, expected in OFFICIAL_UTTERANCES.items():
        wanted = _read_part(root, official, expected)
        for record in _convert_all(root, folder, wanted, workers, official):
            held_out = official == "train" and record["speaker"] in DEV_SPEAKERS
            splits["dev" if held_out else official].append(record)
    for name, records in splits.items():
        if not records:
            raise CorpusError(f"{root}: no recordings for {name}.jsonl: fetch the archive again")
    for name, records in splits.items():
        manifest.write(folder / f"{name}.jsonl", records)
    return splits


def _read_part(root: Path, official: str, expected: int) -> dict[str, str]:
    """Return the texts of an official part by path below wav/, without utterances that lack text or audio."""
    texts = read_transcripts(root / "etc" / f"an4_{official}.transcription")
    paths = [line for line in _read_lines(root / "etc" / f"an4_{official}.fileids") if line]
    listed = {Path(path).name for path in paths}
    audio = {path for path in paths if _sphere_file(root, path).is_file()}
    print(f"  {official}: {len(texts)} transcripts and {len(audio)} audio files, officially {expected}")
    assemble.report_skipped("transcript not in the list of files", sorted(set(texts) - listed))
    assemble.report_skipped("no transcript", [path for path in paths if Path(path).name not in texts])
    assemble.report_skipped("no audio file", [path for path in paths if path not in audio])
    return {path: texts[Path(path).name] for path in paths if path in audio and Path(path).name in texts}


def _sphere_file(root: Path, path: str) -> Path:
    return root / "wav" / f"{path}.sph"


def read_transcripts(path: Path) -> dict[str, str]:
    """Return the lower-case texts of a transcription file by utterance id."""
    texts: dict[str, str] = {}
    contradictory = set()
    for number, line in enumerate(_read_lines(path), start=1):
        if not line:
            continue
        match = TRANSCRIPT.fullmatch(line)
        if match is None:
            raise CorpusError(
                f"{path}:{number}: {line!r} is not of the form `<s> TEXT </s> (utterance)`: correct or remove the line"
            )
        text = " ".join(match["text"].lower().split())
        if texts.setdefault(match["utterance"], text) != text:
            contradictory.add(match["utterance"])
    assemble.report_skipped("several different transcripts", sorted(contradictory))
    return {utterance: text for utterance, text in texts.items() if utterance not in contradictory}


def _read_lines(path: Path) -> list[str]:
    return [line.strip() for line in assemble.read_text(path).split("\n")]


def _convert_all(root: Path, folder: Path, wanted: Mapping[str, str], workers: int, official: str) -> list[dict]:
    """Convert the audio of a part in threads (libsndfile releases Python's lock); return records in file order."""

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
    assemble.report_skipped("unreadable", [result for result in results if isinstance(result, str)])
    return [result for result in results if isinstance(result, dict)]


def _convert_file(sphere: Path, folder: Path, text: str) -> dict | str:
    """Convert a SPHERE file to FLAC without loss; return its record, or a message with the reason why it has none."""
    try:
        audio.info(sphere)
        samples, rate = soundfile.read(sphere, dtype="int16")
    except (audio.AudioError, soundfile.LibsndfileError) as error:
        return str(error)
    speaker = sphere.parent.name
    relative = f"audio/{speaker}/{sphere.stem}.flac"
    audio.write_flac(folder / relative, samples, rate)
    return {
        "audio_filepath": relative,
        "duration": round(len(samples) / rate, 3),
        "text": text,
        "speaker": speaker,
        "sample_rate": rate,
    }
