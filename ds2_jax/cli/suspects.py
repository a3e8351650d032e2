"""`--mode=suspects`: rank the clips of a manifest by how little their texts fit, to find swapped and wrong texts."""

import logging
import math

from ml_collections import ConfigDict

from ds2_jax.artifacts.load import load_model
from ds2_jax.cli import output_file, settings
from ds2_jax.cli.infer import part_keys
from ds2_jax.parallel import processes, sharding
from ds2_jax.recognition.evaluation import Evaluator, report_problems
from ds2_jax.recognition.suspects import Suspect, rank_suspects
from input_pipeline import manifest as manifests
from input_pipeline.manifest import Manifest
from input_pipeline.shards.format import ORIGINAL_KEY, parse_reference
from input_pipeline.storage.console import escape
from input_pipeline.storage.paths import refuse_inputs

logger = logging.getLogger("ds2_jax")

SCORE = "score: natural logarithm, per symbol, by which the text is less probable than what was recognised"


def run_suspects(config: ConfigDict, workdir: str, output: str) -> None:
    """Rank the clips of `config.data.test`; print the first `config.suspects.show`, and write all of them to `output`.

    Raises ValueError if no clip is usable or `output` cannot be written.
    """
    if not config.data.test:
        raise ValueError("config.data.test is empty: give the manifest to examine, --config.data.test=train.jsonl")
    output_file.check(output)
    refuse_inputs([output], manifests.paths_of(config.data.test))
    if config.suspects.show < 0:
        raise ValueError(f"config.suspects.show is {config.suspects.show}: use 0 (all) or more")
    meta, variables = load_model(config.restore or workdir)
    ignored = manifests.parse_ignored(config.data.ignore_keys)
    manifest = manifests.read_many(config.data.test, need_text=False, ignore_keys=ignored)
    processes.require_same(lambda: {"config.data.test (digest)": manifest.digest()})
    evaluator = Evaluator(meta, sharding.make_mesh(), settings.read_evaluation(config))
    with processes.expect_progress(config.train.stall_s):
        suspects, problems = rank_suspects(evaluator, variables, manifest)
    if processes.rank() == 0:
        shown = suspects[: config.suspects.show] if config.suspects.show else suspects
        print(f"{len(shown)} of {len(suspects)} clips ({SCORE})")
        for rank, suspect in enumerate(shown, start=1):
            _print(rank, suspect, manifest)
        if output:
            records = [_make_record(rank, suspect, manifest) for rank, suspect in enumerate(suspects, start=1)]
            records += [{**_locate(manifest, row), "error": problem} for row, problem in sorted(problems.items())]
            output_file.write_lines(output, records)
            print(f"{len(suspects)} clips, {len(problems)} problems: {escape(output)}")
    report_problems(manifest, [suspect.row for suspect in suspects], problems)


def _print(rank: int, suspect: Suspect, manifest: Manifest) -> None:
    print(f"{rank:5d}. {suspect.score:7.2f}  {escape(manifest.where(suspect.row))}")
    print(f"       text:       {escape(manifest.text[suspect.row])}")
    print(f"       recognised: {suspect.recognised}")
    if suspect.note:
        print(f"       {suspect.note}")


def _make_record(rank: int, suspect: Suspect, manifest: Manifest) -> dict:
    """Return a clip's line for --output; a text that does not fit its clip has no score."""
    record = {"rank": rank, **_locate(manifest, suspect.row), "text": manifest.text[suspect.row]}
    record |= {"recognised": suspect.recognised, "score": suspect.score if math.isfinite(suspect.score) else None}
    return {**record, "note": suspect.note} if suspect.note else record


def _locate(manifest: Manifest, row: int) -> dict:
    """Return where a row is: its audio file, its manifest and its line there."""
    audio, source = manifest.audio[row], manifest.sources[manifest.source[row]]
    line = int(manifest.line[row])
    packed = {ORIGINAL_KEY: manifest.name(row)} if parse_reference(audio) else {}
    return {"audio_filepath": audio, **part_keys(manifest.clips[row]), **packed, "manifest": source, "line": line}
