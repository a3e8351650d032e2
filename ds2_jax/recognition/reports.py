"""Write the reports of an evaluation into a run's folder."""

import json
from collections.abc import Mapping
from pathlib import Path

from decoding.scoring import report, report_page
from ds2_jax.artifacts.workdir import Workdir
from ds2_jax.recognition.evaluation import Evaluation
from input_pipeline.manifest import Manifest
from input_pipeline.shards.format import parse_reference
from input_pipeline.storage import object_store


def write_reports(
    evaluation: Evaluation, manifest: Manifest, files: Workdir, name: str, title: str, facts: Mapping[str, str]
) -> None:
    """Write `<name>.html`, `<name>.txt` and `<name>.json` into a run's folder.

    manifest: the one evaluated. facts: what was measured, such as model, decoding and date, by the name that the reports
    show; keys of the JSON file are in lower case.
    """
    folder = Path(files.local)
    rows = [row for row in range(len(manifest)) if row not in evaluation.problems]
    content = report.Report(
        title=title,
        result=evaluation.result,
        references=evaluation.references,
        hypotheses=evaluation.hypotheses,
        names=evaluation.names,
        audio=[] if object_store.is_remote(files.path) else [_local_file(manifest, row) for row in rows],
        durations=manifest.duration[rows].tolist(),
        facts=facts,
    )
    report_page.write_html(folder / f"{name}.html", content)
    report.write_text(folder / f"{name}.txt", content)
    record = evaluation.result.as_dict() | {fact.lower(): value for fact, value in facts.items()}
    record["data"] = list(manifest.sources)
    (folder / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _local_file(manifest: Manifest, row: int) -> str:
    """Return the path of a clip that is a local file; '' for parts of files, records of shards, and objects in a store."""
    audio = manifest.audio[row]
    return "" if manifest.part(row) or object_store.is_remote(audio) or parse_reference(audio) else audio
