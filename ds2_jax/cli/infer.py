"""`--mode=infer`: transcribe files or a manifest, and print or write the transcripts."""

import contextlib
import dataclasses
import itertools
import logging
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ml_collections import ConfigDict
from tqdm import tqdm

from decoding.hypothesis import Hypothesis, Word, as_json
from decoding.scoring.error_rate import count_utterance
from ds2_jax.artifacts.load import load_model
from ds2_jax.cli import output_file, settings
from ds2_jax.cli.audio_arguments import STDIN, STDIN_NAME, list_audio, read_stdin
from ds2_jax.parallel import processes
from ds2_jax.recognition.cues import CueSettings
from ds2_jax.recognition.long_recording import Passage, passage_of
from ds2_jax.recognition.recogniser import Recogniser, Transcript
from ds2_jax.recognition.recording import RecordingSettings, Turn
from ds2_jax.recognition.transcript_files import NamedTranscript, check_count, format_transcripts, suffix_of
from input_pipeline import manifest as manifests
from input_pipeline.audio import Segment, describe_part
from input_pipeline.columns import Strings
from input_pipeline.manifest.sample_rates import describe_low_rates
from input_pipeline.shards import source as shard_source
from input_pipeline.shards.format import ORIGINAL_KEY, parse_reference
from input_pipeline.storage.console import escape, reader_has_gone
from input_pipeline.storage.paths import refuse_inputs
from input_pipeline.text import ScoringRules

logger = logging.getLogger("ds2_jax")
BAR_DELAY_S = 2.0  # before a progress bar appears
Result = TypeVar("Result")


@dataclass(frozen=True)
class Request:
    """A clip to transcribe.

    clip: the path of a file, or a segment of one. origin: the same before it was packed into a shard. reference: its text,
    '' if unknown.
    """

    clip: str | Segment
    origin: Segment
    reference: str = ""

    @property
    def name(self) -> str:
        """Describe the clip for a message."""
        return str(self.origin)

    @property
    def path(self) -> str:
        """The path of the file."""
        return str(self.clip.source) if isinstance(self.clip, Segment) else self.clip


def run_infer(config: ConfigDict, workdir: str, files: Sequence[str], output: str) -> None:
    """Transcribe `files`, or the manifest `config.data.test`: all of it to `output`, or the first rows to the screen.

    `config.infer.samples` limits the rows on the screen (0: all). An unusable clip is reported and does not stop the rest.
    Raises ValueError if no clip is usable or `output` cannot be written.
    """
    outputs = output_file.parse(output)
    for path in outputs:
        suffix_of(path)
        output_file.check(path)
    if config.infer.samples < 0:
        raise ValueError(f"config.infer.samples is {config.infer.samples}: use 0 (all) or more")
    requests = _list_requests(config, files, limit=0 if outputs else config.infer.samples)
    for path in outputs:
        check_count(suffix_of(path), len(requests))
    refuse_inputs(outputs, itertools.chain(manifests.paths_of(config.data.test), (r.path for r in requests)))
    processes.require_same(lambda: {"--audio or config.data.test": str([dataclasses.astuple(r) for r in requests])})
    meta, variables = load_model(config.restore or workdir)
    model = Recogniser(meta, variables, settings.read_decoding(config))
    rules = ScoringRules.for_language(meta.language)

    def show(item: NamedTranscript) -> None:
        _print(item.record, rules, words=config.infer.words)
        print(end="", flush=True)

    recording = settings.read_recording(config)
    with contextlib.closing(_transcribe(model, requests, recording, config.train.stall_s, shown=not outputs)) as found:
        results = list(found if outputs else _shown(found, requests, show))
    if processes.rank() == 0:
        _warn_about_upsampling(requests, results, model.sample_rate_hz)
        if outputs:
            subtitles = dataclasses.replace(
                settings.read_subtitles(config), joiner=model.joiner, language=meta.language
            )
            named = [_name(request, result) for request, result in zip(requests, results, strict=True)]
            _write(named, outputs, subtitles, show)
    if not any(isinstance(result, Transcript) for result in results):
        raise ValueError(f"none of {len(requests)} utterances could be transcribed: see the errors of each")


def _shown(
    results: Iterable[Transcript | str], requests: Sequence[Request], show: Callable[[NamedTranscript], None]
) -> Iterator[Transcript | str]:
    """Yield the results, each of which process 0 shows as soon as it is there."""
    for request, result in zip(requests, results, strict=True):
        if processes.rank() == 0:
            item = _name(request, result)
            _warn(item)
            show(item)
            _end_unread()
        yield result


