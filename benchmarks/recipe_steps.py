"""Build a recipe's training and evaluation steps, jitted for a mesh as in a real run, without its data."""

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

STEPS_PER_EPOCH = 1000  # for the schedule; does not affect the shapes of the program


def make_steps(config: ConfigDict, vocabulary: int, mesh: Mesh) -> dict[str, tuple[Any, Any, int]]:
    """Return a recipe's training and evaluation step, each with its abstract first argument and the feature size."""
    recipe = settings.read_training(config)
    model, size = DeepSpeech2(recipe.new_model.network, vocabulary), feature_size(recipe.new_model.features)
    schedule = make_schedule(recipe.optim, recipe.train.epochs * STEPS_PER_EPOCH, STEPS_PER_EPOCH)
    optimizer = make_optimizer(recipe.optim)
    variables = jax.eval_shape(lambda: init_variables(model, size, seed=0))
    state = jax.eval_shape(lambda v: init_state(v, optimizer, schedule, average=recipe.optim.ema > 0), variables)
    replicated, rows, state_sharding = (
        sharding.replicated(mesh),
        sharding.row_sharding(mesh),
        sharding.state_sharding(state, mesh),
    )
    train_step = make_train_step(
        model.clone(remat=recipe.train.remat),
        optimizer,
        seed=0,
        accumulate=recipe.optim.accumulate,
        ema=recipe.optim.ema,
        gather=sharding.make_gather(mesh),
    )
    train = jax.jit(
        sharding.on_mesh(train_step, mesh),
        donate_argnums=0,
        in_shardings=(state_sharding, rows),
        out_shardings=(state_sharding, replicated),
    )
    eval_outputs = dict.fromkeys(("ids", "probabilities", "lengths", "text_loss"), rows)
    eval_outputs |= dict.fromkeys(("loss", "count", "infeasible"), replicated)
    evaluate = jax.jit(
        sharding.on_mesh(make_eval_step(model), mesh), in_shardings=(replicated, rows), out_shardings=eval_outputs
    )
    return {"train": (train, state, size), "eval": (evaluate, variables, size)}
