"""Train a network: one loop, read from top to bottom."""

import contextlib
import functools
import logging
import os
import time
from collections.abc import Sequence

import jax
from clu import parameter_overview
from ml_collections import ConfigDict

from ds2_jax.artifacts.bundle import ModelMeta
from ds2_jax.artifacts.load import load_model
from ds2_jax.artifacts.run_record import write_run_record
from ds2_jax.artifacts.workdir import Workdir, make_workdir
from ds2_jax.parallel import processes, sharding
from ds2_jax.parallel.stopping import Stopped, Stopping
from ds2_jax.recognition.evaluation import Evaluation, Evaluator, evaluate, write_reports
from ds2_jax.training import resume
from ds2_jax.training.checkpoint import Checkpoints, Progress
from ds2_jax.training.compile import batch_shape, compile_steps
from ds2_jax.training.data import make_corpus, read_training_manifest, refuse_too_many, start_model
from ds2_jax.training.meter import Meter
from ds2_jax.training.metrics_log import MetricsLog
from ds2_jax.training.optim import make_optimizer, make_schedule
from ds2_jax.training.profiling import Profiler
from ds2_jax.training.state import TrainState, start_state
from ds2_jax.training.step import make_train_step
from input_pipeline import manifest as manifests
from input_pipeline.batches.corpus import Corpus, name_problems
from input_pipeline.batches.loader import BatchSpec

logger = logging.getLogger("ds2_jax")

FULL_ENOUGH = 0.9  # share of a batch's rows that are utterances, below which a warning says what to do


def train(config: ConfigDict, workdir: str) -> dict:
    """Train as `config` says in `workdir`, from its last checkpoint on if it has one; return the final results.

    Raises ValueError, OSError or MemoryError with what to do; what was saved before is whole. Raises Stopped after a
    checkpoint that a signal asked for.
    """
    with contextlib.ExitStack() as stack:
        # Data, model, state: all of it the same on every host.
        files = stack.enter_context(make_workdir(workdir))
        checkpoints = stack.enter_context(Checkpoints(workdir, config["train"]["keep"]))
        manifest = read_training_manifest(config)
        dev = manifests.read_many(config["data"]["dev"]) if config["data"]["dev"] else None
        test = manifests.read_many(config["data"]["test"]) if config["data"]["test"] else None
        digests = {n: m.digest() for n, m in (("train", manifest), ("dev", dev), ("test", test)) if m}
        same = {f"config.data.{n} (digest)": d for n, d in digests.items()} | {"checkpoint": str(checkpoints.latest())}
        processes.require_same(lambda: same)
        meta, variables = start_model(config, manifest, files.local, checkpoints)
        mesh = sharding.make_mesh(config["mesh"]["fsdp"])
        corpus = make_corpus(config, manifest, meta, mesh)
        steps_per_epoch = len(corpus.epoch(1))
        total_steps = _total_steps(config, steps_per_epoch)
        schedule = make_schedule(config["optim"], total_steps, steps_per_epoch)
        optimizer = make_optimizer(config["optim"], schedule)
        state = start_state(variables, optimizer, mesh, average=config["optim"]["ema"] > 0)
        progress = resume.start(config, corpus.manifest, digests.get("dev", ""))
        if checkpoints.latest() is not None:
            state, progress = resume.go_on(checkpoints, state, progress, mesh, config, workdir)
            progress.finished = _is_finished(progress, config)  # more epochs may be asked for now
        _introduce(state, corpus, config, files.local, mesh, progress, steps_per_epoch, digests)

        # Compiled steps and helpers.
        evaluator = Evaluator(meta, mesh)
        stopping = stack.enter_context(Stopping(mesh))
        stack.enter_context(processes.moving(config["train"]["stall_s"]))
        if progress.finished and not progress.evaluation_due:
            logger.info("the training in %s is finished", workdir)
            return _results(config, files, checkpoints, evaluator, meta, stopping, test)
        log = stack.enter_context(MetricsLog(files.local, progress.step, active=processes.rank() == 0))
        step_function = make_train_step(
            meta.network.clone(remat=config["train"]["remat"]),
            optimizer,
            seed=config["seed"],
            accumulate=config["optim"]["accumulate"],
            ema=config["optim"]["ema"],
            gather=sharding.gatherer(mesh),
        )
        with processes.moving(0):  # however long it takes
            compiled = compile_steps(
                step_function,
                state,
                corpus.buckets,
                meta.feature_size,
                mesh,
                corpus.loading.multiple,
                between=stopping.check_at_once,
            )
        meter = stack.enter_context(Meter(config, corpus, log, schedule, progress, total_steps))
        measure = functools.partial(_measure_dev, evaluator, meta, dev, config, progress, meter, stopping, log)
        saved_at = time.monotonic()

        # The loop.
        if progress.evaluation_due:  # the last start was stopped before it
            rate = measure(state)
            if rate is not None:
                checkpoints.add_error_rate(progress, rate)
        profiler = stack.enter_context(Profiler(config["train"]["profile_step"], files.local))
        while not (stopping.stop or _is_finished(progress, config)):
            specs = _epoch(corpus, progress)
            with contextlib.closing(corpus.batches(specs[progress.batch :])) as batches:
                for batch in meter.waiting_for(batches):
                    profiler.begin(progress.step)
                    problems = batch.pop("problem")
                    arrays = sharding.put_batch(batch, mesh)
                    state, metrics = compiled[batch_shape(arrays)](state, arrays)
                    progress.step += 1
                    progress.batch += 1
                    meter.add(batch, problems, metrics)
                    save = stopping.agree(save=_checkpoint_due(saved_at, config))
                    _stop_at_bad_utterances(progress, corpus, config)
                    end = progress.batch == len(specs)
                    if end:
                        progress.epoch, progress.batch = progress.epoch + 1, 0
                    progress.finished = _is_finished(progress, config)
                    progress.evaluation_due = dev is not None and _evaluation_due(progress, config, end)
                    rate = measure(state) if progress.evaluation_due and not stopping.stop else None
                    if save or rate is not None or progress.finished or stopping.stop:
                        meter.flush()
                        _join_bad_utterances(progress, corpus, config)
                        progress.trained_s, progress.interval = meter.trained_s, meter.interval
                        checkpoints.save(state, progress, meta, rate)
                        files.push()
                        saved_at = time.monotonic()
                    if stopping.stop or progress.finished:
                        break
        if stopping.stop:
            logger.info("stopped at step %d; run the same line again to go on", progress.step)
            raise Stopped(stopping.stop, progress.step)
        checkpoints.wait()
        log.draw_curves()  # before the report, which shows them
        return _results(config, files, checkpoints, evaluator, meta, stopping, test)