def _end_unread() -> None:
    """End the program if nothing reads what it prints, as after the end of `head`, and no other process waits for it."""
    if processes.count() == 1 and reader_has_gone():
        sys.exit(0)


def _list_requests(config: ConfigDict, files: Sequence[str], limit: int) -> list[Request]:
    """Return requests for the files, or for the first `limit` rows of the manifest (0: all)."""
    if files:
        return [Request(path, Segment(path)) for path in list_audio(files)]
    if not config.data.test:
        raise ValueError("nothing to transcribe: give --audio=a.wav,b.flac or --config.data.test=test.jsonl")
    ignored = manifests.parse_ignored(config.data.ignore_keys)
    manifest = manifests.read_many(config.data.test, need_text=False, need_duration=False, ignore_keys=ignored)
    rows = range(min(limit, len(manifest)) if limit else len(manifest))
    return [Request(manifest.clips[row], manifest.origin(row), manifest.text[row]) for row in rows]


def _transcribe(
    model: Recogniser, requests: Sequence[Request], recording: RecordingSettings, stall_s: float, *, shown: bool
) -> Generator[Transcript | str, None, None]:
    """Yield the transcripts or problems of all requests, in order; those of a single process as soon as they are ready.

    Each process transcribes its share. shown: they are printed; the first one replaces the progress bar.
    """
    own = range(processes.rank(), len(requests), processes.count())
    share = _transcribe_rows(model, requests, own, recording, shown=shown)
    with (
        processes.expect_progress(stall_s),
        shard_source.prefetch(Strings(requests[row].path for row in own)),
        tqdm(share, "transcribe", len(own), unit=" clips", delay=BAR_DELAY_S, leave=False) as bar,
    ):
        if processes.count() == 1:
            for result in _in_order(bar):
                if shown:
                    bar.close()
                yield result
            return
        shares = processes.gather(dict(bar), classes=(Transcript, Hypothesis, Word, Turn, Passage))
    yield from _in_order(item for results in shares for item in results.items())


def _transcribe_rows(
    model: Recogniser, requests: Sequence[Request], rows: range, recording: RecordingSettings, *, shown: bool
) -> Iterator[tuple[int, Transcript | str]]:
    """Yield each of these rows with its transcript or problem when it is ready, in any order."""
    bar: tqdm | None = None

    def report(done_s: float, total_s: float) -> None:
        nonlocal bar
        if bar is None:
            bar = tqdm(desc="recording", unit=" s", delay=BAR_DELAY_S, leave=False, smoothing=0)
        bar.total = round(total_s) or None
        bar.update(round(done_s) - bar.n)
        if shown:
            _end_unread()

    sources = (read_stdin() if requests[row].path == STDIN else requests[row].clip for row in rows)
    for index, result in model.transcribe_each(sources, whole=False, settings=recording, on_progress=report):
        if bar is not None:
            bar.close()
            bar = None
        yield rows[index], str(result) if isinstance(result, Exception) else result


def _in_order(numbered: Iterable[tuple[int, Result]]) -> Iterator[Result]:
    """Yield values by their numbers from 0, each as soon as all before it are there."""
    waiting: dict[int, Result] = {}
    count = 0
    for number, value in numbered:
        waiting[number] = value
        while count in waiting:
            yield waiting.pop(count)
            count += 1


def _warn_about_upsampling(
    requests: Sequence[Request], results: Sequence[Transcript | str], sample_rate_hz: int
) -> None:
    pairs = zip(requests, results, strict=True)
    rates_hz = {request.name: result.sample_rate_hz for request, result in pairs if isinstance(result, Transcript)}
    low = {name: rate_hz for name, rate_hz in rates_hz.items() if rate_hz < sample_rate_hz}
    if low:
        logger.warning("%s", describe_low_rates(low, len(rates_hz), sample_rate_hz))


def _warn(item: NamedTranscript) -> None:
    """Log what is wrong with a recording, or that it has no speech."""
    for remark in item.remarks:
        logger.warning("%s", escape(remark))
    if "error" not in item.record and not item.record["text"]:
        logger.warning("%s: no speech was found in %.1f s", escape(item.name), item.duration_s)


