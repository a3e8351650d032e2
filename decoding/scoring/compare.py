"""Compare two models on the same utterances: error rates, and whether the difference is more than chance.

A paired bootstrap resamples utterances, the same ones for both models (Bisani and Ney 2004, section 3), and, where several
trainings of a model are given, these as well: a difference that other seeds would not show is no difference.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from decoding.scoring.error_rate import count_utterance
from input_pipeline.storage import console, json_line
from input_pipeline.text import ScoringRules, language_code

RESAMPLES = 10_000
MAX_DRAWN = 1 << 22  # weights of utterances in memory at a time
PLACE = ("audio_filepath", "offset", "channel", "reference")  # what two lines of the same utterance have in common
RATES = ("WER", "CER")


class ComparisonError(ValueError):
    """Transcripts that cannot be compared; the message names file and line."""


@dataclass(frozen=True)
class Errors:
    """Errors [R, N] of R trainings of a model in N utterances, and the lengths [N] of their references."""

    errors: np.ndarray
    lengths: np.ndarray

    @property
    def rates(self) -> np.ndarray:
        """Error rates [R] of the trainings."""
        return self.errors.sum(1) / self.lengths.sum()


@dataclass(frozen=True)
class Difference:
    """How a model differs from a base; intervals hold 95% of the resamples. change: of the rate; ratio: of the errors."""

    base: np.ndarray
    new: np.ndarray
    change: float
    change_interval: tuple[float, float]
    ratio: float
    ratio_interval: tuple[float, float]
    better: float  # share of the resamples in which the new model makes fewer errors

    def describe(self, name: str) -> list[str]:
        """Return lines for the terminal. name: of the rate."""
        low, high = (100 * bound for bound in self.change_interval)
        change = f"difference {100 * self.change:+.2f} points ({low:+.2f} to {high:+.2f})"
        ratio = f"{self.ratio:.2f} times the errors ({self.ratio_interval[0]:.2f} to {self.ratio_interval[1]:.2f})"
        return [
            f"{name}  base {_describe_rates(self.base)}, new {_describe_rates(self.new)}",
            f"     {change}, {ratio}; better in {100 * self.better:.1f}% of the resamples",
        ]


def _describe_rates(rates: np.ndarray) -> str:
    each = f" ({', '.join(f'{100 * rate:.2f}' for rate in rates)})" if len(rates) > 1 else ""
    return f"{100 * rates.mean():.2f}%{each}"


def compare(base: Errors, new: Errors, *, resamples: int = RESAMPLES, seed: int = 0) -> Difference:
    """Compare two models on the same utterances. Raises ComparisonError if all references are empty."""
    if not base.lengths.any():
        raise ComparisonError("all references are empty, so there is no error rate: evaluate on a manifest with text")
    rng = np.random.default_rng(seed)
    count = len(base.lengths)
    batch = max(1, MAX_DRAWN // count)
    drawn = []
    for start in tqdm(range(0, resamples, batch), desc="resample", delay=2.0, leave=False):
        size = min(batch, resamples - start)
        weights = rng.multinomial(count, np.full(count, 1 / count), size=size)  # [size, N]
        lengths = weights @ base.lengths
        sums = [_draw_trainings(rng, weights @ model.errors.T) for model in (base, new)]
        drawn.append(np.stack([*sums, lengths])[:, lengths > 0])
    base_sums, new_sums, lengths = np.concatenate(drawn, axis=1)
    change = (new_sums - base_sums) / lengths
    ratio = new_sums / np.maximum(base_sums, 1)
    base_rate, new_rate = base.rates.mean(), new.rates.mean()
    return Difference(
        base=base.rates,
        new=new.rates,
        change=new_rate - base_rate,
        change_interval=_interval(change),
        ratio=new_rate / base_rate if base_rate else float(new_rate > 0),
        ratio_interval=_interval(ratio),
        better=float(np.mean(new_sums < base_sums)),
    )


def _draw_trainings(rng: np.random.Generator, sums: np.ndarray) -> np.ndarray:
    """Return the mean errors [B] of trainings drawn for each resample. sums: errors [B, R] of all of them."""
    trainings = sums.shape[1]
    chosen = rng.integers(trainings, size=sums.shape)
    return np.take_along_axis(sums, chosen, axis=1).mean(1)


def _interval(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def read(path: str) -> list[dict]:
    """Read the transcripts of a manifest with texts that --mode=infer wrote. Raises ComparisonError, OSError."""
    records = []
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            where = f"{path}:{number}"
            try:
                record = json_line.decode(line)
            except ValueError as error:
                raise ComparisonError(f"{where} is not JSON ({error}): name a file of --mode=infer") from error
            if not (isinstance(record, dict) and isinstance(record.get("reference"), str)):
                raise ComparisonError(
                    f"{where} has no reference: transcribe a manifest with texts: python main.py --mode=infer "
                    "--config.restore=MODEL --config.data.test=MANIFEST --output=NAME.jsonl"
                )
            records.append(record)
    if not records:
        raise ComparisonError(f"{path} is empty: name a file of --mode=infer")
    return records


def align_rows(files: Sequence[str]) -> tuple[list[list[dict]], list[str]]:
    """Read files; return for each its records of the utterances that all have, and what was left out.

    Raises ComparisonError where they are not of the same manifest.
    """
    read_files = [read(path) for path in files]
    for path, records in zip(files[1:], read_files[1:], strict=True):
        for number, pair in enumerate(zip(read_files[0], records, strict=False), start=1):
            different = next((key for key in PLACE if pair[0].get(key) != pair[1].get(key)), "")
            if different:
                values = " and ".join(repr(record.get(different)) for record in pair)
                raise ComparisonError(
                    f"{files[0]} and {path} differ in line {number}: {different} is {values}: transcribe the same manifest"
                )
        if len(records) != len(read_files[0]):
            raise ComparisonError(
                f"{files[0]} has {len(read_files[0])} lines, {path} has {len(records)}: transcribe the same manifest"
            )
    failed = [{row for row, record in enumerate(records) if "text" not in record} for records in read_files]
    lost = set().union(*failed)
    remarks = [
        f"{len(rows)} utterances have no transcript in {path}" for rows, path in zip(failed, files, strict=True) if rows
    ]
    if len(lost) == len(read_files[0]):
        raise ComparisonError(f"no utterance has a transcript in all files: {'; '.join(remarks)}")
    kept = [[record for row, record in enumerate(records) if row not in lost] for records in read_files]
    return kept, remarks


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m decoding.compare", description=__doc__)
    parser.add_argument("base", help="transcripts, NAME.jsonl of --mode=infer; several trainings separated by commas")
    parser.add_argument("new", help="the same, of the model that may be better")
    parser.add_argument("--language", default="en", type=language_code, help="whose scoring rules apply (default en)")
    parser.add_argument("--json", action="store_true", help="print one JSON line instead")
    return parser


@console.command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, or 2 for what cannot be compared."""
    parser = make_parser()
    args = parser.parse_args(argv)
    rules = ScoringRules.for_language(args.language)
    given = [[path for path in part.split(",") if path] for part in (args.base, args.new)]
    try:
        if not all(given):
            raise ComparisonError("name the files of both models")
        rows, remarks = align_rows([*given[0], *given[1]])
        models = rows[: len(given[0])], rows[len(given[0]) :]
        differences = {}
        for kind, name in enumerate(RATES):
            if kind == 0 and rules.remove_spaces:
                continue  # words are not separated
            pair = [_errors(runs, rules, kind) for runs in models]
            differences[name] = compare(*pair)
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    for remark in remarks:
        print(f"warning: {remark}, and are left out", file=sys.stderr)
    if args.json:
        print(json.dumps({"utterances": len(rows[0])} | {name.lower(): _as_json(d) for name, d in differences.items()}))
        return 0
    print(f"{len(rows[0])} utterances; scoring: {rules.describe()}; in brackets, 95% of {RESAMPLES:,} resamples")
    for name, difference in differences.items():
        print("\n".join(difference.describe(name)))
    return 0


def _errors(runs: Sequence[Sequence[dict]], rules: ScoringRules, kind: int) -> Errors:
    counts = [[count_utterance(row["reference"], row["text"], rules)[kind] for row in rows] for rows in runs]
    return Errors(
        np.array([[each.errors for each in rows] for rows in counts]), np.array([each.reference for each in counts[0]])
    )


def _as_json(difference: Difference) -> dict:
    return {
        "base": [round(float(rate), 6) for rate in difference.base],
        "new": [round(float(rate), 6) for rate in difference.new],
        "change": round(float(difference.change), 6),
        "change_interval": [round(bound, 6) for bound in difference.change_interval],
        "ratio": round(float(difference.ratio), 4),
        "ratio_interval": [round(bound, 4) for bound in difference.ratio_interval],
        "better": round(difference.better, 4),
    }
