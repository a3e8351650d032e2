"""Compile the training step for every batch shape before the first step, the largest first, as a probe of memory."""

import concurrent.futures
import logging
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
from tqdm import tqdm

from ds2_jax.parallel import sharding
from ds2_jax.training import memory
from ds2_jax.training.memory import Shape
from ds2_jax.training.state import TrainState
from input_pipeline.cores import usable_cores

logger = logging.getLogger("ds2_jax")


def batch_shape(batch: dict[str, jax.Array]) -> Shape:
    """Name the shape of a global batch."""
    rows, frames, _ = batch["spectrogram"].shape
    return rows, frames, batch["labels"].shape[1]


def compile_steps(
    step: Callable,
    state: TrainState,
    shapes: Iterable[Shape],
    feature_size: int,
    mesh: jax.sharding.Mesh,
    on_shape: Callable[[], None] = lambda: None,
) -> dict[Shape, Callable]:
    """Return the compiled step for each batch shape: (state, batch) -> (state, metrics); the state's buffers are reused.

    The largest shape is compiled first and run once on a copy, to see whether it fits into memory; what it needs is logged.
    `on_shape` is called after each shape and may raise. Raises MemoryError naming the largest shape that would fit.
    """
    everywhere, by_row = sharding.replicated(mesh), sharding.row_sharding(mesh)
    of_state = sharding.state_sharding(state, mesh)
    jitted = jax.jit(step, donate_argnums=0, in_shardings=(of_state, by_row), out_shardings=(of_state, everywhere))
    abstract_state = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
    ordered = sorted(set(shapes), key=_size, reverse=True)

    def compile_one(shape: Shape) -> Callable:
        return jitted.lower(abstract_state, abstract_batch(shape, feature_size)).compile()

    with tqdm(total=len(ordered), desc="compile", unit=" shapes", leave=False) as bar:
        compiled = {ordered[0]: _compile_largest(compile_one, ordered)}
        bar.update()
        bar.clear()  # or the table begins on its line
        logger.info("memory of a device, MB:\n%s", memory.table(state, compiled[ordered[0]], ordered[0]))
        _probe(compiled[ordered[0]], state, ordered[0], feature_size, by_row)
        on_shape()
        with concurrent.futures.ThreadPoolExecutor(min(4, usable_cores())) as pool:
            futures = {shape: pool.submit(compile_one, shape) for shape in ordered[1:]}
            try:
                for shape, future in futures.items():
                    compiled[shape] = future.result()
                    bar.update()
                    on_shape()
            finally:
                pool.shutdown(cancel_futures=True)  # those not begun, where one failed or `on_shape` raised
    return compiled


def _compile_largest(compile_one: Callable[[Shape], Callable], shapes: list[Shape]) -> Callable:
    """Compile the first shape; where it does not fit, look for the first one that does, to name it."""
    refused = ""
    for shape in shapes:
        try:
            compiled = compile_one(shape)
        except jax.errors.JaxRuntimeError as error:
            if not _is_of_memory(error):
                raise
            refused = refused or str(error).splitlines()[0]
            continue
        if memory.fits(compiled):
            if shape == shapes[0]:
                return compiled
            raise _does_not_fit(
                shapes[0], f"the largest that fits is {shape[0]} utterances of {shape[1]} frames", refused
            )
        refused = refused or f"it needs {memory.needed_bytes(compiled)} bytes of {memory.limit_bytes()}"
    raise _does_not_fit(shapes[0], "nor does any smaller one", refused)


def _is_of_memory(error: Exception) -> bool:
    text = str(error)
    return "RESOURCE_EXHAUSTED" in text or "out of memory" in text.lower()  # not "an illegal memory access"


def _does_not_fit(shape: Shape, what_fits: str, reason: str) -> MemoryError:
    rows, frames, _ = shape
    return MemoryError(
        f"the largest batch, {rows} utterances of {frames} frames, does not fit into the device's memory ({reason}); "
        f"{what_fits}. Raise config.optim.accumulate, set config.train.remat=true, raise config.mesh.fsdp, or lower "
        "config.batch.size (or .seconds) or config.data.max_duration_s"
    )


def _size(shape: Shape) -> tuple[int, int]:
    return shape[0] * shape[1], shape[2]


def abstract_batch(shape: Shape, feature_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Describe a batch of this shape without its data."""
    rows, frames, labels = shape
    return {
        "spectrogram": jax.ShapeDtypeStruct((rows, frames, feature_size), jnp.float32),
        "frames": jax.ShapeDtypeStruct((rows,), jnp.int32),
        "labels": jax.ShapeDtypeStruct((rows, labels), jnp.int32),
        "label_lengths": jax.ShapeDtypeStruct((rows,), jnp.int32),
        "valid": jax.ShapeDtypeStruct((rows,), jnp.bool_),
        "utterance": jax.ShapeDtypeStruct((rows,), jnp.int32),
    }


def _probe(compiled: Callable, state: TrainState, shape: Shape, feature_size: int, by_row) -> None:
    abstract = abstract_batch(shape, feature_size)
    try:
        batch = {name: jnp.zeros(x.shape, x.dtype, device=by_row) for name, x in abstract.items()}
        jax.block_until_ready(compiled(jax.tree.map(jnp.copy, state), batch))
    except jax.errors.JaxRuntimeError as error:
        if not _is_of_memory(error):
            raise
        raise _does_not_fit(shape, "whether a smaller one fits is not known", str(error).splitlines()[0]) from error
