"""Place arrays on a mesh of all devices: batches are split over it, the state is replicated or split over one axis."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

DATA, FSDP = "data", "fsdp"
SMALL = 1 << 14  # elements; smaller arrays are replicated: a message costs more than their memory

T = TypeVar("T")


def make_mesh(fsdp: int = 1) -> Mesh:
    """Arrange all devices of all hosts in two axes: parameters are split over the second, batches over both.

    Devices of a host are adjacent, so that its rows of a batch are too, and parameters are gathered within a host if
    `fsdp` divides its devices. Raises ValueError if `fsdp` does not divide the number of devices.
    """
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    if fsdp < 1 or len(devices) % fsdp:
        raise ValueError(f"config.mesh.fsdp is {fsdp}: use a divisor of the {len(devices)} devices")
    return Mesh(np.array(devices).reshape(-1, fsdp), (DATA, FSDP))


def local_mesh() -> Mesh:
    """Arrange the devices of this process in one axis, for work that the processes divide among themselves."""
    return Mesh(np.array(jax.local_devices()), (DATA,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding that keeps a whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def row_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding that splits the first axis over all devices."""
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


def state_sharding(state: Any, mesh: Mesh) -> Any:
    """Return the sharding of each array: split over fsdp along the longest axis that it divides, else replicated."""
    return jax.tree.map(lambda array: NamedSharding(mesh, _split(array.shape, mesh.shape.get(FSDP, 1))), state)


def _split(shape: tuple[int, ...], parts: int) -> PartitionSpec:
    axes = [axis for axis, length in enumerate(shape) if length % parts == 0]
    if parts == 1 or not axes or np.prod(shape) < SMALL:
        return PartitionSpec()
    longest = max(axes, key=lambda axis: shape[axis])
    return PartitionSpec(*[FSDP if axis == longest else None for axis in range(len(shape))])


def on_mesh(function: Callable[..., T], mesh: Mesh) -> Callable[..., T]:
    """Return a function that is traced with the mesh in view: a kernel, which XLA cannot split, is split by it."""

    @functools.wraps(function)
    def traced(*arguments):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*arguments)

    return traced


def make_gather(mesh: Mesh) -> Callable[[T], T]:
    """Return a function for use inside jit that gathers split parameters; their gradient is summed, then split again.

    The constraints fix this order: otherwise the compiler splits and sends activations, which are larger. On accelerators,
    sum and split become one message (ZeRO stage 3, arXiv:1910.02054).
    """
    whole = replicated(mesh)
    if mesh.shape.get(FSDP, 1) == 1:
        return lambda tree: tree

    @jax.custom_vjp
    def gather(tree: T) -> T:
        return jax.lax.with_sharding_constraint(tree, jax.tree.map(lambda _: whole, tree))

    def backward(_, gradient):
        summed = jax.lax.with_sharding_constraint(gradient, jax.tree.map(lambda _: whole, gradient))
        return (jax.lax.with_sharding_constraint(summed, state_sharding(gradient, mesh)),)

    gather.defvjp(lambda tree: (gather(tree), None), backward)
    return gather


def share_of_rows(mesh: Mesh, micro_batches: int = 1) -> tuple[int, int, int]:
    """Return the multiple to which the rows of a batch are padded, the rank of this process and the number of processes.

    micro_batches: number of parts in which a batch is computed sequentially.
    """
    return mesh.size * micro_batches, jax.process_index(), jax.process_count()


def put(tree: T, shardings: Any) -> T:
    """Place arrays that are the same in all processes; shardings: a tree like `tree`, or one sharding for all.

    The processes' values are not compared, as jax.device_put would do.
    """
    if isinstance(shardings, NamedSharding):
        shardings = jax.tree.map(lambda _: shardings, tree)

    def put(array, sharding):
        if sharding.is_fully_addressable or (isinstance(array, jax.Array) and not array.is_fully_addressable):
            return jax.device_put(array, sharding)
        whole = np.asarray(array)
        return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])

    return jax.tree.map(put, tree, shardings)


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Assemble global arrays from this process's rows of a batch, whose number is a multiple of its devices."""
    sharding = row_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.items()}


def to_host(arrays: dict[str, jax.Array]) -> dict[str, np.ndarray]:
    """Copy arrays to the host; of arrays split by row, this process's rows."""
    if all(array.is_fully_addressable for array in arrays.values()):
        return jax.device_get(arrays)
    return {
        name: np.asarray(array) if array.is_fully_replicated else local_rows(array) for name, array in arrays.items()
    }


def local_rows(array: jax.Array) -> np.ndarray:
    """Return this process's rows, in order, of an array split by row."""
    shards = {shard.index[0].start or 0: shard.data for shard in array.addressable_shards}
    return np.concatenate([np.asarray(shards[start]) for start in sorted(shards)])
