"""Device memory that a training step needs, computed from the compiled step before it runs."""

from typing import Any

import jax
import numpy as np

from ds2_jax.recognition.step import Shape
from ds2_jax.training.state import TrainState


def needed_bytes(compiled: Any) -> int | None:
    """Return the bytes per device that a compiled step needs at once; None if the backend does not report them."""
    analysis = compiled.memory_analysis()
    if analysis is None:
        return None
    return (
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        - analysis.alias_size_in_bytes
        + analysis.temp_size_in_bytes
        + analysis.generated_code_size_in_bytes
    )


def limit_bytes() -> int | None:
    """Return the bytes of a device that this program may use; None if the backend does not report them, as on CPU."""
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")


def misfit(compiled: Any) -> str:
    """Return why a compiled step does not fit into a device's memory; '' if it does, or if that is unknown."""
    needed, limit = needed_bytes(compiled), limit_bytes()
    if needed is None or limit is None or needed <= limit:
        return ""
    return f"it needs {needed} of {limit} bytes of the device"


def format_table(state: TrainState, compiled: Any, shape: Shape) -> str:
    """Return a table of the device memory of a step on the largest batch, in MB (1e6 bytes)."""
    analysis = compiled.memory_analysis()
    parts = {
        "parameters": bytes_of(state.parameters),
        "averaged parameters": bytes_of(state.averaged),
        "optimiser": bytes_of(state.optimizer),
        "batch statistics": bytes_of(state.batch_stats),
    }
    lines = [f"  {name:32} {size / 1e6:10.1f}" for name, size in parts.items() if size]
    if analysis is None:
        return "\n".join([*lines, "  the backend does not report the memory of activations"])
    rows, frames, _ = shape
    batch = max(analysis.argument_size_in_bytes - sum(parts.values()), 0)
    lines.append(f"  {f'batch of {rows} x {frames} frames':32} {batch / 1e6:10.1f}")
    lines.append(f"  {'activations and gradients':32} {analysis.temp_size_in_bytes / 1e6:10.1f}")
    lines.append(f"  {'program':32} {analysis.generated_code_size_in_bytes / 1e6:10.1f}")
    lines.append(f"  {'total':32} {(needed_bytes(compiled) or 0) / 1e6:10.1f}")
    limit, kind = limit_bytes(), jax.local_devices()[0].device_kind
    if limit is None:
        lines.append(f"  the device ({kind}) reports no limit: the largest batch is now run to test whether it fits")
    else:
        lines.append(f"  {f'available on {kind}':32} {limit / 1e6:10.1f}")
    return "\n".join(lines)


def bytes_of(tree: Any) -> int:
    """Return the bytes of a tree of arrays on one device, where a split array only counts with its shard."""
    return sum(_local_size(leaf) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _local_size(leaf: jax.Array) -> int:
    return int(np.prod(leaf.sharding.shard_shape(leaf.shape)))
