"""Compare our CTC loss and its gradient with optax's: time and temporary memory.

    python -m benchmarks.ctc --batch 32 --frames 400 --labels 200 --vocab 29

Prints one JSON line: medians of alternating runs, optax's time as a multiple of ours, and temporary memory in floats per
utterance, frame and label.
"""

import argparse
import json
import statistics

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import measure
from ds2_jax.network.ctc import negative_log_likelihood
from input_pipeline.storage import console


@console.command
def main() -> None:
    """Run the benchmark and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"batch": 32, "frames": 400, "labels": 200, "vocab": 29, "runs": 9}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    a = parser.parse_args()
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(a.batch, a.frames, a.vocab)), jnp.float32)
    labels = jnp.asarray(rng.integers(1, a.vocab, (a.batch, a.labels)), jnp.int32)
    lengths, label_lengths = jnp.full(a.batch, a.frames), jnp.full(a.batch, a.labels)
    none = jnp.zeros((a.batch, a.frames)), jnp.zeros((a.batch, a.labels))
    losses = {
        "optax": lambda x: optax.ctc_loss(x, none[0], labels, none[1]).sum(),
        "ours": lambda x: negative_log_likelihood(x, lengths, labels, label_lengths).sum(),
    }
    compiled = {name: jax.jit(jax.value_and_grad(loss)).lower(logits).compile() for name, loss in losses.items()}
    seconds: dict[str, list[float]] = {name: [] for name in compiled}
    for _ in range(a.runs + 1):
        for name, function in compiled.items():
            seconds[name] += measure.timed(lambda function=function: function(logits), 1)
    median = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    unit = 4 * a.batch * a.frames * a.labels
    floats = {name: measure.temporary_bytes(function) / unit for name, function in compiled.items()}
    result = {
        "benchmark": "ctc",
        "versions": measure.versions(),
        "devices": measure.devices(),
        "median_s": round(median["ours"], 5),
        "optax_median_s": round(median["optax"], 5),
        "speed_against_optax": round(median["optax"] / median["ours"], 3),
        "temporary_floats": round(floats["ours"], 2),
        "optax_temporary_floats": round(floats["optax"], 2),
    }
    print(json.dumps(result | {"sizes": vars(a)}))


if __name__ == "__main__":
    main()
