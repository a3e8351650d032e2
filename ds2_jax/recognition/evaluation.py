"""Evaluate a model on a manifest: the network on the device, decoding and error rates on the host."""

import contextlib
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import jax
import numpy as np
from tqdm import tqdm

from decoding.hypothesis import Hypothesis, Word
from decoding.scoring.error_rate import Result, summarise
from decoding.search import greedy
from decoding.search.beam import Engine
from ds2_jax.artifacts.bundle import ModelMeta
from ds2_jax.parallel import processes, sharding
from ds2_jax.recognition.device_features import with_features
from ds2_jax.recognition.out_of_memory import explained
from ds2_jax.recognition.recogniser import Recogniser
from ds2_jax.recognition.step import abstract_inputs, make_eval_step
from input_pipeline import manifest as manifests
from input_pipeline.augment import Augmentation
from input_pipeline.batches.corpus import Corpus, describe_problems
from input_pipeline.batches.inputs import make_inputs
from input_pipeline.batches.labels import Labels, encode_transcripts
from input_pipeline.batches.loader import LoadSettings, RowShare, planned_frames
from input_pipeline.batches.plan import BatchSettings
from input_pipeline.manifest import Manifest
from input_pipeline.manifest.sample_rates import warn_about_upsampling
from input_pipeline.text import ScoringRules

logger = logging.getLogger("ds2_jax")


@dataclass(frozen=True)
class EvaluationSettings:
    """Settings of an evaluation: its batches, how they are loaded, and what they bring to the device (`make_inputs`).

    batch.seconds (0: no limit) bounds the memory: utterances that are longer are recognised in parts by `evaluate`, and left
    out, and reported, by an `Evaluator` alone.
    """

    batch: BatchSettings = field(
        default_factory=lambda: BatchSettings(size=16, seconds=300.0, buckets=4, shuffle="none")
    )
    load: LoadSettings = field(default_factory=LoadSettings)
    transfer: str = ""


@dataclass
class Transcripts:
    """Hypotheses by row of the manifest, and the rows that could not be read."""

    nbest: dict[int, list[Hypothesis]] = field(default_factory=dict)  # best first, at least one
    problems: dict[int, str] = field(default_factory=dict)
    loss: float = 0.0  # sum of -ln p(text) over `count` utterances
    count: int = 0

    @property
    def hypotheses(self) -> dict[int, Hypothesis]:
        """The best hypothesis of each row."""
        return {row: hypotheses[0] for row, hypotheses in self.nbest.items()}


@dataclass(frozen=True)
class Evaluation:
    """Error rates of a model on a manifest, with the texts that they were computed from."""

    result: Result
    loss: float  # mean -ln p(text) of the utterances that have an alignment; nan: none has one
    references: list[str]
    hypotheses: list[str]
    names: list[str]
    problems: dict[int, str]


