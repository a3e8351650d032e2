"""`--mode=align`: find a text in a long recording and cut it into utterances; or place the words of a manifest's texts."""

import contextlib
import dataclasses
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ml_collections import ConfigDict
from tqdm import tqdm

from decoding.alignment.utterances import UtteranceSettings
from decoding.hypothesis import Hypothesis, Word, as_json
from decoding.lm.text_files import read_lines
from decoding.settings import BeamSettings
from ds2_jax.artifacts.load import load_model
from ds2_jax.cli import output_file, settings
from ds2_jax.cli.audio_arguments import STDIN, list_audio
from ds2_jax.cli.infer import BAR_DELAY_S, part_keys
from ds2_jax.parallel import processes
from ds2_jax.recognition import utterance_files
from ds2_jax.recognition.alignment import Alignment, align_exactly
from ds2_jax.recognition.long_recording import passage_of
from ds2_jax.recognition.recogniser import Recogniser
from ds2_jax.recognition.recording import Turn
from ds2_jax.recognition.transcript_files import NamedTranscript, check_count, format_transcripts, suffix_of
from input_pipeline import manifest as manifests
from input_pipeline.audio import Segment
from input_pipeline.audio.ffmpeg import container_of
from input_pipeline.manifest import Manifest
from input_pipeline.storage.console import escape
from input_pipeline.storage.paths import refuse_inputs

logger = logging.getLogger("ds2_jax")
SURE = 0.1  # confidence of a word that was found
LEAST_FOUND = 0.2  # of the words of a text, or of a recording: less is chance


def run_align(config: ConfigDict, workdir: str, files: Sequence[str], text: str, output: str) -> None:
    """Align a recording with a text, or the clips of `config.data.test` with theirs; write all of `output`.

    `output` names files of transcripts and, for a recording, a folder of utterances. Raises ValueError if nothing of the text is
    found, or `output` cannot be written.
    """
    if processes.count() > 1:
        raise ValueError("--mode=align runs in one process: start no others")
    chosen = settings.read_utterances(config)
    outputs = output_file.parse(output)
    tables = [path for path in outputs if _is_table(path)]
    folders = [path for path in outputs if not _is_table(path)]
    if not tables and not folders:
        raise ValueError("--mode=align writes to --output: give a folder (data/book), or a file (book.TextGrid)")
    for path in tables:
        output_file.check(path)
    refuse_inputs(tables, [*files, *manifests.paths_of(config.data.test), text])
    if text:
        _align_recording(config, workdir, _one(files), text, _Outputs(tables, folders), chosen)
        return
    if files or not config.data.test:
        raise ValueError(
            "nothing to align: give --audio=a.mp3 and its --text=a.txt, or --config.data.test=test.jsonl for clips with texts"
        )
    if folders:
        raise ValueError(f"--output={folders[0]}: the clips of a manifest are utterances; give a file, such as a.ctm")
    _align_clips(config, workdir, tables)


@dataclasses.dataclass(frozen=True)
class _Outputs:
    """What --output names: files of transcripts, and folders of utterances."""

    tables: Sequence[str]
    folders: Sequence[str]


def _is_table(path: str) -> bool:
    """Return whether --output names a file. Raises ValueError for a suffix that is no format."""
    return bool(Path(path).suffix) and bool(suffix_of(path))


def _one(files: Sequence[str]) -> str:
    """Return the recording that --audio names. Raises ValueError unless it is one file."""
    paths = list_audio(files)
    if len(paths) != 1 or paths[0] == STDIN:
        raise ValueError(f"--text is the text of one recording: give one file as --audio, not {len(paths)}")
    return paths[0]


def _align_recording(
    config: ConfigDict, workdir: str, path: str, text: str, outputs: _Outputs, chosen: UtteranceSettings
) -> None:
    cut = config.align.cut
    if cut not in utterance_files.CUTS:
        raise ValueError(f"config.align.cut is {cut!r}: choose one of {', '.join(utterance_files.CUTS)}")
    for folder in outputs.folders:
        _check_folder(folder)
    if outputs.folders and cut == "segments" and container_of(path):
        raise ValueError(f"{path} is read by ffmpeg, and cannot be read in parts: use config.align.cut=flac")
    lines = "\n".join(read_lines([text]))
    model = _load(config, workdir)
    with processes.expect_progress(config.train.stall_s), _bar() as report:
        try:
            found = model.align(path, lines, settings=chosen, whole=False, on_progress=report)
        except ValueError as error:
            raise ValueError(f"{text}, {path}: {error}") from error
    for remark in found.remarks:
        logger.warning("%s", escape(remark))
    _require_found(found, path, text, utterances=bool(outputs.folders))
    for table in outputs.tables:
        _write(table, [_name(path, found, model.joiner)], config, model)
        print(f"{len(found.words)} of {found.text_words} words: {escape(table)}")
    for folder in outputs.folders:
        utterance_files.write(folder, path, found, cut=cut)
        _summarise(folder, found)


