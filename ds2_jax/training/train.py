"""Train a network: one function with the training loop, and its helpers."""

import contextlib
import logging
import os
import time
from collections.abc import Sequence

import jax
from clu import parameter_overview

from ds2_jax.artifacts.load import CHECKPOINT_FOLDER, load_model
from ds2_jax.artifacts.run_record import changed_settings, write_run_record
from ds2_jax.artifacts.workdir import Workdir, make_workdir
from ds2_jax.parallel import processes, sharding
from ds2_jax.parallel.stopping import Stopped, Stopping
from ds2_jax.recognition.device_features import with_features
from ds2_jax.recognition.evaluation import Evaluator
from ds2_jax.recognition.reports import write_reports
from ds2_jax.recognition.step import abstract_inputs
from ds2_jax.training import resume
from ds2_jax.training.checkpoint import Checkpoints
from ds2_jax.training.compile import batch_shape, compile_steps
from ds2_jax.training.data import (
    Manifests,
    choose_model,
    make_corpus,
    read_manifests,
    refuse_too_many,
    resolve_settings,
)
from ds2_jax.training.dev import DevEvaluation
from ds2_jax.training.meter import Meter
from ds2_jax.training.metrics_log import MetricsLog
from ds2_jax.training.optim import make_optimizer, make_schedule
from ds2_jax.training.profiling import Profiler
from ds2_jax.training.progress import Progress
from ds2_jax.training.settings import TrainingSettings, TrainSettings
from ds2_jax.training.state import TrainState, make_state
from ds2_jax.training.step import make_train_step
from input_pipeline.batches.corpus import Corpus
from input_pipeline.batches.loader import BatchSpec, EpochSpecs

logger = logging.getLogger("ds2_jax")

MIN_FILLED = 0.9  # share of a batch's rows that are utterances, below which a warning is logged


