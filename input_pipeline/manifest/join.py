"""Join short clips of a speaker into longer utterances: `python -m input_pipeline.join MANIFEST --output=...`.

    python -m input_pipeline.join data/words/train.jsonl --output=data_joined/words/train.jsonl --per=1..6 --language=zh

Writes FLAC files and their manifest. Each of `--copies` passes uses each clip once, joined to other clips; the seed
decides which clips are joined, and the pauses between them.
"""

import argparse
import itertools
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from input_pipeline import audio, manifest
from input_pipeline.audio.reader import FLAC_HIGHEST_HZ
from input_pipeline.cores import usable_cores
from input_pipeline.storage import console
from input_pipeline.storage.paths import refuse_inputs
from input_pipeline.text import is_spaced, language_code, normalise

LOWEST_PAUSE_DB = -80.0  # of full scale; a microphone never records digital silence
LEVEL_WINDOW_S = 0.02


class JoinError(ValueError):
    """Clips that cannot be joined with these options."""


@dataclass(frozen=True)
class Limits:
    """Limits of an utterance: clips, seconds in total, and seconds of the pauses. Raises JoinError."""

    fewest: int = 1
    most: int = 6
    longest_s: float = 20.0
    shortest_pause_s: float = 0.1
    longest_pause_s: float = 0.4

    def __post_init__(self):
        """Raise JoinError for limits that contradict each other."""
        if not 1 <= self.fewest <= self.most:
            raise JoinError(f"--per={self.fewest}..{self.most}: clips per utterance must satisfy 1 <= fewest <= most")
        if not 0 <= self.shortest_pause_s <= self.longest_pause_s:
            raise JoinError(
                f"--pause_s={self.shortest_pause_s:g}..{self.longest_pause_s:g}: must satisfy 0 <= shortest <= longest"
            )
        if not self.longest_s > 0:
            raise JoinError(f"--max_s={self.longest_s:g}: must be above 0")


@dataclass(frozen=True)
class JoinSettings:
    """How groups of clips become utterances."""

    limits: Limits
    language: str = "en"  # of the texts, which are joined with spaces unless it is written without
    sample_rate_hz: int = 16000  # of the files written
    seed: int = 0  # of the pauses

    def __post_init__(self):
        """Raise JoinError for values that cannot be used."""
        if not 1 <= self.sample_rate_hz <= FLAC_HIGHEST_HZ:
            raise JoinError(f"--sample_rate_hz={self.sample_rate_hz}: FLAC allows 1 to {FLAC_HIGHEST_HZ}")
        if self.seed < 0:
            raise JoinError(f"--seed={self.seed}: must be 0 or more")


def plan_groups(clips: manifest.Manifest, limits: Limits, seed: int, copy: int = 0) -> list[list[int]]:
    """Divide the rows of a manifest into groups to join: each row once, never rows of several speakers.

    The rows of a speaker are shuffled and divided into groups of U{fewest..most}, or smaller ones if they would otherwise
    exceed the longest utterance, including pauses. The last group of a speaker may be smaller, too.
    """
    rng = np.random.default_rng([seed, copy])
    by_speaker: dict[str, list[int]] = {}
    for row in range(len(clips)):
        by_speaker.setdefault(clips.speaker(row), []).append(row)
    groups = []
    for rows in by_speaker.values():
        rest = [int(row) for row in rng.permutation(rows)]
        while rest:
            size = int(rng.integers(limits.fewest, limits.most + 1))
            total_s = np.cumsum(clips.duration[rest[:size]] + limits.longest_pause_s) - limits.longest_pause_s
            size = max(1, int((total_s <= limits.longest_s).sum()))
            groups.append(rest[:size])
            rest = rest[size:]
    return groups


def join_samples(
    parts: Sequence[np.ndarray], sample_rate_hz: int, limits: Limits, rng: np.random.Generator
) -> np.ndarray:
    """Concatenate clips [N] float32, with pauses of U(shortest, longest) seconds between them.

    A pause is white noise at the level of the quietest 20 ms of all clips, but at least -80 dB of full scale.
    """
    level = max(10 ** (LOWEST_PAUSE_DB / 20), min(quietest_rms(part, sample_rate_hz) for part in parts))
    joined = [parts[0]]
    for part in parts[1:]:
        length = int(rng.uniform(limits.shortest_pause_s, limits.longest_pause_s) * sample_rate_hz)
        joined += [rng.standard_normal(length, dtype=np.float32) * np.float32(level), part]
    return np.concatenate(joined)


