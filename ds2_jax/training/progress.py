"""The progress of a training, saved with each checkpoint and changed only by the methods here."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ds2_jax.artifacts.ranking import Score
from ds2_jax.training.settings import TrainSettings


@dataclass
class Progress:
    """State of a training except its arrays; with them, a resumed training continues exactly. Only its methods change it."""

    step: int = 0  # batches processed
    epoch: int = 0
    batch: int = 0  # batches of this epoch already processed
    best_error_rate: float | None = None  # the leading rate, and CER and loss of the same evaluation
    best_cer: float | None = None
    best_loss: float | None = None
    best_step: int = 0
    evaluations_since_best: int = 0
    data_digest: str = ""  # of the training manifest
    plan_digest: str = ""  # of the settings that determine batches and their order
    dev_digest: str = ""  # of the manifest on which the best error rate was measured
    optimizer: str = ""  # settings that determine which arrays the optimiser state has
    trained_s: float = 0.0  # wall time of training, over all starts
    interval: dict[str, float] = field(default_factory=dict)  # sums since the last line of metrics.jsonl
    bad_utterances: list[int] = field(default_factory=list)
    finished: bool = False
    evaluation_due: bool = False  # a stop prevented the evaluation of these parameters on dev

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Progress":
        """Build progress from a checkpoint's values; unknown ones, of other versions, are ignored."""
        return cls(**{field.name: values[field.name] for field in dataclasses.fields(cls) if field.name in values})

    def resumed(self, fresh: "Progress") -> "Progress":
        """Return this progress, adapted to the data and settings of `fresh`, the initial progress of a new training.

        Changed data or a changed plan restarts the epoch; a changed dev set restarts the search for the best checkpoint.
        """
        same_data = self.data_digest == fresh.data_digest
        same_plan = same_data and self.plan_digest == fresh.plan_digest
        same_dev = not fresh.dev_digest or self.dev_digest in ("", fresh.dev_digest)
        return dataclasses.replace(
            self,
            batch=self.batch if same_plan else 0,
            best_error_rate=self.best_error_rate if same_dev else None,
            best_cer=self.best_cer if same_dev else None,
            best_loss=self.best_loss if same_dev else None,
            best_step=self.best_step if same_dev else 0,
            evaluations_since_best=self.evaluations_since_best if same_dev else 0,
            data_digest=fresh.data_digest,
            plan_digest=fresh.plan_digest,
            dev_digest=fresh.dev_digest or self.dev_digest,
            bad_utterances=self.bad_utterances if same_data else [],
            evaluation_due=self.evaluation_due and bool(fresh.dev_digest),
        )

    def count_step(self) -> None:
        """Count a training step."""
        self.step += 1
        self.batch += 1

    def update(self, limits: TrainSettings, epoch_batches: int, *, has_dev: bool) -> None:
        """Update epoch, `finished` and `evaluation_due` after a step; epoch_batches: number of batches in the epoch."""
        epoch_ended = self.batch == epoch_batches
        if epoch_ended:
            self.epoch, self.batch = self.epoch + 1, 0
        self.update_finished(limits)
        due = self.step % limits.eval_every == 0 if limits.eval_every else epoch_ended
        self.evaluation_due = has_dev and (self.finished or due)

    def update_finished(self, limits: TrainSettings) -> None:
        """Set `finished` if the training has reached its limit of epochs, steps or patience."""
        out_of_steps = limits.max_steps and self.step >= limits.max_steps
        self.finished = bool(self.epoch >= limits.epochs or out_of_steps or self._out_of_patience(limits))

    def _out_of_patience(self, limits: TrainSettings) -> bool:
        return bool(limits.patience) and self.evaluations_since_best >= limits.patience

    def describe_end(self, limits: TrainSettings) -> str:
        """Return why the training has finished, naming the setting."""
        if self._out_of_patience(limits):
            return (
                f"the last {self.evaluations_since_best} evaluations on dev were no better than that of step "
                f"{self.best_step} (config.train.patience={limits.patience})"
            )
        if limits.max_steps and self.step >= limits.max_steps:
            return f"config.train.max_steps={limits.max_steps} is reached"
        return f"config.train.epochs={limits.epochs} is reached"

    def record_evaluation(self, score: Score, limits: TrainSettings) -> bool:
        """Record what was measured on dev; return whether it is the best so far."""
        best = self.best_error_rate
        is_best = best is None or score.key < Score(best, self.best_cer, self.best_loss).key
        if is_best:
            values = score.to_json()
            self.best_error_rate, self.best_cer, self.best_loss = score.error_rate, values["cer"], values["loss"]
            self.best_step, self.evaluations_since_best = self.step, 0
        else:
            self.evaluations_since_best += 1
        self.evaluation_due = False
        self.update_finished(limits)
        return is_best

    def add_bad_utterances(self, rows: Iterable[int]) -> None:
        """Add unusable rows of the training manifest."""
        self.bad_utterances = sorted({*self.bad_utterances, *rows})

    def record_time(self, trained_s: float, interval: Mapping[str, float]) -> None:
        """Store the training time and the sums since the last line of metrics.jsonl, for the next start."""
        self.trained_s, self.interval = trained_s, dict(interval)
