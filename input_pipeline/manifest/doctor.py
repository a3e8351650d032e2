"""Read every clip of a manifest and report what would harm training, with hours, speakers and histograms.

Of several manifests, such as train and test, also report the audio and the speakers that they share.

Exit code: 0 for no problems, 1 for problems, 2 if the check cannot be done.
"""

import argparse
import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from input_pipeline import manifest, text
from input_pipeline.cores import usable_cores
from input_pipeline.manifest import Manifest, absolute_path
from input_pipeline.manifest.copies import copy_problems, shared_audio, shared_speakers
from input_pipeline.manifest.examination import Clip, examine_all
from input_pipeline.manifest.problems import KINDS, Problem, listing, problem_report, removed_rows
from input_pipeline.manifest.text_checks import suspicious_texts
from input_pipeline.shards import source as shard_source
from input_pipeline.storage.paths import refuse_inputs

DURATION_SLACK_S = 0.02  # beyond the rounding of the durations: encoders add and remove a few milliseconds
SAMPLES_SLACK_S = 1e-4  # by which audio may exceed the length that the batch plan allows for: a sample or two
HISTOGRAM_BINS = 10
BAR_WIDTH = 40


class DoctorError(ValueError):
    """The check cannot be done with these options, or on this manifest."""


@dataclass(frozen=True)
class Limits:
    """Thresholds beyond which something is a problem, and the frames of the model."""

    silent_db: float
    clipped_share: float
    min_duration_s: float
    max_duration_s: float
    window_ms: float
    hop_ms: float
    stride: int

    def output_frames(self, clip: Clip) -> int:
        """Return the frames U = (T - 1) // stride + 1 that CTC gets, where T = (samples - window) // hop + 1."""
        to_hop = clip.samples * 1000 - self.window_ms * clip.rate_hz
        frames = int(to_hop // (self.hop_ms * clip.rate_hz)) + 1
        return (frames - 1) // self.stride + 1 if to_hop >= 0 else 0


class Checkup(NamedTuple):
    """A manifest that has been checked: its clips, normalised texts and problems."""

    manifest: Manifest
    clips: Sequence[Clip]
    transcripts: Sequence[str]
    problems: Sequence[Problem]
    bad_lines: Sequence[str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `check` to a command line."""
    add = parser.add_argument
    add("manifests", nargs="+", metavar="MANIFEST", help="to check, and if several, to compare")
    add("--vocabulary", default="", help="vocabulary file; texts with other characters are problems")
    add(
        "--language",
        type=text.language_code,
        default="none",
        help="normalise texts as for this language first (default: none, which all languages have in common)",
    )
    add(
        "--output",
        default="",
        help="write a cleaned manifest: unusable rows removed, wrong durations corrected",
    )
    add("--min_duration", type=float, default=0.0, help="shortest clip in seconds (default: 0)")
    add("--max_duration", type=float, default=math.inf, help="longest clip in seconds (default: no limit)")
    add(
        "--silent_db",
        type=float,
        default=-60.0,
        help="clips with a mean level below this are silent (default: -60 dBFS)",
    )
    add(
        "--clipped_share",
        type=float,
        default=0.001,
        help="largest allowed share of samples at full scale (default: 0.001)",
    )
    add("--window_ms", type=float, default=20.0, help="window of the features (default: 20)")
    add("--hop_ms", type=float, default=10.0, help="hop of the features (default: 10)")
    add("--stride", type=int, default=3, help="time stride of the model (default: 3)")
    add("--ignore_keys", default="", help="comma-separated keys of rows that mean no part of a file, such as start,end")
    add("--ignore", default="", help=f"comma-separated kinds of problems to ignore, of {', '.join(KINDS)}")
    add("--show", type=int, default=20, help="lines to show of each kind of problem, 0 for all (default: 20)")
    add("--workers", type=int, default=usable_cores(), help="processes (default: all cores)")


def run(args: argparse.Namespace) -> int:
    """Check each manifest and compare them, print the reports, write the cleaned manifest; return the exit code."""
    ignored = _check_arguments(args)
    vocabulary = text.Vocabulary.load(args.vocabulary) if args.vocabulary else None
    limits = Limits(
        silent_db=args.silent_db,
        clipped_share=args.clipped_share,
        min_duration_s=args.min_duration,
        max_duration_s=args.max_duration,
        window_ms=args.window_ms,
        hop_ms=args.hop_ms,
        stride=args.stride,
    )
    checkups = []
    for path in args.manifests:
        checkup = _check(path, args, limits, vocabulary, ignored)
        print("\n".join(summary(checkup.manifest, checkup.clips, checkup.transcripts)))
        print("\n".join(problem_report(checkup.manifest, checkup.problems, checkup.bad_lines, args.show)), flush=True)
        checkups.append(checkup)
    shared = {kind: lines for kind, lines in _shared(checkups).items() if lines and kind not in ignored}
    for kind, lines in shared.items():
        print("\n".join(listing(f"{KINDS[kind][0]} [{kind}]: {len(lines)}", lines, args.show)))
    if len(checkups) > 1 and not shared:
        print("no audio and no speaker is in several manifests")
    if args.output:
        (checkup,) = checkups
        print(write_cleaned(checkup.manifest, checkup.clips, checkup.problems, len(checkup.bad_lines), args.output))
    return 1 if shared or any(checkup.problems or checkup.bad_lines for checkup in checkups) else 0


def _check(
    path: str, args: argparse.Namespace, limits: Limits, vocabulary: "text.Vocabulary | None", ignored: set[str]
) -> Checkup:
    """Read a manifest and its clips, and find the problems that are not to be ignored, in the order of rows."""
    bad_lines: list[str] = []
    ignored_keys = manifest.parse_ignored(args.ignore_keys)
    checked = manifest.read(path, need_text="text" not in ignored, ignore_keys=ignored_keys, bad_lines=bad_lines)
    transcripts = [text.normalise(t, args.language) for t in checked.text]
    with shard_source.prefetch(checked.audio):
        clips = examine_all(checked.clips, args.workers)
    problems = [*audio_problems(checked, clips, limits), *rate_problems(clips)]
    problems += text_problems(transcripts, clips, vocabulary, limits)
    seconds = [0.0 if clip.fault else clip.duration_s for clip in clips]
    problems += suspicious_texts(transcripts, seconds, checked.text)
    problems = [problem for problem in problems if problem.kind not in ignored]
    copies = copy_problems(checked, clips, removed_rows(problems))
    problems += [problem for problem in copies if problem.kind not in ignored]
    problems.sort(key=lambda problem: problem.row)  # stable: the problems of a row stay in order
    return Checkup(checked, clips, transcripts, problems, [] if "line" in ignored else bad_lines)


def _shared(checkups: Sequence[Checkup]) -> dict[str, list[str]]:
    """Return descriptions of the audio and the speakers that several manifests share, by kind."""
    corpora = [(checkup.manifest, checkup.clips) for checkup in checkups]
    return {"leak": list(shared_audio(corpora)), "speaker": list(shared_speakers([one for one, _ in corpora]))}


def _check_arguments(args: argparse.Namespace) -> set[str]:
    """Return the kinds to ignore. Raises DoctorError for invalid options."""
    ignored = {kind for kind in args.ignore.split(",") if kind}
    unknown = sorted(ignored - set(KINDS))
    if unknown:
        raise DoctorError(f"--ignore={args.ignore}: no kind {unknown[0]!r}; the kinds are {', '.join(KINDS)}")
    for name in ("window_ms", "hop_ms", "stride", "workers"):
        if not getattr(args, name) > 0:
            raise DoctorError(f"--{name}={getattr(args, name)}: must be above 0")
    if not 0 <= args.min_duration <= args.max_duration:
        raise DoctorError("--min_duration and --max_duration must satisfy 0 <= shortest <= longest")
    paths = [os.path.realpath(path) for path in args.manifests]
    if len(set(paths)) < len(paths):
        raise DoctorError(f"{', '.join(args.manifests)}: name each manifest once")
    if args.output and len(paths) > 1:
        raise DoctorError(
            f"--output={args.output} is the cleaned form of one manifest; clean each by a command of its own"
        )
    refuse_inputs([args.output], args.manifests)
    return ignored


def audio_problems(checked: Manifest, clips: Sequence[Clip], limits: Limits) -> Iterator[Problem]:
    """Yield problems of the audio, and durations that differ from it."""
    wrong = wrong_durations(checked.duration, np.array([math.nan if clip.fault else clip.duration_s for clip in clips]))
    for row, clip in enumerate(clips):
        seconds = clip.duration_s
        if clip.fault:
            yield Problem(row, clip.fault, clip.message)
            continue
        if limits.output_frames(clip) == 0:
            yield Problem(row, "empty", f"{seconds:.3f} s is less than a window of {limits.window_ms:g} ms")
        if clip.level_db < limits.silent_db:
            yield Problem(row, "silent", f"mean level {clip.level_db:.1f} dBFS")
        if clip.clipped_share > limits.clipped_share:
            yield Problem(row, "clipped", f"{clip.clipped_share:.2%} of the samples at full scale")
        yield from (Problem(row, "header", remark) for remark in clip.remarks)
        if wrong[row]:
            yield Problem(row, "duration", f"{checked.duration[row]:g} s stated, the audio has {seconds:.3f} s")
        if not limits.min_duration_s <= seconds <= limits.max_duration_s:
            yield Problem(row, "limits", f"{seconds:.3f} s")


def wrong_durations(stated: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Tell which stated seconds [N] are far from the true ones [N] (nan: unknown), or shorter than rounding explains.

    Durations are far off if they differ by more than the rounding unit of most rows: a single wrong duration must not
    change the unit by which the others are judged. The others must be correct to half the unit that they all share, as
    the batch plan (batches.loader.planned_frames) allows for no more, and would skip the clip.
    """
    far = np.abs(stated - true) > manifest.rounding_unit_s(stated, share=0.5) + DURATION_SLACK_S
    return far | (true - stated > manifest.rounding_unit_s(stated[~far]) / 2 + SAMPLES_SLACK_S)


def rate_problems(clips: Sequence[Clip]) -> Iterator[Problem]:
    """Yield clips whose sample rate differs from that of most."""
    rates = Counter(clip.rate_hz for clip in clips if not clip.fault)
    usual = rates.most_common(1)[0][0] if rates else 0
    for row, clip in enumerate(clips):
        if not clip.fault and clip.rate_hz != usual:
            yield Problem(row, "rate", f"{clip.rate_hz} Hz, while most have {usual} Hz")


def text_problems(
    transcripts: Sequence[str], clips: Sequence[Clip], vocabulary: "text.Vocabulary | None", limits: Limits
) -> Iterator[Problem]:
    """Yield empty texts, unknown characters, and texts too long for a CTC path over the audio (U < L + repeats)."""
    for row, (transcript, clip) in enumerate(zip(transcripts, clips, strict=True)):
        if not transcript:
            yield Problem(row, "text", "no text")
        elif vocabulary is not None:
            try:
                vocabulary.encode(transcript)
            except text.UnknownCharacters as error:
                foreign = set(error.characters)
                unknown = "".join(character for character in transcript if character in foreign)
                yield Problem(row, "characters", f"{''.join(sorted(foreign))!r} in {transcript!r}", unknown)
        needed = len(transcript) + sum(a == b for a, b in pairwise(transcript))
        frames = limits.output_frames(clip)
        if not clip.fault and 0 < frames < needed:  # clips without frames are reported as empty
            yield Problem(row, "ctc", f"{needed} frames needed (repeats included), {frames} in {clip.duration_s:.3f} s")


def summary(checked: Manifest, clips: Sequence[Clip], transcripts: Sequence[str]) -> Iterator[str]:
    """Describe the corpus: size, speakers, sample rates, levels, histograms."""
    good = [row for row, clip in enumerate(clips) if not clip.fault]
    seconds = np.array([clips[row].duration_s for row in good])
    speakers = len({checked.speaker(row) for row in range(len(checked))} - {""})
    yield (
        f"{checked.sources[0]}: {len(checked)} utterances, {seconds.sum() / 3600:.2f} h of audio, "
        f"{sum(map(len, transcripts))} characters, speakers: {speakers or 'none named'}"
    )
    if not good:
        return
    rates = Counter(clips[row].rate_hz for row in good).most_common()
    yield "sample rates: " + ", ".join(f"{rate} Hz ({count})" for rate, count in rates)
    level = np.array([clips[row].level_db for row in good])
    if np.isfinite(level).any():
        low, middle, high = np.percentile(level[np.isfinite(level)], [5, 50, 95])
        yield f"levels: {middle:.1f} dBFS (90 % of the clips from {low:.1f} to {high:.1f})"
    yield from histogram("duration (s)", seconds)
    yield from histogram("characters a second", np.array([len(transcripts[row]) for row in good]) / seconds)


def histogram(title: str, values: np.ndarray) -> Iterator[str]:
    """Draw a histogram of values [N] with characters."""
    counts, edges = np.histogram(values, bins=HISTOGRAM_BINS)
    yield f"{title}: {values.min():.2f} to {values.max():.2f}, mean {values.mean():.2f}"
    for count, low, high in zip(counts, edges, edges[1:], strict=False):
        yield f"  {low:7.2f} -{high:7.2f} |{'#' * math.ceil(BAR_WIDTH * count / counts.max()):{BAR_WIDTH}}| {count}"


def write_cleaned(
    checked: Manifest, clips: Sequence[Clip], problems: Sequence[Problem], bad_lines: int, output: str
) -> str:
    """Write the manifest without unusable rows and with correct durations; return a sentence with the counts."""
    removed = removed_rows(problems)
    corrected = {problem.row for problem in problems if problem.kind == "duration"} - removed
    kept = [row for row in range(len(checked)) if row not in removed]
    if not kept:
        raise DoctorError(f"{checked.sources[0]}: no usable row is left, so {output} was not written")
    # Rounded like the rows that stay unchanged: with a finer unit, their durations would count as wrong.
    unit = manifest.rounding_unit_s(checked.duration[[row for row in kept if row not in corrected]])
    same_folder = os.path.realpath(os.path.dirname(output)) == os.path.realpath(os.path.dirname(checked.sources[0]))

    def record(row: int) -> dict:
        path = checked.path_as_written(row) if same_folder else absolute_path(checked.audio[row])
        true_s = round(max(unit, round(clips[row].duration_s / unit) * unit), 3)
        duration = true_s if row in corrected else checked.duration[row]
        return {"audio_filepath": path, "duration": float(duration), "text": checked.text[row], **checked.extra[row]}

    manifest.write(output, (record(row) for row in kept))
    return (
        f"wrote {output}: {len(kept)} utterances, {len(checked) - len(kept) + bad_lines} removed, "
        f"{len(corrected)} durations corrected"
    )
