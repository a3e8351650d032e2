"""Evaluate on the dev set during training, and track the best error rate."""

import logging
from collections.abc import Callable

from ds2_jax.parallel.stopping import Stopped
from ds2_jax.recognition.evaluation import Evaluation, Evaluator
from ds2_jax.training.metrics_log import MetricsLog
from ds2_jax.training.progress import Progress
from ds2_jax.training.settings import TrainSettings
from ds2_jax.training.state import TrainState
from input_pipeline.manifest import Manifest
from input_pipeline.text import is_spaced

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

    def measure(self, state: TrainState, on_batch: Callable[[], None]) -> float | None:
        """Return the error rate that ranks checkpoints (CER for Mandarin, else WER); None if `on_batch` raised Stopped.

        An evaluation that was stopped stays due, for the next start.
        """
        assert self._manifest is not None
        variables = {"params": state.evaluated, "batch_stats": state.batch_stats}
        try:
            evaluation = self._evaluator.measure(variables, self._manifest, progress="dev", on_batch=on_batch)
        except Stopped:
            return None
        return self._record(evaluation)

    def _record(self, evaluation: Evaluation) -> float:
        progress, result = self._progress, evaluation.result.as_dict()
        rate = result["cer"] if not is_spaced(self._evaluator.meta.language) else result["wer"]
        self._log.write(progress.step, dev_wer=result["wer"], dev_cer=result["cer"], dev_loss=evaluation.loss)
        is_best = progress.record_evaluation(rate, self._settings)
        best = "best so far" if is_best else f"best: {progress.best_error_rate:.2%} at step {progress.best_step}"
        logger.info(
            "step %d, epoch %d: dev WER %.2f %%, CER %.2f %%, loss %.3f (%s)",
            progress.step,
            progress.epoch,
            100 * result["wer"],
            100 * result["cer"],
            evaluation.loss,
            best,
        )
        return rate
