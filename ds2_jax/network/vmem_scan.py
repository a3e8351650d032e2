"""A scan for TPUs that keeps its constants, such as a recurrent matrix, in the chip's fast memory (VMEM) for all frames.

XLA decides for each program which arrays of a loop lie in VMEM, and in some it reads the matrix from main memory for every
frame (docs/scaling.md). Here the whole loop is one Pallas kernel: constants and carry stay in VMEM, and a frame's inputs and
outputs are copied while others are computed. The compiler cannot split a kernel over devices, so this is done here, by rows
of the batch, for the mesh in view (`parallel.sharding.on_mesh`).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import PartitionSpec

LANES = 128  # a vector register's last dimension; the kernel slices gates at its multiples
ASSUMED_VMEM = 64 << 20  # bytes, if a program is compiled without a TPU: TPU v5p; v5e and v6e have twice as much
SHARE = 0.75  # of VMEM; the rest is left to XLA

Frame = Callable[[Any, Any, Any], tuple[Any, Any]]  # constants, carry, inputs of a frame -> carry, outputs of the frame


def vmem_bytes() -> int:
    """Return the size of the TPU's VMEM, or of the smallest that is supported if there is no TPU."""
    return pltpu.get_tpu_info().vmem_capacity_bytes if jax.default_backend() == "tpu" else ASSUMED_VMEM


def fits(constants: Any, carry: Any, inputs: Any) -> bool:
    """Return whether the kernel can run a scan: on a known mesh, with aligned widths, and within its share of VMEM."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty and jax.device_count() > 1:
        return False
    devices = 1 if mesh.empty else mesh.size
    arrays = jax.tree.leaves((carry, inputs))
    if not all(isinstance(size, int) and size for array in arrays for size in array.shape):
        return False  # no frames, or a shape that is not known
    if any(array.shape[-1] % LANES or array.shape[-2] % devices for array in arrays):
        return False
    of_frame = [(*array.shape[1:-2], array.shape[-2] // devices, array.shape[-1]) for array in jax.tree.leaves(inputs)]
    a_frame = sum(_padded_bytes(shape, jnp.dtype(jnp.float32)) for shape in of_frame)
    matrices = sum(_padded_bytes(array.shape, array.dtype) for array in jax.tree.leaves(constants))
    # two frames of inputs and outputs, and the states and gates of one in float32
    return matrices + 8 * a_frame <= SHARE * vmem_bytes()


def _padded_bytes(shape: tuple[int, ...], dtype: jnp.dtype) -> int:
    """Return the bytes of an array in VMEM, whose last two dimensions are padded to whole registers."""
    size = max(jnp.dtype(dtype).itemsize, 2)
    rows, lanes = (shape[-2] if len(shape) > 1 else 1), shape[-1]
    tiles = -(-rows // (32 // size)) * (32 // size) * -(-lanes // LANES) * LANES
    return math.prod(shape[:-2]) * tiles * size


def vmem_scan(
    frame: Frame, constants: Any, carry: Any, inputs: Any, *, reverse: bool = False, interpret: bool = False
) -> tuple[Any, Any]:
    """Run `frame` over the leading axis of all inputs, as `jax.lax.scan` does, in one TPU kernel.

    carry: arrays [D, B, n]; inputs: arrays [U, D, B, n] of at least one frame, masks (bool) [U, D, B, 1]; outputs of a
    frame: arrays [D, B, n]. On several devices, all but the constants are split along B. `interpret` runs the kernel on
    CPUs, for tests.
    """
    masks = jax.tree.map(lambda x: x.dtype == bool, inputs)
    numbers = jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype == bool else x, inputs)  # no bool in kernels

    def of_numbers(constants, carry, values):
        return frame(constants, carry, jax.tree.map(lambda x, mask: x > 0 if mask else x, values, masks))

    def run(*arguments):
        return _call(of_numbers, arguments, reverse=reverse, interpret=interpret)

    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty:
        everywhere, rows = PartitionSpec(), PartitionSpec(None, mesh.axis_names)
        rows_of_frames = PartitionSpec(None, *rows)
        placed = (everywhere, rows, rows_of_frames), (rows, rows_of_frames)
        run = jax.shard_map(run, in_specs=placed[0], out_specs=placed[1], check_vma=False)
    return run(constants, carry, numbers)


def _call(frame: Frame, arguments: Sequence[Any], *, reverse: bool, interpret: bool) -> Any:
    """Run the kernel on one device."""
    constants, carry, inputs = arguments
    count = jax.tree.leaves(inputs)[0].shape[0]
    of_frame = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), inputs)
    outputs = jax.eval_shape(frame, constants, carry, of_frame)[1]
    cost = pl.estimate_cost(frame, constants, carry, of_frame)
    results = carry, jax.tree.map(lambda x: jax.ShapeDtypeStruct((count, *x.shape), x.dtype), outputs)

    def kernel(constants, start, inputs, last, outputs, state):
        @pl.when(pl.program_id(0) == 0)
        def _():
            jax.tree.map(_copy, state, start)

        held, previous = jax.tree.map(lambda ref: ref[...], (constants, state))
        new, values = frame(held, previous, jax.tree.map(lambda ref: ref[0], inputs))
        jax.tree.map(_write, state, new)
        jax.tree.map(lambda ref, value: ref.at[0].set(value), outputs, values)

        @pl.when(pl.program_id(0) == count - 1)
        def _():
            jax.tree.map(_copy, last, state)

    def whole(x):
        return pl.BlockSpec(x.shape, lambda t: (0,) * x.ndim, pipeline_mode=pl.Buffered(1))

    def part(x):
        return pl.BlockSpec((1, *x.shape[1:]), lambda t: (count - 1 - t if reverse else t, *(0,) * (x.ndim - 1)))

    return pl.pallas_call(
        kernel,
        grid=(count,),
        in_specs=(jax.tree.map(whole, constants), jax.tree.map(whole, carry), jax.tree.map(part, inputs)),
        out_specs=(jax.tree.map(whole, carry), jax.tree.map(part, results[1])),
        out_shape=jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), results),
        scratch_shapes=(jax.tree.map(lambda x: pltpu.VMEM(x.shape, x.dtype), carry),),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("arbitrary",), vmem_limit_bytes=int(SHARE * vmem_bytes())
        ),
        cost_estimate=pl.CostEstimate(
            flops=count * cost.flops,
            transcendentals=count * cost.transcendentals,
            bytes_accessed=sum(x.size * x.dtype.itemsize for x in jax.tree.leaves((arguments, results))),
        ),
        interpret=interpret,
    )(constants, carry, inputs)


def _copy(to, source) -> None:
    to[...] = source[...]


def _write(to, value: jax.Array) -> None:
    to[...] = value
