"""The optimiser: an optax chain, and its schedule of learning rates."""

from dataclasses import dataclass

import jax
import optax

NAMES = ("adam", "adamw")
SCHEDULES = ("cosine", "exponential", "constant")


@dataclass(frozen=True)
class OptimSettings:
    """The section `optim` of a config (configs/base.py says what each setting means).

    Raises ValueError naming field, value and mend.
    """

    name: str = "adam"
    learning_rate: float = 5e-4
    schedule: str = "cosine"
    warmup_steps: int = 200
    final_share: float = 0.01
    decay: float = 0.83
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    clip_norm: float = 10.0
    accumulate: int = 1
    ema: float = 0.0

    def __post_init__(self):
        """Refuse what cannot optimise."""
        self._require("name", self.name in NAMES, f"choose one of {', '.join(NAMES)}")
        self._require("learning_rate", self.learning_rate > 0, "use a rate above 0; 5e-4 is usual")
        self._require("schedule", self.schedule in SCHEDULES, f"choose one of {', '.join(SCHEDULES)}")
        for name in ("warmup_steps", "clip_norm", "weight_decay"):
            self._require(name, getattr(self, name) >= 0, "use 0 for none, or more")
        self._require("final_share", 0 <= self.final_share <= 1, "use a share from 0 to 1")
        self._require("decay", 0 < self.decay <= 1, "use a factor above 0, at most 1")
        for name in ("beta1", "beta2"):
            self._require(name, 0 <= getattr(self, name) < 1, "use a decay from 0 up to, not including, 1")
        self._require("accumulate", self.accumulate >= 1, "use 1 for no accumulation")
        self._require("ema", 0 <= self.ema < 1, "use 0 for none, or a decay such as 0.999")
        unused = self.name == "adam" and self.weight_decay > 0
        self._require("weight_decay", not unused, "it works with config.optim.name=adamw; choose it, or set 0")

    def _require(self, name: str, holds: bool, mend: str) -> None:
        if not holds:
            raise ValueError(f"config.optim.{name} is {getattr(self, name)!r}: {mend}")


def make_schedule(settings: OptimSettings, total_steps: int, steps_per_epoch: int) -> optax.Schedule:
    """Build the schedule step -> learning rate: a linear warm-up, then the decay that the settings name."""
    peak, warmup = settings.learning_rate, min(settings.warmup_steps, max(total_steps - 1, 0))
    rest = max(total_steps - warmup, 1)
    if settings.schedule == "cosine":
        after = optax.cosine_decay_schedule(peak, rest, alpha=settings.final_share)
    elif settings.schedule == "exponential":
        after = optax.exponential_decay(peak, steps_per_epoch, settings.decay, staircase=True)
    else:
        after = optax.constant_schedule(peak)
    return optax.join_schedules([optax.linear_schedule(0.0, peak, max(warmup, 1)), after], [warmup])


def make_optimizer(settings: OptimSettings, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Build the optax chain: clipping by the global norm, then Adam or AdamW.

    Weight decay spares biases and normalisation.
    """
    moments = {"b1": settings.beta1, "b2": settings.beta2}
    if settings.name == "adam":
        rule = optax.adam(schedule, **moments)
    else:
        rule = optax.adamw(schedule, **moments, weight_decay=settings.weight_decay, mask=_is_matrix)
    clip = optax.clip_by_global_norm(settings.clip_norm) if settings.clip_norm else optax.identity()
    return optax.chain(clip, rule)


def _is_matrix(parameters):
    return jax.tree.map_with_path(lambda path, p: p.ndim > 1 and "bias" not in jax.tree_util.keystr(path), parameters)
