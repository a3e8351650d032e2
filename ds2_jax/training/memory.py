"""How much memory of a device training takes: a table made from the compiled step, before the first one runs."""

from typing import Any

import jax
import numpy as np

from ds2_jax.training.state import TrainState

Shape = tuple[int, int, int]  # rows, frames, labels


def needed_bytes(compiled: Any) -> int | None:
    """Bytes of a device that a compiled step needs at once; None where the backend does not tell."""
    found = compiled.memory_analysis()
    if found is None:
        return None
    return (
        found.argument_size_in_bytes
        + found.output_size_in_bytes
        - found.alias_size_in_bytes
        + found.temp_size_in_bytes
        + found.generated_code_size_in_bytes
    )


def limit_bytes() -> int | None:
    """Bytes that this program may use of a device; None where the backend does not tell, as on CPU."""
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")


def fits(compiled: Any) -> bool:
    """Tell whether a compiled step fits into a device, as far as that is known."""
    needed, limit = needed_bytes(compiled), limit_bytes()
    return needed is None or limit is None or needed <= limit


def table(state: TrainState, compiled: Any, shape: Shape) -> str:
    """List what a step on the largest batch takes of a device's memory, in MB (1e6 bytes)."""
    found = compiled.memory_analysis()
    parts = {
        "parameters": bytes_of(state.parameters),
        "averaged parameters": bytes_of(state.averaged),
        "optimiser": bytes_of(state.optimizer),
        "batch statistics": bytes_of(state.batch_stats),
    }
    lines = [f"  {name:32} {size / 1e6:10.1f}" for name, size in parts.items() if size]
    if found is None:
        return "\n".join([*lines, "  the backend does not tell what activations take"])
    rows, frames, _ = shape
    batch = max(found.argument_size_in_bytes - sum(parts.values()), 0)
    lines.append(f"  {f'batch of {rows} x {frames} frames':32} {batch / 1e6:10.1f}")
    lines.append(f"  {'activations and gradients':32} {found.temp_size_in_bytes / 1e6:10.1f}")
    lines.append(f"  {'program':32} {found.generated_code_size_in_bytes / 1e6:10.1f}")
    lines.append(f"  {'together':32} {(needed_bytes(compiled) or 0) / 1e6:10.1f}")
    limit, kind = limit_bytes(), jax.local_devices()[0].device_kind
    if limit is None:
        lines.append(f"  the device ({kind}) tells no limit: whether the largest batch fits shows when it is run, next")
    else:
        lines.append(f"  {f'of what {kind} has':32} {limit / 1e6:10.1f}")
    return "\n".join(lines)


def bytes_of(tree: Any) -> int:
    """Bytes of a tree of arrays on one device: of a split array, its part."""
    return sum(_local_size(leaf) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _local_size(leaf: jax.Array) -> int:
    return int(np.prod(leaf.sharding.shard_shape(leaf.shape)))