def train(settings: TrainingSettings, workdir: str) -> dict:
    """Train in `workdir`, from its latest checkpoint if it has one; return the final results.

    Raises ValueError, OSError or MemoryError with what to do; earlier checkpoints stay intact. Raises Stopped after the
    checkpoint that follows a signal.
    """
    with contextlib.ExitStack() as stack:
        # Data, model and state: the same on every host.
        files = stack.enter_context(make_workdir(workdir))
        checkpoints = stack.enter_context(Checkpoints(workdir, settings.train.keep))
        manifests = read_manifests(settings.data)
        digests = manifests.digests
        _require_same_inputs(digests, checkpoints)
        meta, variables = choose_model(settings, manifests.train, files.local, checkpoints)
        mesh = sharding.make_mesh(settings.fsdp)
        corpus = make_corpus(settings, manifests.train, meta, mesh)
        plan = corpus.plan_epoch(1)
        total_steps = _total_steps(settings.train, len(plan))
        schedule = make_schedule(settings.optim, total_steps, len(plan))
        optimizer = make_optimizer(settings.optim)
        state = make_state(variables, optimizer, schedule, mesh, average=settings.optim.ema > 0)
        progress = resume.new_progress(settings, corpus, digests.get("dev", ""))
        if checkpoints.latest() is not None:
            allowed = settings.train.allow_changed_data
            state, progress = resume.restore(checkpoints, state, progress, mesh, workdir, allow_changed_data=allowed)
            progress.update_finished(settings.train)  # limits may have been raised
        if processes.rank() == 0:
            values = resolve_settings(settings.config, meta)
            changes = changed_settings(files.local, values)
            if changes and progress.step:
                logger.info("settings that have changed since the last start: %s", "; ".join(changes))
            write_run_record(files.local, values, progress.step, digests)
            _log_setup(state, corpus, plan, mesh)

        # Compiled steps and helpers.
        evaluator = Evaluator(meta, mesh, settings.evaluation)
        stopping = stack.enter_context(Stopping(mesh))
        stack.enter_context(processes.expect_progress(settings.train.stall_s))
        if progress.finished and not progress.evaluation_due:
            logger.info("the training in %s is finished: %s", workdir, progress.describe_end(settings.train))
            return _measure_test(manifests, settings.data.test, files, checkpoints, evaluator, stopping)
        due, writes = progress.evaluation_due, processes.rank() == 0
        log = stack.enter_context(MetricsLog(files.local, progress.step, evaluation_due=due, active=writes))
        step_function = make_train_step(
            meta.network.clone(remat=settings.train.remat),
            optimizer,
            seed=settings.seed,
            accumulate=settings.optim.accumulate,
            ema=settings.optim.ema,
            gather=sharding.make_gather(mesh),
        )
        inputs = corpus.inputs
        abstract = {shape: abstract_inputs(shape, inputs) for shape in corpus.shapes}
        with processes.expect_progress(0):  # compilation has no time limit
            step_function = with_features(step_function, inputs)
            compiled = compile_steps(
                step_function, state, abstract, mesh, settings.load, on_shape=stopping.raise_if_signalled
            )
            dev = DevEvaluation(evaluator, manifests.dev, settings.train, progress, log)
            dev.probe(state, manifests.test)
            stopping.raise_if_signalled()
        meter = stack.enter_context(Meter(settings.train, corpus, log, schedule, progress, total_steps))
        saved_at = time.monotonic()

        # The loop.
        if progress.evaluation_due:  # the previous start was stopped before it
            _evaluate(dev, meter, state, progress, checkpoints, stopping)
        profiler = stack.enter_context(Profiler(settings.train.profile_step, files.local))
        while not (stopping.stop or progress.finished):
            specs = _plan_epoch(corpus, progress)
            with contextlib.closing(corpus.batches(specs[progress.batch :])) as batches:
                for batch in meter.timed(batches):
                    profiler.begin(progress.step)
                    problems = batch.pop("problem")
                    arrays = sharding.put_batch(batch, mesh)
                    state, metrics = compiled[batch_shape(arrays, inputs)](state, arrays)
                    progress.count_step()
                    meter.add(batch, problems, metrics)
                    save = stopping.agree(save=time.monotonic() - saved_at >= settings.train.checkpoint_every_s)
                    _stop_at_bad_utterances(progress, corpus, settings.data.max_bad_share)
                    progress.update(settings.train, len(specs), has_dev=dev.exists)
                    if save or progress.evaluation_due or progress.finished or stopping.stop:
                        meter.flush()
                        _merge_bad_utterances(progress, corpus, settings.data.max_bad_share)
                        progress.record_time(meter.trained_s, meter.interval)
                        checkpoints.save(state, progress, meta)
                        files.push()
                        saved_at = time.monotonic()
                    if progress.evaluation_due and not stopping.stop:
                        _evaluate(dev, meter, state, progress, checkpoints, stopping)
                        files.push()
                    if stopping.stop or progress.finished:
                        break
        if stopping.stop:
            logger.info("stopped at step %d; run the same command again to continue", progress.step)
            raise Stopped(stopping.stop, progress.step)
        logger.info("finished at step %d: %s", progress.step, progress.describe_end(settings.train))
        checkpoints.wait()
        log.draw_curves()  # the report shows them
        return _measure_test(manifests, settings.data.test, files, checkpoints, evaluator, stopping)


def _evaluate(
    dev: DevEvaluation,
    meter: Meter,
    state: TrainState,
    progress: Progress,
    checkpoints: Checkpoints,
    stopping: Stopping,
) -> None:
    """Measure the state on dev, and add the result to its checkpoint, which is completed first: evaluation may fail."""
    with meter.paused():
        checkpoints.wait()
        score = dev.measure(state, stopping.raise_if_stopped)
    if score is not None:
        progress.record_time(meter.trained_s, meter.interval)
        checkpoints.add_score(progress, score)