def quietest_rms(samples: np.ndarray, sample_rate_hz: int) -> float:
    """Return the least RMS of the windows of 20 ms of samples [N]; of less than one window, the RMS of all."""
    window = int(LEVEL_WINDOW_S * sample_rate_hz)
    windows = (
        samples[: len(samples) // window * window].reshape(-1, window) if len(samples) >= window else samples[None]
    )
    return float(np.sqrt(np.square(windows).mean(axis=1).min()))


def join_texts(texts: Sequence[str], language: str) -> str:
    """Join transcripts, with spaces between them if the language has spaces."""
    return normalise((" " if is_spaced(language) else "").join(texts), language)


def write_joined(
    clips: manifest.Manifest,
    groups: Sequence[Sequence[int]],
    output: Path,
    settings: JoinSettings,
    workers: int = 2,
) -> list[dict]:
    """Write each group's FLAC file, into a folder named like `output` without suffix, then the manifest `output`.

    Returns the records of the manifest. Raises AudioError, OSError.
    """
    rate_hz = settings.sample_rate_hz
    folder = output.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)

    def write_one(index: int) -> dict:
        rows = groups[index]
        parts = [audio.read(clips.clips[row], rate_hz)[0] for row in rows]
        samples = join_samples(parts, rate_hz, settings.limits, np.random.default_rng([settings.seed, index]))
        path = folder / f"{index:06d}.flac"
        audio.write_flac(path, samples, rate_hz)
        return {
            "audio_filepath": f"{folder.name}/{path.name}",
            "duration": round(len(samples) / rate_hz, 3),
            "text": join_texts([clips.text[row] for row in rows], settings.language),
            "speaker": clips.speaker(rows[0]),
            "sample_rate": rate_hz,
            "clips": [clips.name(row) for row in rows],
        }

    with ThreadPoolExecutor(workers) as threads:
        try:
            written = threads.map(write_one, range(len(groups)))
            records = list(tqdm(written, total=len(groups), desc="join", unit=" utterances", delay=2))
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise
    manifest.write(output, records)
    return records


def _parse_range(text: str, number: type) -> tuple:
    """Read `2..5`, or `3` for 3..3."""
    first, dots, last = text.partition("..")
    try:
        return number(first), number(last if dots else first)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor a range such as 1..6") from error


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m input_pipeline.join", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "manifest",
        help="manifest of the clips; only clips of the same `speaker` are joined, or any if none is named",
    )
    parser.add_argument("--output", required=True, type=Path, help="manifest to write; the audio goes beside it")
    parser.add_argument(
        "--per",
        default="1..6",
        type=lambda text: _parse_range(text, int),
        help="clips per utterance (default: %(default)s)",
    )
    parser.add_argument(
        "--max_s", default=20.0, type=float, help="longest utterance, in seconds (default: %(default)s)"
    )
    parser.add_argument(
        "--pause_s",
        default="0.1..0.4",
        type=lambda text: _parse_range(text, float),
        help="seconds between clips (default: %(default)s)",
    )
    parser.add_argument(
        "--copies",
        default=1,
        type=int,
        help="how often each clip is used, joined to other clips each time (default: 1)",
    )
    parser.add_argument(
        "--language", default="en", type=language_code, help="how texts are joined (default: %(default)s)"
    )
    parser.add_argument("--sample_rate_hz", default=16000, type=int, help="of the files written (default: %(default)s)")
    parser.add_argument("--ignore_keys", default="", help="comma-separated keys of rows that mean no part of a file")
    parser.add_argument("--seed", default=0, type=int, help="of groups and pauses (default: 0)")
    parser.add_argument("--workers", default=usable_cores(), type=int, help="threads (default: all cores)")
    return parser


@console.command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = make_parser()
    args = parser.parse_args(argv)
    try:
        refuse_inputs([str(args.output)], [args.manifest])
        (fewest, most), (shortest_pause_s, longest_pause_s) = args.per, args.pause_s
        limits = Limits(fewest, most, args.max_s, shortest_pause_s, longest_pause_s)
        settings = JoinSettings(limits, args.language, args.sample_rate_hz, args.seed)
        if min(args.copies, args.workers) < 1:
            raise JoinError("--copies and --workers must be 1 or more")
        if not args.output.suffix:
            raise JoinError(f"--output={args.output}: name a manifest to write, such as joined/train.jsonl")
        clips = manifest.read(args.manifest, ignore_keys=manifest.parse_ignored(args.ignore_keys))
        if args.output.with_suffix("").resolve() in {Path(clip).parent.resolve() for clip in clips.audio}:
            raise JoinError(
                f"--output={args.output} would write audio among the clips themselves; name another manifest"
            )
        groups = [plan_groups(clips, limits, args.seed, copy) for copy in range(args.copies)]
        records = write_joined(clips, list(itertools.chain(*groups)), args.output, settings, args.workers)
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted; run the same command again", file=sys.stderr)
        return 130
    minutes = sum(record["duration"] for record in records) / 60
    print(f"{args.output}: {len(records)} utterances from {len(clips)} clips, {minutes:.1f} minutes")
    return 0
