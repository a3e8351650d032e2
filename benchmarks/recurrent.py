"""Time one bidirectional recurrent layer, forward and backward; `benchmarks/peers/torch_recurrent.py` is its counterpart.

    python -m benchmarks.recurrent --batch 8 --frames 167 --width 512 --hidden 512 --cell gru

All utterances have full length; our layer masks them nevertheless, and reverses the time axis for its second direction.
Prints one JSON line.
"""

import argparse
import json
import statistics

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import measure
from ds2_jax.network.rnn import CELLS, Recurrent
from input_pipeline.storage import console

WARM_UPS = 2


@console.command
def main() -> None:
    """Run the benchmark and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"batch": 8, "frames": 167, "width": 512, "hidden": 512, "runs": 9}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--cell", choices=CELLS, default="gru")
    a = parser.parse_args()
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(a.frames, a.batch, a.width)), jnp.float32)
    mask = jnp.arange(a.frames)[:, None] < jnp.full(a.batch, a.frames)
    layer = Recurrent(a.cell, a.hidden)
    variables = jax.jit(layer.init)(jax.random.key(0), x, mask)
    forward = jax.jit(lambda v, x: layer.apply(v, x, mask)[0])
    both = jax.jit(jax.grad(lambda v, x: jnp.square(layer.apply(v, x, mask)[0]).sum(), argnums=(0, 1)))
    measure.timed(lambda: both(variables, x), WARM_UPS)
    seconds = measure.timed(lambda: both(variables, x), a.runs)
    measure.timed(lambda: forward(variables, x), WARM_UPS)
    result = {
        "benchmark": "recurrent",
        "versions": measure.versions(),
        "devices": measure.devices(),
        "median_s": round(statistics.median(seconds), 5),
        "min_s": round(min(seconds), 5),
        "forward_s": round(statistics.median(measure.timed(lambda: forward(variables, x), a.runs)), 5),
    }
    print(json.dumps(result | {"sizes": vars(a)}))


if __name__ == "__main__":
    main()