def _write(
    transcripts: Sequence[NamedTranscript],
    outputs: Sequence[str],
    subtitles: CueSettings,
    show: Callable[[NamedTranscript], None],
) -> None:
    """Write all transcripts to each output, in the format that its name says; problems to JSON lines only.

    Raises OSError for an output that cannot be written, after the transcripts were shown.
    """
    usable = [item for item in transcripts if "error" not in item.record]
    for item in transcripts:
        _warn(item)
    for path in outputs:
        suffix = suffix_of(path)
        if suffix != ".jsonl" and not usable:
            continue
        content = format_transcripts(suffix, transcripts if suffix == ".jsonl" else usable, subtitles)
        try:
            output_file.write(path, content)
        except OSError:
            for item in transcripts:
                show(item)
            raise
        print(f"{len(usable)} transcripts, {len(transcripts) - len(usable)} problems: {escape(path)}")
    for item in transcripts:
        if "error" in item.record:
            logger.warning("%s", escape(item.record["error"]))


def _name(request: Request, result: Transcript | str) -> NamedTranscript:
    """Return the turns of a recording, also of a clip, with its record."""
    record = _make_record(request, result)
    if isinstance(result, str):
        return NamedTranscript(request.origin, 0.0, [], record)
    turns = result.turns or [Turn("", passage_of(result.nbest[0], 0.0))]
    return NamedTranscript(request.origin, result.duration_s, turns, record, result.remarks)


def _make_record(request: Request, result: Transcript | str) -> dict:
    """Return an utterance's transcript with words, or its error; several hypotheses are listed in `nbest`."""
    record: dict = {"audio_filepath": request.path}
    record |= part_keys(request.clip)
    if parse_reference(request.path):
        record[ORIGINAL_KEY] = request.name
    if request.reference:
        record["reference"] = request.reference
    if isinstance(result, str):
        return {**record, "error": result}
    record.setdefault("duration", round(result.duration_s, 4))
    if result.remarks:
        record["remarks"] = list(result.remarks)
    if any(turn.speaker for turn in result.turns):
        turns = [{"speaker": turn.speaker, **as_json(turn.passage)} for turn in result.turns]
        return {**record, "text": result.text, "turns": turns}
    best, *others = map(as_json, result.nbest)
    return {**record, **best, "nbest": [best, *others]} if others else {**record, **best}


def part_keys(clip: str | Segment) -> dict:
    """Return the keys of a manifest that describe a segment; none for a whole file."""
    if not isinstance(clip, Segment):
        return {}
    keys = {"offset": clip.offset_s, "duration": clip.duration_s, "channel": clip.channel}
    left_out = () if clip.is_part else ("offset", "duration")
    return {key: value for key, value in keys.items() if value is not None and key not in left_out}


def _print(record: Mapping, rules: ScoringRules, *, words: bool) -> None:
    name = record.get(ORIGINAL_KEY, record["audio_filepath"])
    duration_s = record["duration"] if "offset" in record else 0.0
    segment = describe_part(record.get("offset", 0.0), duration_s, record.get("channel"))
    print(", ".join(filter(None, (STDIN_NAME if name == STDIN else escape(name), segment))))
    for remark in record.get("remarks", ()):
        print(f"  warning:    {escape(remark)}")
    if "error" in record:
        print(f"  error:      {escape(record['error'])}")
        return
    if "reference" in record:
        print(f"  reference:  {escape(record['reference'])}")
    for turn in record.get("turns", ()):
        print(f"  {turn['start_s']:9.2f} s  {turn['speaker']}: {turn['text']}")
    if "turns" in record:
        return
    print(f"  hypothesis: {record['text']}")
    if words and record["words"]:
        print(f"  words:      {', '.join(map(_describe_word, record['words']))}")
    if "nbest" in record:
        print(f"  {'n-best':>6}  {'score, ln':>10}  {'confidence':>10}")
    for rank, other in enumerate(record.get("nbest", ()), start=1):
        print(f"  {rank:6d}  {other['score']:10.3f}  {other['confidence']:10.0%}  {other['text']}")
    if "reference" in record:
        errors, characters = count_utterance(record["reference"], record["text"], rules)
        print(
            f"  word errors {errors.errors} of {errors.reference}, character errors {characters.errors} of {characters.reference}"
        )


def _describe_word(word: Mapping) -> str:
    return f"{word['text']} {word['start_s']:.2f}-{word['end_s']:.2f} s {word['confidence']:.0%}"
