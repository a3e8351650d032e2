"""The optimiser: an optax chain, and its schedule of learning rates."""

from collections.abc import Mapping

import jax
import optax

SCHEDULES = ("cosine", "exponential", "constant")


def make_schedule(config: Mapping, total_steps: int, steps_per_epoch: int) -> optax.Schedule:
    """Warm up linearly, then decay as `config.schedule` says: step -> learning rate."""
    peak, warmup = config["learning_rate"], min(config["warmup_steps"], max(total_steps - 1, 0))
    rest = max(total_steps - warmup, 1)
    if config["schedule"] == "cosine":
        after = optax.cosine_decay_schedule(peak, rest, alpha=config["final_share"])
    elif config["schedule"] == "exponential":
        after = optax.exponential_decay(peak, steps_per_epoch, config["decay"], staircase=True)
    elif config["schedule"] == "constant":
        after = optax.constant_schedule(peak)
    else:
        raise ValueError(f"config.optim.schedule is {config['schedule']!r}: choose one of {', '.join(SCHEDULES)}")
    return optax.join_schedules([optax.linear_schedule(0.0, peak, max(warmup, 1)), after], [warmup])


def make_optimizer(config: Mapping, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Clip by global norm, then Adam or AdamW; weight decay spares biases and normalisation."""
    moments = {"b1": config["beta1"], "b2": config["beta2"]}
    if config["name"] == "adam":
        if config["weight_decay"]:
            raise ValueError("config.optim.weight_decay works with config.optim.name=adamw; choose it, or set 0")
        rule = optax.adam(schedule, **moments)
    elif config["name"] == "adamw":
        rule = optax.adamw(schedule, **moments, weight_decay=config["weight_decay"], mask=_is_matrix)
    else:
        raise ValueError(f"config.optim.name is {config['name']!r}: choose adam or adamw")
    clip = optax.clip_by_global_norm(config["clip_norm"]) if config["clip_norm"] else optax.identity()
    return optax.chain(clip, rule)


def _is_matrix(parameters):
    return jax.tree.map_with_path(lambda path, p: p.ndim > 1 and "bias" not in jax.tree_util.keystr(path), parameters)