def _evaluated(state: TrainState) -> dict:
    return {"params": state.evaluated, "batch_stats": state.batch_stats}


def _total_steps(config: ConfigDict, steps_per_epoch: int) -> int:
    steps = config["train"]["epochs"] * steps_per_epoch
    return min(steps, config["train"]["max_steps"]) if config["train"]["max_steps"] else steps


def _epoch(corpus: Corpus, progress: Progress) -> Sequence[BatchSpec]:
    """Plan the epoch; a plan that ends before the batch that is next is not the one that the training was in."""
    specs = corpus.epoch(progress.epoch)
    if progress.batch >= len(specs):
        raise ValueError(
            f"epoch {progress.epoch} has {len(specs)} batches, of which {progress.batch} are said to be done: this program plans "
            "other batches than the one that wrote the checkpoint; go on with that one, or choose another --workdir"
        )
    return specs


def _is_finished(progress: Progress, config: ConfigDict) -> bool:
    limits = config["train"]
    out_of_patience = limits["patience"] and progress.evaluations_since_best >= limits["patience"]
    out_of_steps = limits["max_steps"] and progress.step >= limits["max_steps"]
    return bool(progress.epoch >= limits["epochs"] or out_of_steps or out_of_patience)


def _evaluation_due(progress: Progress, config: ConfigDict, epoch_ended: bool) -> bool:
    every = config["train"]["eval_every"]
    return progress.finished or (progress.step % every == 0 if every else epoch_ended)


def _checkpoint_due(saved_at: float, config: ConfigDict) -> bool:
    """Tell whether it is time for a checkpoint between evaluations, by this process's clock."""
    return time.monotonic() - saved_at >= config["train"]["checkpoint_every_s"]


def _measure_dev(
    evaluator: Evaluator,
    meta: ModelMeta,
    dev: manifests.Manifest | None,
    config: ConfigDict,
    progress: Progress,
    meter: Meter,
    stopping: Stopping,
    log: MetricsLog,
    state: TrainState,
) -> float | None:
    """Measure dev and note it; None where a signal came first: then it is due at the next start."""
    assert dev is not None
    try:
        with meter.interrupted():
            evaluation = evaluate(
                evaluator, meta, _evaluated(state), dev, config, progress="dev", between=stopping.check
            )
            progress.evaluation_due = False
            return _note_evaluation(progress, evaluation, meta, log, config)
    except Stopped:
        return None


