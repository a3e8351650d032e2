"""`--mode=infer`: transcribe files, or print reference and hypothesis of a manifest side by side."""

import dataclasses
import json
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from decoding.hypothesis import Hypothesis
from decoding.scoring.error_rate import count_utterance
from ds2_jax.artifacts.load import load_model
from ds2_jax.parallel import processes, sharding
from ds2_jax.recognition import decode_settings
from ds2_jax.recognition.evaluation import Evaluator
from input_pipeline import audio
from input_pipeline import manifest as manifests
from input_pipeline.columns import Objects, Strings
from input_pipeline.manifest import Manifest
from input_pipeline.manifest.sample_rates import describe_upsampling
from input_pipeline.shards.format import ORIGINAL_KEY, parse_reference
from input_pipeline.storage import object_store, whole_file
from input_pipeline.text import ScoringRules

logger = logging.getLogger("ds2_jax")


def run_infer(config: Mapping, workdir: str, files: Sequence[str], output: str) -> None:
    """Transcribe `files`, or else `config.data.test`: all of it to `output`, to the screen `config.infer.samples` (0: all).

    Batches are made by length. A clip that cannot be used is named and does not stop the rest; raises ValueError
    where none could be, or where `output` cannot be written.
    """
    if output:
        _check_output(output)
    manifest, problems = _requests(config, files, limit=0 if output else config["infer"]["samples"])
    processes.require_same(lambda: {"--audio or config.data.test (digest)": manifest.digest()})
    meta, variables = load_model(config["restore"] or workdir)
    evaluator = Evaluator(meta, sharding.make_mesh(), decode_settings.make_engine(config, meta))
    nbest: dict[int, list[Hypothesis]] = {}
    usable = np.array([row for row in range(len(manifest)) if row not in problems], np.int64)
    if len(usable):
        warning = describe_upsampling(manifest.select(usable), meta.features.sample_rate_hz)
        if warning and processes.rank() == 0:
            logger.warning("%s", warning)
        corpus = evaluator.corpus(manifest.select(usable), config, None)
        with processes.moving(config["train"]["stall_s"]):
            found = evaluator.transcribe(variables, corpus, progress="transcribe")
        nbest = {int(usable[row]): hypotheses for row, hypotheses in found.nbest.items()}
        problems |= {int(usable[row]): problem for row, problem in found.problems.items()}
    if processes.rank() == 0:
        _report(manifest, nbest, problems, config, output, ScoringRules.for_language(meta.language))
    if not nbest:
        raise ValueError(f"none of {len(manifest)} utterances could be transcribed; the messages above say why")


def _report(
    manifest: Manifest,
    nbest: Mapping[int, Sequence[Hypothesis]],
    problems: Mapping[int, str],
    config: Mapping,
    output: str,
    rules: ScoringRules,
) -> None:
    """Write all transcripts and problems to `output`, or print them."""
    records = list(_records(manifest, nbest, problems))
    if output:
        _write_lines(output, records)
        print(f"{len(nbest)} transcripts, {len(problems)} problems: {output}")
    else:
        for record in records:
            _print(record, rules, words=config["infer"]["words"])


def _check_output(output: str) -> None:
    """Make the folder of --output, and raise ValueError for what would lose the transcripts once they are there."""
    if object_store.is_remote(output):
        raise ValueError(f"--output={output} is in a store: write to a file, then copy it")
    if Path(output).is_dir():
        raise ValueError(f"--output={output} is a folder: name a file in it, --output={Path(output, 'out.jsonl')}")
    if processes.rank() != 0:
        return
    folder = Path(output).absolute().parent
    try:
        if not folder.exists():
            folder.mkdir(parents=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f"--output={output} cannot be written ({error.strerror}); name a file in another folder"
        ) from error


def _requests(config: Mapping, files: Sequence[str], limit: int) -> tuple[Manifest, dict[int, str]]:
    """Make a manifest of the files, or read the first `limit` rows of the one named (0: all); problems that show already.

    The problems are by row.
    """
    if files:
        return _manifest_of(files)
    if not config["data"]["test"]:
        raise ValueError("nothing to transcribe: name --audio=a.wav,b.flac or --config.data.test=test.jsonl")
    manifest = manifests.read_many(config["data"]["test"], need_text=False)
    return (manifest.select(np.arange(min(limit, len(manifest)))) if limit else manifest), {}


def _manifest_of(files: Sequence[str]) -> tuple[Manifest, dict[int, str]]:
    durations, problems = [], {}
    for row, path in enumerate(files):
        try:
            durations.append(audio.info(path).duration_s)
        except (ValueError, OSError) as error:
            durations.append(1.0)
            problems[row] = str(error)
    rows = len(files)
    return (
        Manifest(
            sources=("--audio",),
            audio=Strings(files),
            duration=np.array(durations),
            text=Strings([""] * rows),
            source=np.zeros(rows, np.int32),
            line=np.arange(1, rows + 1, dtype=np.int32),
            extra=Objects([{}] * rows),
            weights=(1.0,),
        ),
        problems,
    )


def _records(
    manifest: Manifest, nbest: Mapping[int, Sequence[Hypothesis]], problems: Mapping[int, str]
) -> Iterator[dict]:
    """Describe each utterance, in the order asked for: its transcript with words, or its problem.

    Where there are several hypotheses, `nbest` lists all of them, the best one included.
    """
    for row in range(len(manifest)):
        record: dict = {"audio_filepath": manifest.audio[row]}
        if parse_reference(manifest.audio[row]):
            record[ORIGINAL_KEY] = manifest.name(row)
        if manifest.text[row]:
            record["reference"] = manifest.text[row]
        if row in nbest:
            record |= _rounded(dataclasses.asdict(nbest[row][0]))
            if len(nbest[row]) > 1:
                record["nbest"] = [_rounded(dataclasses.asdict(hypothesis)) for hypothesis in nbest[row]]
        else:
            record["error"] = problems.get(row, "it was not reached")
        yield record


def _rounded(value):
    """Round the numbers of a record to four decimals."""
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return round(value, 4) if isinstance(value, float) else value


def _print(record: Mapping, rules: ScoringRules, *, words: bool) -> None:
    print(record.get(ORIGINAL_KEY, record["audio_filepath"]))
    if "error" in record:
        print(f"  error:      {record['error']}")
        return
    if "reference" in record:
        print(f"  reference:  {record['reference']}")
    print(f"  hypothesis: {record['text']}")
    if words and record["words"]:
        print(f"  words:      {', '.join(map(_describe_word, record['words']))}")
    if "nbest" in record:
        print(f"  {'n-best':>6}  {'score, ln':>10}  {'sure':>4}")
    for rank, other in enumerate(record.get("nbest", ()), start=1):
        print(f"  {rank:6d}  {other['score']:10.3f}  {other['confidence']:4.0%}  {other['text']}")
    if "reference" in record:
        errors, characters = count_utterance(record["reference"], record["text"], rules)
        print(
            f"  word errors {errors.errors} of {errors.reference}, character errors {characters.errors} of {characters.reference}"
        )


def _describe_word(word: Mapping) -> str:
    return f"{word['text']} {word['start_s']:.2f}-{word['end_s']:.2f} s {word['confidence']:.0%}"


def _write_lines(path: str, records: Sequence[Mapping]) -> None:
    with whole_file.open_text(path) as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
