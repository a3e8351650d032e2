"""The training and evaluation steps of a recipe, jitted for a mesh as main.py does it, without its data."""

from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ds2_jax.cli import settings
from ds2_jax.network.model import DeepSpeech2, init_variables
from ds2_jax.parallel import sharding
from ds2_jax.recognition.step import make_eval_step
from ds2_jax.training.optim import make_optimizer, make_schedule
from ds2_jax.training.state import init_state
from ds2_jax.training.step import make_train_step
from input_pipeline.audio.features import feature_size

STEPS_PER_EPOCH = 1000  # of the schedule, which does not change the program's shape


def make_steps(config: ConfigDict, vocabulary: int, mesh: Mesh) -> dict[str, tuple[Any, Any, int]]:
    """Return a recipe's training and evaluation step, each with its first argument's shapes, and the features' size."""
    asked = settings.read_training(config)
    model, size = DeepSpeech2(asked.new_model.network, vocabulary), feature_size(asked.new_model.features)
    schedule = make_schedule(asked.optim, asked.train.epochs * STEPS_PER_EPOCH, STEPS_PER_EPOCH)
    optimizer = make_optimizer(asked.optim, schedule)
    variables = jax.eval_shape(lambda: init_variables(model, size, seed=0))
    state = jax.eval_shape(lambda v: init_state(v, optimizer, average=asked.optim.ema > 0), variables)
    everywhere, rows, of_state = (
        sharding.replicated(mesh),
        sharding.row_sharding(mesh),
        sharding.state_sharding(state, mesh),
    )
    train_step = make_train_step(
        model.clone(remat=asked.train.remat),
        optimizer,
        seed=0,
        accumulate=asked.optim.accumulate,
        ema=asked.optim.ema,
        gather=sharding.make_gather(mesh),
    )
    of_eval = dict.fromkeys(("ids", "probabilities", "lengths"), rows)
    of_eval |= dict.fromkeys(("loss", "count", "infeasible"), everywhere)
    train = jax.jit(train_step, donate_argnums=0, in_shardings=(of_state, rows), out_shardings=(of_state, everywhere))
    evaluate = jax.jit(make_eval_step(model), in_shardings=(everywhere, rows), out_shardings=of_eval)
    return {"train": (train, state, size), "eval": (evaluate, variables, size)}
