"""Make a training manifest of the transcripts of which a model is sure, as `--mode=infer --output=new.jsonl` wrote them.

Relative paths are those of the transcription, from the folder in which it ran; absolute ones are written. Each line has the
text, its confidence and the part of the file, but no times of words.

Exit code: 0, or 2 if nothing can be selected.
"""

import argparse
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from input_pipeline import manifest
from input_pipeline.manifest.lines import ManifestError, numbered, parse_line, raw_lines
from input_pipeline.shards.format import ORIGINAL_KEY
from input_pipeline.storage.paths import refuse_inputs

KEPT = ("offset", "duration", "channel", ORIGINAL_KEY, "text", "confidence")
SHARES = (10, 25, 50, 75, 90)  # per cent of the utterances


class SelectionError(ValueError):
    """Nothing can be selected with these options."""


@dataclass(frozen=True)
class Thresholds:
    """What an utterance must reach. Raises SelectionError for values that cannot be used."""

    confidence: float
    word_confidence: float = 0.0  # of its least certain word
    shortest_s: float = 0.0
    longest_s: float = math.inf

    def __post_init__(self):
        """Raise SelectionError for probabilities beyond 0 to 1, and for durations in the wrong order."""
        for name in ("confidence", "word_confidence"):
            if not 0 <= getattr(self, name) <= 1:
                raise SelectionError(f"--min_{name}={getattr(self, name)}: must be from 0 to 1")
        if not 0 <= self.shortest_s <= self.longest_s:
            raise SelectionError("--min_duration and --max_duration must satisfy 0 <= shortest <= longest")

    def refusal(self, record: Mapping) -> str:
        """Return why a transcript is left out; '' for one that is selected."""
        if "error" in record:
            return "with an error"
        if record["audio_filepath"] == "-":
            return "of standard input"
        if record.get("remarks"):
            return "of a file with something wrong"
        if not record["text"].strip():
            return "without text"
        if record["confidence"] < self.confidence:
            return f"of a confidence below {self.confidence:g}"
        if min((word["confidence"] for word in record.get("words", ())), default=1) < self.word_confidence:
            return f"with a word of a confidence below {self.word_confidence:g}"
        if not self.shortest_s <= record["duration"] <= self.longest_s:
            return "too short or too long"
        return ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `select` to a command line."""
    add = parser.add_argument
    add("transcripts", help="JSON lines that --mode=infer wrote")
    add("--output", required=True, help="manifest to write")
    add("--min_confidence", type=float, required=True, help="least confidence of an utterance, from 0 to 1")
    add("--min_word_confidence", type=float, default=0.0, help="the same of each of its words (default: 0)")
    add("--min_duration", type=float, default=0.0, help="shortest clip in seconds (default: 0)")
    add("--max_duration", type=float, default=math.inf, help="longest clip in seconds (default: no limit)")


def run(args: argparse.Namespace) -> int:
    """Write the manifest, print what it holds and what was left out, and return the exit code."""
    thresholds = Thresholds(args.min_confidence, args.min_word_confidence, args.min_duration, args.max_duration)
    refuse_inputs([args.output], [args.transcripts])
    given = list(read_transcripts(args.transcripts))
    refusals = [thresholds.refusal(record) for record in given]
    selected = [record for record, refusal in zip(given, refusals, strict=True) if not refusal]
    transcribed = [record for record in given if "error" not in record]
    if transcribed:
        print(describe_confidences([record["confidence"] for record in transcribed]))
    counts = Counter(filter(None, refusals)).most_common()
    left_out = "; left out: " + ", ".join(f"{count:,} {why}" for why, count in counts) if counts else ""
    if not selected:
        raise SelectionError(f"{args.transcripts}: no utterance is selected, so {args.output} is not written{left_out}")
    manifest.write(args.output, map(_training_record, selected))
    minutes, of_minutes = (sum(one["duration"] for one in records) / 60 for records in (selected, transcribed))
    counted = f"{len(selected):,} of {len(given):,} utterances, {minutes:,.1f} of {of_minutes:,.1f} minutes"
    print(f"{args.output}: {counted}{left_out}")
    return 0


def read_transcripts(path: str) -> Iterator[dict]:
    """Yield the lines that --mode=infer wrote. Raises ManifestError, also for lines of another kind."""
    for number, raw in numbered(raw_lines(path)):
        record = parse_line(raw, f"{path}:{number}")
        if "turns" in record:
            raise ManifestError(
                f"{path}:{number} is a conversation of several channels; transcribe with --config.infer.channels=mix, or a "
                'manifest that names a "channel"'
            )
        numbers = [record.get(key) for key in ("confidence", "duration")]
        known = isinstance(record.get("text"), str) and all(isinstance(value, int | float) for value in numbers)
        if not known and "error" not in record:
            raise ManifestError(
                f"{path}:{number} is no transcript with a text, a confidence and a duration; write them with: python main.py "
                "--mode=infer --config.restore=MODEL --config.data.test=MANIFEST --output=new.jsonl"
            )
        yield record


def describe_confidences(confidences: list[float]) -> str:
    """Return a sentence on how confidences are distributed, from which to choose the least one."""
    quantiles = zip(SHARES, np.percentile(confidences, SHARES), strict=True)
    listed = ", ".join(f"{share} % below {value:.3f}" for share, value in quantiles)
    return f"confidence of {len(confidences):,} utterances: {listed}"


def _training_record(record: Mapping) -> dict:
    path = manifest.absolute_path(record["audio_filepath"])
    return {"audio_filepath": path} | {key: record[key] for key in KEPT if key in record}
