"""The training state, a tree of arrays."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax.struct import PyTreeNode

from ds2_jax.parallel import sharding
from ds2_jax.training.optim import Schedule


class TrainState(PyTreeNode):
    """Arrays of a training step, which updates all but the schedule.

    averaged: None without an exponential moving average. schedule: of the learning rate, None for optimisers that do not
    use it; checkpoints do not store it, because it follows from the settings.
    """

    step: jax.Array  # i32, batches processed
    parameters: Any
    batch_stats: Any
    averaged: Any
    optimizer: optax.OptState
    schedule: Schedule | None

    @property
    def evaluated(self):
        """The parameters for evaluation: the averaged ones if there are any."""
        return self.parameters if self.averaged is None else self.averaged


def make_state(
    variables: dict,
    optimizer: optax.GradientTransformation,
    schedule: Schedule | None,
    mesh: jax.sharding.Mesh,
    average: bool,
) -> TrainState:
    """Return the initial state for these variables, placed by sharding.state_sharding; no split array is ever whole."""

    def initialise(variables: dict, schedule: Schedule | None) -> TrainState:
        return init_state(variables, optimizer, schedule, average)

    shardings = sharding.state_sharding(jax.eval_shape(initialise, variables, schedule), mesh)
    placed = sharding.put(variables, sharding.state_sharding(variables, mesh))
    return jax.jit(initialise, out_shardings=shardings)(placed, schedule)


def init_state(
    variables: dict, optimizer: optax.GradientTransformation, schedule: Schedule | None, average: bool
) -> TrainState:
    """Return the initial state for these variables."""
    parameters = variables["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        parameters=parameters,
        batch_stats=variables["batch_stats"],
        averaged=jax.tree.map(jnp.copy, parameters) if average else None,
        optimizer=optimizer.init(parameters),
        schedule=schedule,
    )
