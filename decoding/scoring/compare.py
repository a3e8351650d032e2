"""Compare two models on the same utterances: error rates, and whether the difference is more than chance.

    python -m decoding.compare base.jsonl new.jsonl
    python -m decoding.compare base_1.jsonl,base_2.jsonl new_1.jsonl,new_2.jsonl    # trainings with several seeds

The files are those of --mode=infer for one manifest with texts (--config.data.test=MANIFEST --output=NAME.jsonl).

A paired bootstrap resamples utterances, the same ones for both models (Bisani and Ney 2004, section 3). Where several trainings
of a model are given, each resample adds to the difference a deviation drawn from Student's t distribution, whose scale is the
standard error between trainings, assumed equal for both models: a difference that other seeds would not show is no difference.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from decoding.scoring.error_rate import count_utterance
from input_pipeline.storage import console, json_line
from input_pipeline.storage.paths import why_missing
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
    equal: float  # in which both make as many

    def describe(self, name: str) -> list[str]:
        """Return lines for the terminal. name: of the rate."""
        low, high = (100 * bound for bound in self.change_interval)
        change = f"difference {100 * self.change:+.2f} points ({low:+.2f} to {high:+.2f})"
        ratio = f"{self.ratio:.2f} times the errors ({self.ratio_interval[0]:.2f} to {self.ratio_interval[1]:.2f})"
        shares = f"better in {100 * self.better:.1f}% of the resamples, equal in {100 * self.equal:.1f}%"
        return [
            f"{name}  base {_describe_rates(self.base)}, new {_describe_rates(self.new)}",
            f"     {change}, {ratio}; {shares}",
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
        sums = _draw_trainings(rng, *(weights @ model.errors.T for model in (base, new)))
        drawn.append(np.stack([*sums, lengths])[:, lengths > 0])
    base_sums, new_sums, lengths = np.concatenate(drawn, axis=1)
    change = (new_sums - base_sums) / lengths
    base_rate, new_rate = base.rates.mean(), new.rates.mean()
    return Difference(
        base=base.rates,
        new=new.rates,
        change=new_rate - base_rate,
        change_interval=_interval(change),
        ratio=float(_ratio(new_rate, base_rate)),
        ratio_interval=_interval(_ratio(new_sums, base_sums)),
        better=float(np.mean(new_sums < base_sums)),
        equal=float(np.mean(new_sums == base_sums)),
    )


def _draw_trainings(rng: np.random.Generator, *sums: np.ndarray) -> list[np.ndarray]:
    """Return errors [B] of base and new in each resample, for trainings of which those given are a sample.

    sums: errors [B, R] of the trainings of each.
    """
    means = [each.mean(1) for each in sums]
    freedom = sum(each.shape[1] - 1 for each in sums)
    if freedom == 0:
        return means
    shares = [1 / each.shape[1] for each in sums]
    squares = sum(((each - mean[:, None]) ** 2).sum(1) for each, mean in zip(sums, means, strict=True))
    deviation = np.sqrt(squares / freedom * sum(shares)) * rng.standard_t(freedom, len(squares))
    signed = [-shares[0], shares[1]]
    return [np.maximum(m + s / sum(shares) * deviation, 0) for m, s in zip(means, signed, strict=True)]


def _ratio(new, base) -> np.ndarray:
    """Return new / base; 1 if both are 0, infinite if only the base is."""
    return np.where(base > 0, new / np.where(base > 0, base, 1), np.where(new > 0, np.inf, 1.0))


def _interval(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, [0.025, 0.975], method="nearest")  # between infinities, nothing can be interpolated
    return float(low), float(high)


def read(path: str) -> list[dict]:
    """Read what is compared of the transcripts of a manifest with texts that --mode=infer wrote.

    An utterance whose text is empty has no reference in such a file. Raises ComparisonError.
    """
    records, known = [], False
    try:
        with open(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                record = _parse(line, f"{path}:{number}")
                known = known or "reference" in record
                records.append({"reference": ""} | {key: record[key] for key in (*PLACE, "text") if key in record})
    except UnicodeDecodeError as error:
        raise ComparisonError(f"{path} is not UTF-8: name a file of --mode=infer") from error
    except OSError as error:
        reason = why_missing(path) if isinstance(error, FileNotFoundError) else ""
        raise ComparisonError(
            f"{path} cannot be read ({reason or error.strerror}): name a file of --mode=infer"
        ) from error
    if not records:
        raise ComparisonError(f"{path} is empty: name a file of --mode=infer")
    if not known:
        raise ComparisonError(
            f"{path} has no reference: transcribe a manifest with texts: python main.py --mode=infer "
            "--config.restore=MODEL --config.data.test=MANIFEST --output=NAME.jsonl"
        )
    return records


def _parse(line: str, where: str) -> dict:
    try:
        record = json_line.decode(line)
    except ValueError as error:
        raise ComparisonError(f"{where} is not JSON ({error}): name a file of --mode=infer") from error
    if not (isinstance(record, dict) and all(isinstance(record.get(key, ""), str) for key in ("reference", "text"))):
        raise ComparisonError(f"{where} is no transcript: name a file of --mode=infer")
    return record


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
                    f"{files[0]} and {path} differ in utterance {number}: {different} is {values}: transcribe the same manifest"
                )
        if len(records) != len(read_files[0]):
            raise ComparisonError(
                f"{files[0]} has {len(read_files[0])} utterances, {path} has {len(records)}: transcribe the same manifest"
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
    parser = argparse.ArgumentParser(
        prog="python -m decoding.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
        pairs = zip(RATES, *(_count(runs, rules) for runs in models), strict=True)
        differences = {name: compare(*pair) for name, *pair in pairs if name != "WER" or not rules.remove_spaces}
    except ValueError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    for remark in remarks:
        print(f"warning: {remark}, and are left out", file=sys.stderr)
    if args.json:
        print(json.dumps({"utterances": len(rows[0])} | {name.lower(): _as_json(d) for name, d in differences.items()}))
        return 0
    print(f"{len(rows[0])} utterances; scoring: {rules.describe()}; in brackets, 95% of {RESAMPLES:,} resamples")
    for name, difference in differences.items():
        print("\n".join(difference.describe(name)))
    if max(map(len, given)) == 1:
        print("The intervals do not include what other seeds would change: give several trainings of each model.")
    return 0


def _count(runs: Sequence[Sequence[dict]], rules: ScoringRules) -> list[Errors]:
    """Return the errors of a model's trainings, for each of RATES."""
    counts = [[count_utterance(row["reference"], row["text"], rules) for row in rows] for rows in runs]
    errors = np.array(
        [[[kind.errors for kind in pair] for pair in rows] for rows in counts]
    )  # [R, N, words and characters]
    lengths = np.array([[kind.reference for kind in pair] for pair in counts[0]])
    return [Errors(errors[..., kind], lengths[:, kind]) for kind in range(len(RATES))]


def _as_json(difference: Difference) -> dict:
    return {
        "base": [round(float(rate), 6) for rate in difference.base],
        "new": [round(float(rate), 6) for rate in difference.new],
        "change": round(float(difference.change), 6),
        "change_interval": [round(bound, 6) for bound in difference.change_interval],
        "ratio": _finite(difference.ratio),
        "ratio_interval": [_finite(bound) for bound in difference.ratio_interval],
        "better": round(difference.better, 4),
        "equal": round(difference.equal, 4),
    }


def _finite(ratio: float) -> float | None:
    """Return a ratio for JSON, which has no infinity."""
    return round(ratio, 4) if math.isfinite(ratio) else None
