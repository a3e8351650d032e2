"""Compile the training step for all batch shapes before the first step; the largest is run first to test memory."""

import concurrent.futures
import logging
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from tqdm import tqdm

from ds2_jax.parallel import sharding
from ds2_jax.recognition.out_of_memory import explained, is_out_of_memory
from ds2_jax.recognition.step import Shape
from ds2_jax.training import host_memory, memory
from ds2_jax.training.state import TrainState
from input_pipeline.batches.inputs import Inputs
from input_pipeline.batches.loader import LoadSettings
from input_pipeline.cores import usable_cores

AbstractBatch = dict[str, jax.ShapeDtypeStruct]

logger = logging.getLogger("ds2_jax")


def batch_shape(batch: Mapping[str, Any], inputs: Inputs) -> Shape:
    """Return the shape of a global batch: rows, frames, labels."""
    rows, labels = batch["labels"].shape
    return rows, inputs.room(batch), labels


def compile_steps(
    step: Callable,
    state: TrainState,
    batches: Mapping[Shape, AbstractBatch],
    mesh: jax.sharding.Mesh,
    load: LoadSettings,
    on_shape: Callable[[], None] = lambda: None,
) -> dict[Shape, Callable]:
    """Return the compiled step for each batch shape: (state, batch) -> (state, metrics); the state is donated.

    batches: shapes and types of a batch's arrays, by its shape. The largest one is compiled first and run once on a copy of
    the state, to test whether it fits into memory; its memory is logged. load: how batches are loaded, which takes memory of
    the machine. on_shape: called for each shape, traced and compiled; may raise. Raises MemoryError with the largest
    shape that fits.
    """
    _require_room_to_compile(load)
    everywhere, by_row = sharding.replicated(mesh), sharding.row_sharding(mesh)
    state_sharding = sharding.state_sharding(state, mesh)
    in_shardings, out_shardings = (state_sharding, by_row), (state_sharding, everywhere)
    jitted = jax.jit(
        sharding.on_mesh(step, mesh), donate_argnums=0, in_shardings=in_shardings, out_shardings=out_shardings
    )
    abstract_state = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
    ordered = sorted(batches, key=_size, reverse=True)

    def lower(shape: Shape) -> jax.stages.Lowered:
        return jitted.lower(abstract_state, batches[shape])

    def compile_one(lowered: jax.stages.Lowered) -> Callable:
        step = lowered.compile()
        host_memory.release()
        return step

    def misfit(step: Callable, shape: Shape) -> str:
        need = host_memory.to_run(step, batches[shape], load)
        return memory.misfit(step) or (f"it needs {need}" if need.spare < 0 else "")

    with tqdm(total=len(ordered), desc="compile", unit=" shapes", leave=False) as bar:
        compiled = {ordered[0]: _compile_largest(lambda shape: compile_one(lower(shape)), misfit, ordered)}
        bar.update()
        bar.clear()  # otherwise the table starts on the bar's line
        need = host_memory.to_run(compiled[ordered[0]], batches[ordered[0]], load)
        table = memory.format_table(state, compiled[ordered[0]], ordered[0])
        logger.info("memory per device, MB:\n%s\nmemory in all: %s", table, need)
        _probe(compiled[ordered[0]], state, ordered[0], batches[ordered[0]], by_row)
        on_shape()
        if ordered[1:]:
            _require_room_to_compile(load)
        at_once = max(1, min(4, usable_cores(), need.spare // host_memory.COMPILER_BYTES))
        with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
            futures = {}
            try:
                for shape in ordered[1:]:  # Python traces one program at a time, while others are compiled or read
                    futures[shape] = pool.submit(compile_one, lower(shape))
                    _show_finished(futures.values(), bar)
                    on_shape()
                for shape, future in futures.items():
                    compiled[shape] = future.result()
                    _show_finished(futures.values(), bar)
                    on_shape()
            finally:
                pool.shutdown(cancel_futures=True)  # after a failure or a stop, skip the remaining shapes
    return compiled


def _show_finished(futures: Collection[concurrent.futures.Future], bar: tqdm) -> None:
    """Move a bar, on which the first shape is shown, to the futures that are done. Raises the error of one that failed."""
    done = [future for future in futures if future.done()]
    bar.update(1 + len(done) - bar.n)
    for future in done:
        future.result()


def _require_room_to_compile(load: LoadSettings) -> None:
    """Raise MemoryError if this machine, or this process's cgroup, has no room for the compiler."""
    host_memory.release()
    need = host_memory.to_compile(load)
    if need.spare < 0:
        raise MemoryError(
            f"this training does not fit into memory: it needs at least {need}: allow it more (docker run --memory, "
            "resources.limits.memory, sbatch --mem), or reduce config.data.workers"
        )


def _compile_largest(
    compile_one: Callable[[Shape], Callable], misfit: Callable[[Callable, Shape], str], shapes: list[Shape]
) -> Callable:
    """Compile the first shape. Raises MemoryError with the first of the other shapes that fits, if it does not.

    misfit: returns why a compiled step does not fit; '' if it does.
    """
    reason = ""
    for shape in shapes:
        try:
            compiled = compile_one(shape)
        except jax.errors.JaxRuntimeError as error:
            if not is_out_of_memory(error):
                raise
            reason = reason or str(error).splitlines()[0]
            continue
        why = misfit(compiled, shape)
        if not why:
            if shape == shapes[0]:
                return compiled
            raise _memory_error(
                shapes[0], f"the largest that fits has {shape[0]} utterances of {shape[1]} frames", reason
            )
        reason = reason or why
    raise _memory_error(shapes[0], "no smaller one fits either", reason)


def _memory_error(shape: Shape, alternative: str, reason: str) -> MemoryError:
    rows, frames, _ = shape
    return MemoryError(
        f"the largest batch, {rows} utterances of {frames} frames, does not fit into memory ({reason}); "
        f"{alternative}: increase config.optim.accumulate, set config.train.remat=true, increase config.mesh.fsdp, or "
        "reduce config.batch.size (or .seconds) or config.data.max_duration_s"
    )


def _size(shape: Shape) -> tuple[int, int]:
    return shape[0] * shape[1], shape[2]


def _probe(compiled: Callable, state: TrainState, shape: Shape, abstract: AbstractBatch, by_row) -> None:
    with explained(lambda reason: str(_memory_error(shape, "a smaller one may fit", reason))):
        batch = {name: jnp.zeros(x.shape, x.dtype, device=by_row) for name, x in abstract.items()}
        jax.block_until_ready(compiled(jax.tree.map(jnp.copy, state), batch))
