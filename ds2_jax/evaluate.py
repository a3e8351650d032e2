"""Evaluate a model on a manifest: greedy decoding on the device, error rates on the host."""

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from decoding import greedy, report
from decoding.error_rate import Result, summarise
from ds2_jax import sharding
from ds2_jax.bundle import ModelMeta
from ds2_jax.checkpoint import load_model
from ds2_jax.steps import make_eval_step
from input_pipeline import manifest as manifests
from input_pipeline.batch_plan import BatchSettings
from input_pipeline.corpus import Corpus, Loading, describe_upsampling, name_problems
from input_pipeline.manifest import Manifest
from input_pipeline.pipeline import Labels, encode_transcripts
from input_pipeline.text import ScoringRules, normalise

logger = logging.getLogger("ds2_jax")


@dataclass
class Transcripts:
    """What was recognised, by row of the manifest, and which rows could not be read."""

    hypotheses: dict[int, greedy.Hypothesis] = field(default_factory=dict)
    problems: dict[int, str] = field(default_factory=dict)
    loss: float = 0.0  # sum of -ln p(text) over `count` utterances
    count: int = 0


class Evaluator:
    """The compiled evaluation step of one model, used on any number of manifests and sets of variables."""

    def __init__(self, meta: ModelMeta, mesh: jax.sharding.Mesh):
        self._meta = meta
        self._mesh = mesh
        everywhere, rows = sharding.replicated(mesh), sharding.by_row(mesh)
        self._step = jax.jit(make_eval_step(meta.network), in_shardings=(everywhere, rows), out_shardings=everywhere)

    def corpus(self, manifest: Manifest, config: Mapping, labels: Labels | None) -> Corpus:
        """Plan a manifest for evaluation: by length, nothing augmented."""
        batch = BatchSettings(
            size=config["batch"]["eval_size"], seconds=0.0, buckets=config["batch"]["eval_buckets"], shuffle="none"
        )
        return Corpus(
            manifest,
            labels,
            self._meta.features,
            self._meta.normalisation,
            self._meta.stats,
            batch,
            loading=loading(config, self._mesh),
        )

    def transcribe(self, variables: dict, corpus: Corpus, *, progress: str = "") -> Transcripts:
        """Recognise every utterance of a corpus once."""
        variables = jax.device_put(variables, sharding.replicated(self._mesh))
        found = Transcripts()
        specs = corpus.epoch(0)
        bar = tqdm(total=len(corpus.manifest), desc=progress or "recognise", unit=" utterances", delay=2.0, leave=False)
        with bar:
            for batch in corpus.batches(specs):
                problems, utterances, valid = batch.pop("problem"), batch["utterance"], batch["valid"]
                output = jax.device_get(self._step(variables, sharding.put_batch(batch, self._mesh)))
                self._collect(found, output, utterances, valid, problems)
                bar.update(int((utterances >= 0).sum()))
        return found

    def _collect(self, found: Transcripts, output: dict, utterances, valid, problems) -> None:
        found.loss += float(output["loss"])
        found.count += int(output["count"])
        for row in np.flatnonzero(utterances >= 0):
            if not valid[row]:
                found.problems[int(utterances[row])] = str(problems[row])
                continue
            length = int(output["lengths"][row])
            found.hypotheses[int(utterances[row])] = greedy.decode(
                output["ids"][row, :length],
                output["probabilities"][row, :length],
                self._meta.vocabulary,
                self._meta.output_frame_s,
            )


@dataclass(frozen=True)
class Evaluation:
    """Error rates of a model on a manifest, with what they were made from."""

    result: Result
    loss: float  # mean -ln p(text) of the utterances that have an alignment
    references: list[str]
    hypotheses: list[str]
    names: list[str]
    problems: dict[int, str]


def evaluate(
    evaluator: Evaluator, meta: ModelMeta, variables: dict, manifest: Manifest, config: Mapping, *, progress: str = ""
) -> Evaluation:
    """Measure a model on a manifest with text. Unreadable clips are left out, named and counted in `problems`."""
    labels, _ = encode_transcripts(manifest, meta.vocabulary, meta.language)  # what it cannot write counts as errors
    warning = describe_upsampling(manifest, meta.features.sample_rate_hz)
    if warning:
        logger.warning("%s", warning)
    found = evaluator.transcribe(variables, evaluator.corpus(manifest, config, labels), progress=progress)
    if found.problems:
        logger.warning(
            "%d of %d utterances could not be used:\n%s",
            len(found.problems),
            len(manifest),
            name_problems(manifest, found.problems),
        )
    rows = sorted(found.hypotheses)
    if not rows:
        raise ValueError(f"{', '.join(manifest.sources)}: none of its {len(manifest)} utterances could be used")
    references = [normalise(manifest.text[row], meta.language) for row in rows]
    hypotheses = [found.hypotheses[row].text for row in rows]
    names = [manifest.path_as_written(row) for row in rows]
    speakers = [manifest.speaker(row) for row in rows]
    rules = ScoringRules.for_language(meta.language)
    result = summarise(references, hypotheses, rules=rules, speakers=speakers if any(speakers) else None, names=names)
    return Evaluation(result, found.loss / max(found.count, 1), references, hypotheses, names, found.problems)


def loading(config: Mapping, mesh: jax.sharding.Mesh, parts: int = 1) -> Loading:
    """Say how batches are loaded for this mesh."""
    data = config["data"]
    return Loading(
        workers=data["workers"],
        threads=data["threads"],
        prefetch=data["prefetch"],
        multiple=mesh.size * parts,
        process=jax.process_index(),
        processes=jax.process_count(),
    )


def run_eval(config: Mapping, workdir: str) -> dict:
    """`--mode=eval`: measure `config.restore` (or the run in the workdir) on `config.data.test`.

    Return what is printed.
    """
    if not config["data"]["test"]:
        raise ValueError("config.data.test is empty: name the manifest to evaluate, --config.data.test=test.jsonl")
    meta, variables = load_model(config["restore"] or workdir)
    manifest = manifests.read_many(config["data"]["test"])
    mesh = sharding.make_mesh()
    evaluation = evaluate(Evaluator(meta, mesh), meta, variables, manifest, config, progress="evaluate")
    summary = {**evaluation.result.as_dict(), "loss": _finite(evaluation.loss), "unusable": len(evaluation.problems)}
    if workdir and jax.process_index() == 0:
        write_reports(evaluation, Path(workdir), "eval", ", ".join(manifest.sources))
    return summary


def write_reports(evaluation: Evaluation, folder: Path, name: str, title: str) -> None:
    """Write `<name>.html`, `<name>.txt` and `<name>.json` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    arguments = (evaluation.result, evaluation.references, evaluation.hypotheses, evaluation.names)
    report.write_html(folder / f"{name}.html", *arguments, title=title)
    report.write_text(folder / f"{name}.txt", *arguments, title=title)
    (folder / f"{name}.json").write_text(json.dumps(evaluation.result.as_dict(), indent=1) + "\n", encoding="utf-8")


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
