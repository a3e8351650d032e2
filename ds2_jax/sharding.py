"""Where arrays live: a mesh of all devices, batches split over it, everything else on each device."""

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def make_mesh() -> Mesh:
    """Put all devices of all hosts on one axis, 'data'."""
    return Mesh(np.array(jax.devices()), ("data",))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def by_row(mesh: Mesh) -> NamedSharding:
    """The first axis split over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Make global arrays of this process's rows of a batch; row counts are multiples of its devices."""
    sharding = by_row(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.items()}
