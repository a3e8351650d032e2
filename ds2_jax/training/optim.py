"""Build the optimiser, an optax chain, and its learning rate schedule."""

import jax
import optax

from ds2_jax.training.settings import OptimSettings


def make_schedule(settings: OptimSettings, total_steps: int, steps_per_epoch: int) -> optax.Schedule:
    """Build the schedule step -> learning rate: a linear warm-up, then the decay chosen in the settings."""
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

    Weight decay does not apply to biases and normalisation parameters.
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
