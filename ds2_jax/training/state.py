"""The training state: one tree of arrays."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax.struct import PyTreeNode

from ds2_jax.parallel import sharding


class TrainState(PyTreeNode):
    """Everything a training step changes. `averaged` is None without an exponential moving average."""

    step: jax.Array  # i32, batches seen
    parameters: Any
    batch_stats: Any
    averaged: Any
    optimizer: optax.OptState

    @property
    def evaluated(self):
        """The parameters that evaluation uses: the averaged ones where there are any."""
        return self.parameters if self.averaged is None else self.averaged


def make_state(
    variables: dict, optimizer: optax.GradientTransformation, mesh: jax.sharding.Mesh, average: bool
) -> TrainState:
    """Start training from these variables, each array where sharding.state_sharding says; none is whole anywhere but these."""

    def start(variables: dict) -> TrainState:
        return init_state(variables, optimizer, average)

    shardings = sharding.state_sharding(jax.eval_shape(start, variables), mesh)
    return jax.jit(start, out_shardings=shardings)(sharding.put(variables, sharding.state_sharding(variables, mesh)))


def init_state(variables: dict, optimizer: optax.GradientTransformation, average: bool) -> TrainState:
    """Start training from these variables."""
    parameters = variables["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        parameters=parameters,
        batch_stats=variables["batch_stats"],
        averaged=jax.tree.map(jnp.copy, parameters) if average else None,
        optimizer=optimizer.init(parameters),
    )
