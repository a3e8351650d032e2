"""Evaluate on the dev set during training, and track the best result."""

import logging
import math
from collections.abc import Callable

from ds2_jax.artifacts.ranking import Score, leads_with_cer
from ds2_jax.parallel.stopping import Stopped
from ds2_jax.recognition.evaluation import Evaluation, Evaluator
from ds2_jax.training.metrics_log import MetricsLog
from ds2_jax.training.progress import Progress
from ds2_jax.training.settings import TrainSettings
from ds2_jax.training.state import TrainState
from input_pipeline.manifest import Manifest

logger = logging.getLogger("ds2_jax")


class DevEvaluation:
    """Evaluation of the training state on a manifest (None: none), which updates `progress` and the log."""

    def __init__(
        self,
        evaluator: Evaluator,
        manifest: Manifest | None,
        settings: TrainSettings,
        progress: Progress,
        log: MetricsLog,
    ):
        self._evaluator, self._manifest = evaluator, manifest
        self._settings, self._progress, self._log = settings, progress, log

    @property
    def exists(self) -> bool:
        """Whether there is a manifest to evaluate."""
        return self._manifest is not None

    def probe(self, state: TrainState, test: Manifest | None) -> None:
        """Run the largest batch of dev and of test without effect, and report the utterances that are left out.

        Raises MemoryError and ValueError as the evaluation would, but before the training.
        """
        for manifest in (self._manifest, test):
            if manifest is not None:
                self._evaluator.probe(_variables(state), manifest)

    def measure(self, state: TrainState, on_batch: Callable[[], None]) -> Score | None:
        """Return the score that ranks checkpoints; None if `on_batch` raised Stopped.

        An evaluation that was stopped stays due, for the next start.
        """
        assert self._manifest is not None
        try:
            evaluation = self._evaluator.measure(_variables(state), self._manifest, progress="dev", on_batch=on_batch)
        except Stopped:
            return None
        return self._record(evaluation)

    def _record(self, evaluation: Evaluation) -> Score:
        progress, result, meta = self._progress, evaluation.result.as_dict(), self._evaluator.meta
        first, second = ("cer", "wer") if leads_with_cer(meta.language, meta.vocabulary) else ("wer", "cer")
        score = Score(result[first], result["cer"], evaluation.loss)
        loss = {"dev_loss": evaluation.loss} if math.isfinite(evaluation.loss) else {}
        self._log.write(progress.step, dev_wer=result["wer"], dev_cer=result["cer"], **loss)
        is_best = progress.record_evaluation(score, self._settings)
        best = "best so far" if is_best else f"best: {progress.best_error_rate:.2%} at step {progress.best_step}"
        logger.info(
            "step %d, epoch %d: dev %s %.2f %%, %s %.2f %%, loss %.3f (%s)",
            progress.step,
            progress.epoch,
            first.upper(),
            100 * result[first],
            second.upper(),
            100 * result[second],
            evaluation.loss,
            best,
        )
        return score


def _variables(state: TrainState) -> dict:
    return {"params": state.evaluated, "batch_stats": state.batch_stats}
