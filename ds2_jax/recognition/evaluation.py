"""Evaluate a model on a manifest: the network on the device, decoding and error rates on the host."""

import contextlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from decoding.scoring import report, report_page
from decoding.scoring.error_rate import Result, summarise
from decoding.search import greedy
from decoding.search.beam import Engine
from ds2_jax.artifacts.bundle import ModelMeta
from ds2_jax.artifacts.workdir import Workdir
from ds2_jax.parallel import processes, sharding
from ds2_jax.recognition.step import make_eval_step
from input_pipeline.batches.corpus import Corpus, Loading, describe_upsampling, name_problems
from input_pipeline.batches.labels import Labels, encode_transcripts
from input_pipeline.batches.plan import BatchSettings
from input_pipeline.manifest import Manifest
from input_pipeline.shards.format import parse_reference
from input_pipeline.storage import object_store
from input_pipeline.text import ScoringRules, normalise

logger = logging.getLogger("ds2_jax")


@dataclass
class Transcripts:
    """What was recognised, by row of the manifest, and which rows could not be read."""

    nbest: dict[int, list[greedy.Hypothesis]] = field(default_factory=dict)  # best first, at least one
    problems: dict[int, str] = field(default_factory=dict)
    loss: float = 0.0  # sum of -ln p(text) over `count` utterances
    count: int = 0

    @property
    def hypotheses(self) -> dict[int, greedy.Hypothesis]:
        """The best hypothesis of each row."""
        return {row: found[0] for row, found in self.nbest.items()}