def _require_same_inputs(digests: dict[str, str], checkpoints: Checkpoints) -> None:
    """Raise ValueError if the processes have different manifests or checkpoints."""
    manifests = {f"config.data.{name} (digest)": digest for name, digest in digests.items()}
    processes.require_same(lambda: manifests | {"checkpoint": str(checkpoints.latest())})


def _total_steps(settings: TrainSettings, steps_per_epoch: int) -> int:
    steps = settings.epochs * steps_per_epoch
    return min(steps, settings.max_steps) if settings.max_steps else steps


def _plan_epoch(corpus: Corpus, progress: Progress) -> Sequence[BatchSpec]:
    """Plan the epoch. Raises ValueError if the plan is shorter than the position in the checkpoint."""
    specs = corpus.plan_epoch(progress.epoch)
    if progress.batch >= len(specs):
        raise ValueError(
            f"epoch {progress.epoch} has {len(specs)} batches, but the checkpoint was written after {progress.batch}: another "
            "version of the program planned them; continue with that version, or choose another --workdir"
        )
    return specs


def _stop_at_bad_utterances(progress: Progress, corpus: Corpus, max_bad_share: float) -> None:
    bad = dict.fromkeys(progress.bad_utterances, "cannot be used; see the warning above")
    refuse_too_many(corpus.manifest, bad, max_bad_share)


def _merge_bad_utterances(progress: Progress, corpus: Corpus, max_bad_share: float) -> None:
    """Collect the bad utterances of all processes, so that a checkpoint has all of them."""
    progress.add_bad_utterances(set().union(*processes.gather(progress.bad_utterances)))
    _stop_at_bad_utterances(progress, corpus, max_bad_share)


def _log_setup(state: TrainState, corpus: Corpus, plan: EpochSpecs, mesh: jax.sharding.Mesh) -> None:
    """Log parameters, data, batch shapes and devices."""
    table = parameter_overview.get_parameter_overview(state.parameters, include_stats=False)
    logger.info("parameters:\n%s", table)
    lengths = ", ".join(f"{b.rows}x{b.frames}" for b in corpus.buckets)
    logger.info(
        "%d utterances, %.2f h; about %d batches per epoch; padding %.1f %%; %d shapes (rows x frames): %s; %d device(s)",
        len(corpus.manifest),
        corpus.manifest.duration.sum() / 3600,
        len(plan),
        100 * plan.padding,
        len(corpus.buckets),
        lengths,
        mesh.size,
    )
    rows, padded = corpus.buckets[0].rows, corpus.shapes[0][0]
    if rows < padded and rows < MIN_FILLED * padded:
        logger.warning(
            "a batch of %d utterances is padded to %d rows, a multiple of %d devices x %d micro-batches: choose a batch size "
            "that is such a multiple",
            rows,
            padded,
            mesh.size,
            corpus.share.multiple // mesh.size,
        )


def _measure_test(
    manifests: Manifests,
    title: str,
    files: Workdir,
    checkpoints: Checkpoints,
    evaluator: Evaluator,
    stopping: Stopping,
) -> dict:
    """Measure the best checkpoint on the test manifest, if there is one; return the final results."""
    best = checkpoints.best()
    results: dict = {"workdir": files.path, "checkpoint": best}
    if manifests.test is None:
        return results
    _, variables = load_model(os.path.join(files.path, CHECKPOINT_FOLDER, str(best)))
    evaluation = evaluator.measure(variables, manifests.test, progress="test", on_batch=stopping.raise_if_stopped)
    if processes.rank() == 0:
        rates = evaluation.result.as_dict()
        logger.info("test: WER %.2f %%, CER %.2f %%", 100 * rates["wer"], 100 * rates["cer"])  # even if no report fits
        facts = {
            "Model": files.path,
            "Checkpoint": f"step {best}",
            "Decoding": "greedy",
            "Date": time.strftime("%Y-%m-%d %H:%M %Z"),
        }
        write_reports(evaluation, manifests.test, files, "test", title, facts)
    return {**results, **evaluation.result.as_dict()}