def _note_evaluation(
    progress: Progress, evaluation: Evaluation, meta: ModelMeta, log: MetricsLog, config: ConfigDict
) -> float:
    """Log an evaluation and keep count of the best; return the error rate that decides (CER for Mandarin, else WER)."""
    result = evaluation.result.as_dict()
    rate = result["cer"] if meta.language == "zh" else result["wer"]
    log.write(progress.step, dev_wer=result["wer"], dev_cer=result["cer"], dev_loss=evaluation.loss)
    if progress.best_error_rate is None or rate < progress.best_error_rate:
        progress.best_error_rate, progress.best_step, progress.evaluations_since_best = rate, progress.step, 0
        mark = "best so far"
    else:
        progress.evaluations_since_best += 1
        mark = f"best was {progress.best_error_rate:.2%} at step {progress.best_step}"
    progress.finished = _is_finished(progress, config)
    logger.info(
        "step %d, epoch %d: dev WER %.2f %%, CER %.2f %%, loss %.3f (%s)",
        progress.step,
        progress.epoch,
        100 * result["wer"],
        100 * result["cer"],
        evaluation.loss,
        mark,
    )
    return rate


def _stop_at_bad_utterances(progress: Progress, corpus: Corpus, config: ConfigDict) -> None:
    refuse_too_many(
        len(progress.bad_utterances),
        len(corpus.manifest),
        config["data"]["max_bad_share"],
        name_problems(corpus.manifest, dict.fromkeys(progress.bad_utterances, "cannot be used, as warned above")),
    )


def _join_bad_utterances(progress: Progress, corpus: Corpus, config: ConfigDict) -> None:
    """Put together what all processes found, so that all of it is saved and counted."""
    progress.bad_utterances = sorted(set().union(*processes.gather(progress.bad_utterances)))
    _stop_at_bad_utterances(progress, corpus, config)


def _introduce(
    state: TrainState,
    corpus: Corpus,
    config: ConfigDict,
    workdir: str,
    mesh: jax.sharding.Mesh,
    progress: Progress,
    steps_per_epoch: int,
    digests: dict[str, str],
) -> None:
    """Print what is about to happen, and record it in the workdir."""
    if processes.rank() != 0:
        return
    write_run_record(workdir, config, progress.step, digests)
    table = parameter_overview.get_parameter_overview(state.parameters, include_stats=False)
    logger.info("parameters:\n%s", table)
    hours = corpus.manifest.duration.sum() / 3600
    lengths = ", ".join(f"{b.rows}x{b.frames}" for b in corpus.buckets)
    logger.info(
        "%d utterances, %.2f h; about %d batches an epoch; padding %.1f %%; %d shapes (rows x frames): %s; %d device(s)",
        len(corpus.manifest),
        hours,
        steps_per_epoch,
        100 * corpus.padding(1),
        len(corpus.buckets),
        lengths,
        mesh.size,
    )
    rows, multiple = corpus.buckets[0].rows, corpus.loading.multiple
    if rows % multiple > 0 and rows < FULL_ENOUGH * -(-rows // multiple) * multiple:
        logger.warning(
            "a batch of %d utterances is filled up to %d, a multiple of %d devices (%d parts): choose a multiple of it",
            rows,
            -(-rows // multiple) * multiple,
            mesh.size,
            multiple // mesh.size,
        )


def _results(
    config: ConfigDict,
    files: Workdir,
    checkpoints: Checkpoints,
    evaluator: Evaluator,
    meta: ModelMeta,
    stopping: Stopping,
    test: manifests.Manifest | None,
) -> dict:
    """Measure the best checkpoint by dev, else the last weights, on the test manifest, once."""
    best = checkpoints.best()
    results: dict = {"workdir": files.path, "checkpoint": best}
    if test is None:
        return results
    _, variables = load_model(os.path.join(files.path, "checkpoints", str(best)))
    evaluation = evaluate(evaluator, meta, variables, test, config, progress="test", between=stopping.check)
    if processes.rank() == 0:
        facts = {
            "Model": files.path,
            "Checkpoint": f"step {best}",
            "Decoding": "greedy",
            "Date": time.strftime("%Y-%m-%d %H:%M %Z"),
        }
        write_reports(evaluation, test, files, "test", config["data"]["test"], facts)
    return {**results, **evaluation.result.as_dict()}