class Evaluator:
    """The compiled evaluation step of one model, used on any number of manifests and sets of variables.

    Without an engine, decoding is greedy, and the device hands over the best symbols only.
    """

    def __init__(self, meta: ModelMeta, mesh: jax.sharding.Mesh, engine: Engine | None = None, *, all_symbols=False):
        self._meta = meta
        self._mesh = mesh
        self._engine = engine
        everywhere, rows = sharding.replicated(mesh), sharding.by_row(mesh)
        all_symbols = all_symbols or engine is not None
        step = make_eval_step(meta.network, all_symbols=all_symbols)
        of_rows = ("log_probs", "lengths") if all_symbols else ("ids", "probabilities", "lengths")
        outputs = dict.fromkeys(of_rows, rows) | dict.fromkeys(("loss", "count", "infeasible"), everywhere)
        self._step = jax.jit(step, in_shardings=(everywhere, rows), out_shardings=outputs)

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

    def transcribe(
        self, variables: dict, corpus: Corpus, *, progress: str = "", between: Callable[[], None] = lambda: None
    ) -> Transcripts:
        """Recognise every utterance of a corpus once; a batch is decoded while the device computes the next one.

        Each process decodes its rows of every batch; all of them return what all have found. `between` is called after
        each batch, and may raise.
        """
        found = Transcripts()
        decoding: Future | None = None
        with ThreadPoolExecutor(1, "decode") as host:
            for output, rows in self._outputs(variables, corpus, found, progress or "recognise"):
                between()
                if decoding is not None:
                    found.nbest |= decoding.result()
                decoding = host.submit(self._decode, output, rows)
            if decoding is not None:
                found.nbest |= decoding.result()
        for nbest, problems in processes.gather((found.nbest, found.problems)):
            found.nbest |= nbest
            found.problems |= problems
        return found

    def log_probs(
        self, variables: dict, corpus: Corpus, *, progress: str = ""
    ) -> tuple[dict[int, np.ndarray], dict[int, str]]:
        """Run the network only: natural-log probabilities [U, K] f32 by row of the manifest, and the rows' problems.

        Those of all processes in process 0, none in the others. For an evaluator made with `all_symbols`.
        """
        found, mine = {}, Transcripts()
        for output, rows in self._outputs(variables, corpus, mine, progress or "recognise"):
            for place, utterance in rows.items():
                found[utterance] = output["log_probs"][place, : output["lengths"][place]].copy()
        log_probs: dict[int, np.ndarray] = {}
        problems: dict[int, str] = {}
        for more, named in processes.gather((found, mine.problems), everywhere=False):
            log_probs |= more
            problems |= named
        return log_probs, problems

    def _outputs(
        self, variables: dict, corpus: Corpus, found: Transcripts, progress: str
    ) -> Iterator[tuple[dict, dict[int, int]]]:
        """Run the step on every batch -> its output on the host, and which row of it is which row of the manifest.

        Both for the rows that this process loads. Its problems, and the sums of all, go into `found`.
        """
        variables = sharding.place(variables, sharding.replicated(self._mesh))
        specs = corpus.epoch(0)
        with (
            tqdm(total=len(corpus.manifest), desc=progress, unit=" utterances", delay=2.0, leave=False) as bar,
            contextlib.closing(corpus.batches(specs)) as batches,
        ):
            for number, (spec, batch) in enumerate(zip(specs, batches, strict=True), start=1):
                processes.note(f"{progress}: batch {number} of {len(specs)}")
                problems, utterances, valid = batch.pop("problem"), batch["utterance"], batch["valid"]
                output = sharding.to_host(self._step(variables, sharding.put_batch(batch, self._mesh)))
                found.loss += float(output["loss"])
                found.count += int(output["count"])
                present = np.flatnonzero(utterances >= 0)
                found.problems |= {int(utterances[row]): str(problems[row]) for row in present if not valid[row]}
                yield output, {int(row): int(utterances[row]) for row in present if valid[row]}
                bar.update(len(spec.utterances))
                processes.note(f"{progress}: waiting for the data of batch {number + 1}")

    def _decode(self, output: dict, rows: Mapping[int, int]) -> dict[int, list[greedy.Hypothesis]]:
        lengths = output["lengths"]
        if self._engine is not None:
            found = self._engine.decode_batch([output["log_probs"][row, : lengths[row]] for row in rows])
            return dict(zip(rows.values(), found, strict=True))
        vocabulary, frame_s = self._meta.vocabulary, self._meta.output_frame_s
        best = {
            utterance: (output["ids"][row, : lengths[row]], output["probabilities"][row, : lengths[row]])
            for row, utterance in rows.items()
        }
        return {utterance: [greedy.decode(*path, vocabulary, frame_s)] for utterance, path in best.items()}


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
    evaluator: Evaluator,
    meta: ModelMeta,
    variables: dict,
    manifest: Manifest,
    config: Mapping,
    *,
    progress: str = "",
    between: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Measure a model on a manifest with text. Unreadable clips are left out, named and counted in `problems`.

    `between` is called after each batch, and may raise.
    """
    labels, _ = encode_transcripts(manifest, meta.vocabulary, meta.language)  # what it cannot write counts as errors
    warning = describe_upsampling(manifest, meta.features.sample_rate_hz)
    if warning and processes.rank() == 0:
        logger.warning("%s", warning)
    corpus = evaluator.corpus(manifest, config, labels)
    found = evaluator.transcribe(variables, corpus, progress=progress, between=between)
    best = found.hypotheses
    rows = sorted(best)
    tell_problems(manifest, rows, found.problems)
    references = [normalise(manifest.text[row], meta.language) for row in rows]
    hypotheses = [best[row].text for row in rows]
    names = [manifest.name(row) for row in rows]
    speakers = [manifest.speaker(row) for row in rows]
    rules = ScoringRules.for_language(meta.language)
    result = summarise(references, hypotheses, rules=rules, speakers=speakers if any(speakers) else None, names=names)
    return Evaluation(result, found.loss / max(found.count, 1), references, hypotheses, names, found.problems)


def tell_problems(manifest: Manifest, usable: Sequence[int], problems: dict[int, str]) -> None:
    """Warn of the rows of a manifest that could not be used; raise ValueError where none could."""
    if problems and processes.rank() == 0:
        named = name_problems(manifest, problems)
        logger.warning("%d of %d utterances could not be used:\n%s", len(problems), len(manifest), named)
    if not usable:
        raise ValueError(f"{', '.join(manifest.sources)}: none of its {len(manifest)} utterances could be used")


def loading(config: Mapping, mesh: jax.sharding.Mesh, parts: int = 1) -> Loading:
    """Say how batches are loaded for this mesh."""
    data = config["data"]
    return Loading(
        workers=data["workers"],
        threads=data["threads"],
        prefetch=data["prefetch"],
        multiple=mesh.size * parts,
        process=processes.rank(),
        processes=processes.count(),
    )


def write_reports(
    evaluation: Evaluation, manifest: Manifest, files: Workdir, name: str, title: str, facts: Mapping[str, str]
) -> None:
    """Write `<name>.html`, `<name>.txt` and `<name>.json` into a run's folder.

    manifest: what was evaluated. facts: what the HTML page states in its head, by name, for instance model and decoding.
    """
    folder = Path(files.local)
    rows = [row for row in range(len(manifest)) if row not in evaluation.problems]
    content = report.Report(
        title=title,
        result=evaluation.result,
        references=evaluation.references,
        hypotheses=evaluation.hypotheses,
        names=evaluation.names,
        audio=[] if object_store.is_remote(files.path) else [_local_file(manifest.audio[row]) for row in rows],
        durations=manifest.duration[rows].tolist(),
        facts=facts,
    )
    report_page.write_html(folder / f"{name}.html", content)
    report.write_text(folder / f"{name}.txt", content)
    (folder / f"{name}.json").write_text(json.dumps(evaluation.result.as_dict(), indent=1) + "\n", encoding="utf-8")


def _local_file(audio: str) -> str:
    """Return the path of a clip that is a file of its own; '' for records of shards and clips in an object store."""
    return "" if object_store.is_remote(audio) or parse_reference(audio) else audio