class Evaluator:
    """Compiled evaluation step of one model, for any number of manifests and sets of variables.

    Without an engine, decoding is greedy, and the device only returns the best symbol of each frame. `log_probs` requires
    `all_symbols`.
    """

    def __init__(
        self,
        meta: ModelMeta,
        mesh: jax.sharding.Mesh,
        settings: EvaluationSettings,
        engine: Engine | None = None,
        *,
        all_symbols: bool = False,
    ):
        self.meta = meta
        self._mesh = mesh
        self._settings = settings
        self._engine = None if engine is None or engine.name == "greedy" else engine
        self._reported: set[str] = set()  # problems; those of a dev set are the same at each evaluation
        everywhere, rows = sharding.replicated(mesh), sharding.row_sharding(mesh)
        all_symbols = all_symbols or self._engine is not None
        self._inputs = make_inputs(meta.front_end, Augmentation(), settings.transfer)
        step = with_features(make_eval_step(meta.network, all_symbols=all_symbols), self._inputs)
        by_row = ("log_probs",) if all_symbols else ("ids", "probabilities")
        outputs = dict.fromkeys((*by_row, "lengths", "text_loss"), rows) | dict.fromkeys(
            ("loss", "count", "infeasible"), everywhere
        )
        self._step = jax.jit(sharding.on_mesh(step, mesh), in_shardings=(everywhere, rows), out_shardings=outputs)

    def measure(
        self,
        variables: dict,
        manifest: Manifest,
        *,
        progress: str = "evaluate",
        on_batch: Callable[[], None] = lambda: None,
        recogniser: Recogniser | None = None,
    ) -> Evaluation:
        """Measure variables on a manifest with text. Unusable clips are skipped, reported and listed in `problems`.

        progress: label of the progress bar. on_batch: called after each batch; may raise. recogniser: of the same model, for
        utterances that are longer than a batch. Raises ValueError if no utterance can be used.
        """
        meta = self.meta
        labels, unwritable = encode_transcripts(manifest, meta.vocabulary, meta.text)
        self._warn_about_texts(manifest, unwritable)
        if processes.rank() == 0:
            warn_about_upsampling(manifest, meta.features.sample_rate_hz, logger)
        corpus = self.corpus(manifest, labels)
        transcripts = self.transcribe(variables, corpus, progress=progress, on_batch=on_batch, recogniser=recogniser)
        best = transcripts.hypotheses
        rows = sorted(best)
        report_problems(manifest, rows, transcripts.problems, self._reported)
        references = [meta.text.normalise(manifest.text[row]) for row in rows]
        hypotheses = [best[row].text for row in rows]
        names = [manifest.name(row) for row in rows]
        speakers = [manifest.speaker(row) for row in rows]
        rules = ScoringRules.for_language(meta.language)
        result = summarise(
            references, hypotheses, rules=rules, speakers=speakers if any(speakers) else None, names=names
        )
        loss = transcripts.loss / transcripts.count if transcripts.count else math.nan
        return Evaluation(result, loss, references, hypotheses, names, transcripts.problems)

    def _warn_about_texts(self, manifest: Manifest, problems: Mapping[int, str]) -> None:
        """Say once that there are texts that the network cannot write, which count as errors."""
        message = (
            f"{len(problems)} of {len(manifest)} texts of {', '.join(manifest.sources)} cannot be written by the network "
            "(errors, and left out of the loss)"
        )
        if problems and processes.rank() == 0 and message not in self._reported:
            self._reported.add(message)
            logger.warning("%s, such as %s: %s", message, manifest.where(min(problems)), problems[min(problems)])

    def corpus(self, manifest: Manifest, labels: Labels | None = None) -> Corpus:
        """Return the corpus of a manifest for evaluation: batched by length, without augmentation."""
        return Corpus(
            manifest,
            labels,
            self.meta.front_end,
            self._settings.batch,
            load=self._settings.load,
            share=RowShare(*sharding.share_of_rows(self._mesh)),
            longest_s=self._settings.batch.seconds or math.inf,
            transfer=self._settings.transfer,
        )

    def probe(self, variables: dict, manifest: Manifest) -> None:
        """Run the largest batch of a manifest with text, without effect, and report the utterances that are left out.

        Raises MemoryError if it does not fit, and ValueError if all utterances are left out.
        """
        labels, _ = encode_transcripts(manifest, self.meta.vocabulary, self.meta.text)
        corpus = self.corpus(manifest, labels)
        report_problems(manifest, np.flatnonzero(~corpus.left_out), self._too_long(corpus), self._reported)
        shape = max(corpus.shapes, key=lambda shape: (shape[0] * shape[1], shape[2]))
        local = corpus.share.rows_of(shape[0])
        abstract = abstract_inputs((local.stop - local.start, *shape[1:]), self._inputs)
        fitting = np.flatnonzero(planned_frames(manifest, self.meta.features) <= shape[1])
        with self._explained(corpus, fitting):
            batch = {name: np.zeros(x.shape, x.dtype) for name, x in abstract.items()}
            variables = sharding.put(variables, sharding.replicated(self._mesh))
            sharding.to_host(self._step(variables, sharding.put_batch(batch, self._mesh)))

    def transcribe(
        self,
        variables: dict,
        corpus: Corpus,
        *,
        progress: str = "recognise",
        on_batch: Callable[[], None] = lambda: None,
        recogniser: Recogniser | None = None,
    ) -> Transcripts:
        """Recognise every utterance of a corpus once; a batch is decoded while the device computes the next one.

        Each process decodes its rows of every batch; all processes return all transcripts. on_batch and recogniser: as for
        `measure`; without a recogniser, longer utterances are problems. The loss does not count them.
        """
        transcripts = Transcripts()
        decoding: Future | None = None
        with ThreadPoolExecutor(1, "decode") as host:
            for output, rows in self.outputs(variables, corpus, transcripts, progress):
                on_batch()
                if decoding is not None:
                    transcripts.nbest |= decoding.result()
                decoding = host.submit(self._decode, output, rows)
            if decoding is not None:
                transcripts.nbest |= decoding.result()
        if recogniser is not None:
            self._recognise_long(recogniser, corpus, transcripts)
        for nbest, problems in processes.gather((transcripts.nbest, transcripts.problems), classes=(Hypothesis, Word)):
            transcripts.nbest |= nbest
            transcripts.problems |= problems
        return transcripts

    @staticmethod
    def _recognise_long(recogniser: Recogniser, corpus: Corpus, transcripts: Transcripts) -> None:
        """Recognise this process's share of the utterances that are longer than a batch, instead of reporting them."""
        rows = np.flatnonzero(corpus.left_out).tolist()
        for row in rows:
            transcripts.problems.pop(row)
        own = rows[processes.rank() :: processes.count()]
        for index, result in recogniser.transcribe_each(corpus.manifest.clips[row] for row in own):
            if isinstance(result, Exception):
                transcripts.problems[own[index]] = str(result)
            else:
                transcripts.nbest[own[index]] = result.nbest

    def log_probs(
        self, variables: dict, corpus: Corpus, *, progress: str = "recognise"
    ) -> tuple[dict[int, np.ndarray], dict[int, str]]:
        """Return natural-log probabilities [U, K] f32 by row of the manifest, without decoding, and the rows' problems.

        Process 0 returns those of all processes, the others return none. Requires `all_symbols`.
        """
        local, transcripts = {}, Transcripts()
        for output, rows in self.outputs(variables, corpus, transcripts, progress):
            for row, utterance in rows.items():
                local[utterance] = output["log_probs"][row, : output["lengths"][row]].copy()
        log_probs: dict[int, np.ndarray] = {}
        problems: dict[int, str] = {}
        for arrays, messages in processes.gather((local, transcripts.problems), everywhere=False):
            log_probs |= arrays
            problems |= messages
        return log_probs, problems

    def outputs(
        self, variables: dict, corpus: Corpus, transcripts: Transcripts, progress: str
    ) -> Iterator[tuple[dict, dict[int, int]]]:
        """Run the step on every batch; yield its output on the host, and the manifest's row for each valid batch row.

        Both cover the rows that this process loads. Their problems, and the loss sums of all processes, are added to
        `transcripts`.
        """
        variables = sharding.put(variables, sharding.replicated(self._mesh))
        specs = corpus.plan_epoch(0)
        transcripts.problems |= self._too_long(corpus)
        with (
            tqdm(total=len(corpus.manifest), desc=progress, unit=" utterances", delay=2.0, leave=False) as bar,
            contextlib.closing(corpus.batches(specs)) as batches,
        ):
            for number, (spec, batch) in enumerate(zip(specs, batches, strict=True), start=1):
                processes.report_progress(f"{progress}: batch {number} of {len(specs)}")
                problems, utterances, valid = batch.pop("problem"), batch["utterance"], batch["valid"]
                with self._explained(corpus, spec.utterances):
                    output = sharding.to_host(self._step(variables, sharding.put_batch(batch, self._mesh)))
                transcripts.loss += float(output["loss"])
                transcripts.count += int(output["count"])
                present = np.flatnonzero(utterances >= 0)
                transcripts.problems |= {int(utterances[row]): str(problems[row]) for row in present if not valid[row]}
                yield output, {int(row): int(utterances[row]) for row in present if valid[row]}
                bar.update(len(spec.utterances))
                processes.report_progress(f"{progress}: waiting for the data of batch {number + 1}")

    def _explained(self, corpus: Corpus, utterances: np.ndarray) -> contextlib.AbstractContextManager:
        """Return a context in which too little memory for a batch with these rows raises MemoryError, naming the longest."""

        def describe(reason: str) -> str:
            longest = int(utterances[np.argmax(corpus.manifest.duration[utterances])])
            batch = self._settings.batch
            return (
                f"{corpus.manifest.where(longest)}: the evaluation batch with this utterance of "
                f"{corpus.manifest.duration[longest]:g} s does not fit into memory ({reason}): reduce "
                f"config.batch.eval_seconds (here {batch.seconds:g}) or config.batch.eval_size (here {batch.size})"
            )

        return explained(describe)

    @staticmethod
    def _too_long(corpus: Corpus) -> dict[int, str]:
        """Return the problem of each row that is left out."""
        return {
            row: f"{corpus.manifest.duration[row]:g} s are more than config.batch.eval_seconds={corpus.longest_s:g}: split "
            "the recording at pauses, or increase the setting, which takes more memory"
            for row in np.flatnonzero(corpus.left_out).tolist()
        }

    def _decode(self, output: dict, rows: Mapping[int, int]) -> dict[int, list[Hypothesis]]:
        lengths = output["lengths"]
        if self._engine is not None:
            nbest = self._engine.decode_batch([output["log_probs"][row, : lengths[row]] for row in rows])
            return dict(zip(rows.values(), nbest, strict=True))
        vocabulary, frame_s = self.meta.vocabulary, self.meta.output_frame_s
        best = {
            utterance: (output["ids"][row, : lengths[row]], output["probabilities"][row, : lengths[row]])
            for row, utterance in rows.items()
        }
        return {utterance: [greedy.decode(*path, vocabulary, frame_s)] for utterance, path in best.items()}