def _require_found(found: Alignment, path: str, text: str, *, utterances: bool) -> None:
    """Raise ValueError if so little of text and recording fit that it is chance, or if utterances are wanted and there are none."""
    if utterances:
        words = [word for one in found.utterances for word in one.words]
    else:
        words = [word for word in found.words if word.confidence >= SURE]
    spoken_s = sum(one.words[-1].end_s - one.words[0].start_s for one in found.utterances)
    if words and (len(words) >= LEAST_FOUND * found.text_words or spoken_s >= LEAST_FOUND * found.duration_s):
        return
    heard = " ".join(one.recognised for one in found.left_out if one.recognised)[:60]
    recognised = f"recognised was {heard!r}" if heard else "no speech was recognised"
    raise ValueError(
        f"{path} and {text} have too little in common: {len(words)} of {found.text_words} words were found, and "
        f"{len(found.utterances)} utterances, in {found.duration_s:.1f} s; {recognised}: check that they belong together, "
        "and that the model knows the language"
    )


def _align_clips(config: ConfigDict, workdir: str, tables: Sequence[str]) -> None:
    """Place the words of each row's text, all of which were spoken."""
    ignored = manifests.parse_ignored(config.data.ignore_keys)
    manifest = manifests.read_many(config.data.test, need_duration=False, ignore_keys=ignored)
    for path in tables:
        check_count(suffix_of(path), len(manifest))
    model = _load(config, workdir)
    named: list[NamedTranscript] = []
    rows = tqdm(range(len(manifest)), "align", unit=" clips", delay=BAR_DELAY_S, leave=False)
    with processes.expect_progress(config.train.stall_s):
        for row in rows:
            processes.report_progress(f"align: {row} clips")
            try:
                named.append(_align_clip(model, manifest, row))
            except (ValueError, OSError) as error:
                logger.warning("%s: %s", escape(manifest.where(row)), escape(str(error)))
    if not named:
        raise ValueError(f"none of {len(manifest)} clips could be aligned: see the warnings about each")
    for path in tables:
        _write(path, named, config, model)
        print(f"{len(named)} clips, {len(manifest) - len(named)} problems: {escape(path)}")


def _align_clip(model: Recogniser, manifest: Manifest, row: int) -> NamedTranscript:
    clip, text = manifest.clips[row], manifest.text[row]
    log_probs = model.log_probs(clip)
    words = align_exactly(log_probs, text, model.meta)
    duration_s = len(log_probs) * model.output_frame_s
    record = {"audio_filepath": manifest.audio[row], **part_keys(clip), "text": text}
    record["words"] = [as_json(word) for word in words]
    return NamedTranscript(manifest.origin(row), duration_s, [_turn(words, model.joiner)], record)


def _load(config: ConfigDict, workdir: str) -> Recogniser:
    meta, variables = load_model(config.restore or workdir)
    return Recogniser(meta, variables, BeamSettings(engine="greedy"))


def _turn(words: Sequence[Word], joiner: str) -> Turn:
    text = joiner.join(word.text for word in words)
    return Turn("", passage_of(Hypothesis(text, list(words), 0.0), 0.0))


def _name(path: str, found: Alignment, joiner: str) -> NamedTranscript:
    """Return the words of a recording as a transcript."""
    turn = _turn(found.words, joiner)
    record = {"audio_filepath": path, "text": turn.passage.text, "words": [as_json(word) for word in found.words]}
    record |= {"left_out": [as_json(one) for one in found.left_out]}
    return NamedTranscript(Segment(path), found.duration_s, [turn], record, found.remarks)


def _write(path: str, named: Sequence[NamedTranscript], config: ConfigDict, model: Recogniser) -> None:
    subtitles = dataclasses.replace(settings.read_subtitles(config), joiner=model.joiner, language=model.meta.language)
    output_file.write(path, format_transcripts(suffix_of(path), named, subtitles))


@contextlib.contextmanager
def _bar() -> Iterator[Callable[[float, float], None]]:
    """Show the seconds of a recording that are done."""
    with tqdm(desc="recording", unit=" s", delay=BAR_DELAY_S, leave=False) as bar:

        def report(done_s: float, total_s: float) -> None:
            bar.total = round(total_s) or None
            bar.update(round(done_s) - bar.n)

        yield report


def _check_folder(folder: str) -> None:
    """Raise ValueError if a folder of utterances exists already, or cannot be made."""
    if Path(folder).exists():
        raise ValueError(f"--output={folder} exists: remove it, or choose another name")
    output_file.try_folder(Path(folder).absolute().parent, folder)


def _summarise(folder: str, found: Alignment) -> None:
    """Print what was made of a recording, and what was left out."""
    kept_s = sum(one.end_s - one.start_s for one in found.utterances)
    words = sum(len(one.words) for one in found.utterances)
    print(
        f"{len(found.utterances)} utterances, {kept_s:.1f} of {found.duration_s:.1f} s, {words} of {found.text_words} words: "
        f"{escape(folder)}"
    )
    for reason, count in Counter(one.reason for one in found.left_out).most_common():
        print(f"left out, {reason}: {count}")