def evaluate(
    model: Recogniser,
    manifest: Manifest | str,
    settings: EvaluationSettings | None = None,
    *,
    progress: str = "evaluate",
) -> Evaluation:
    """Measure a loaded model on a manifest with text, with the model's decoding settings.

    manifest: a manifest, its path, or several paths as `a.jsonl,b.jsonl`. progress: label of the progress bar. Raises
    ManifestError, and ValueError if no utterance can be used.
    """
    utterances = manifests.read_many(manifest) if isinstance(manifest, str) else manifest
    evaluator = Evaluator(model.meta, sharding.make_mesh(), settings or EvaluationSettings(), model.engine)
    return evaluator.measure(model.variables, utterances, progress=progress, recogniser=model)


def report_problems(
    manifest: Manifest,
    usable: Sequence[int] | np.ndarray,
    problems: Mapping[int, str],
    reported: set[str] | None = None,
) -> None:
    """Log a warning with the problems of unusable rows; raise ValueError if there is no usable row.

    reported: descriptions that are not repeated; the new one is added.
    """
    reported = set() if reported is None else reported
    if problems:
        description = describe_problems(manifest, problems)
        if description not in reported and processes.rank() == 0:
            logger.warning("%d of %d utterances cannot be used:\n%s", len(problems), len(manifest), description)
        reported.add(description)
    if not len(usable):
        raise ValueError(
            f"{', '.join(manifest.sources)}: none of the {len(manifest)} utterances can be used: fix the problems above"
        )
