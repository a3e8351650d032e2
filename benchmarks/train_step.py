"""Time one training step and one forward pass on random data; `benchmarks/peers/torch_step.py` is the counterpart.

    python -m benchmarks.train_step --batch 8 --frames 500 --hidden 512 --layers 3 --labels 60 --cell gru

Prints one JSON line: minimum and median of the timed steps after two warm-up steps, seconds of audio per second, the time of
one forward pass, and the peak resident memory of the process during the timed steps. As in training, what compiling has
left is given back before.
"""

import argparse
import json
import statistics

import jax
import numpy as np
import optax

from benchmarks import measure
from ds2_jax.cli.export import count_parameters
from ds2_jax.network.model import DeepSpeech2, ModelSettings, init_variables
from ds2_jax.network.rnn import CELLS
from ds2_jax.training import host_memory
from ds2_jax.training.state import init_state
from ds2_jax.training.step import make_train_step
from input_pipeline.storage import console

FRAME_S = 0.01
CONV = "11x41/3x2:32, 11x21/1x2:32"
WARM_UPS = 2


def make_batch(batch: int, frames: int, bins: int, labels: int, vocab: int) -> dict[str, np.ndarray]:
    """Return a random batch without padding."""
    rng = np.random.default_rng(0)
    return {
        "spectrogram": rng.normal(size=(batch, frames, bins)).astype(np.float32),
        "frames": np.full(batch, frames, np.int32),
        "labels": rng.integers(1, vocab, (batch, labels)).astype(np.int32),
        "label_lengths": np.full(batch, labels, np.int32),
        "valid": np.ones(batch, bool),
    }


@console.command
def main() -> None:
    """Run the benchmark and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"batch": 8, "frames": 500, "hidden": 512, "layers": 3, "labels": 60, "vocab": 29, "bins": 161, "steps": 7}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--cell", choices=CELLS, default="gru")
    parser.add_argument("--compute_dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument(
        "--clock", choices=measure.CLOCKS, default="wall", help="cpu: CPU seconds, for a machine in use"
    )
    a = parser.parse_args()
    settings = ModelSettings(
        conv=CONV,
        cell=a.cell,
        rnn_size=a.hidden,
        rnn_layers=a.layers,
        compute_dtype=a.compute_dtype,
    )
    model = DeepSpeech2(settings, a.vocab)
    optimizer = optax.chain(optax.clip_by_global_norm(400.0), optax.adam(1e-4))
    variables = init_variables(model, a.bins, seed=0)
    state = init_state(variables, optimizer, None, average=False)
    batch = jax.device_put(make_batch(a.batch, a.frames, a.bins, a.labels, a.vocab))
    step = jax.jit(make_train_step(model, optimizer, seed=0), donate_argnums=0)

    def one_step():
        nonlocal state
        state, metrics = step(state, batch)
        return metrics

    parameters = count_parameters(state.parameters)
    measure.timed(one_step, WARM_UPS)
    host_memory.release()
    measure.reset_peak_memory()
    steps = measure.timed(one_step, a.steps, a.clock)
    peak_mb = measure.peak_memory_mb()
    forward = jax.jit(lambda v, x: model.apply(v, x["spectrogram"], x["frames"], train=False))
    variables = {"params": state.parameters, "batch_stats": state.batch_stats}
    measure.timed(lambda: forward(variables, batch), 1)
    median = statistics.median(steps)
    result = {
        "benchmark": "train_step",
        "versions": measure.versions(),
        "devices": measure.devices(),
        "parameters": parameters,
        "step_min_s": round(min(steps), 4),
        "step_median_s": round(median, 4),
        "audio_s_per_s": round(a.batch * a.frames * FRAME_S / median, 2),
        "peak_memory_mb": round(peak_mb),
        "forward_s": round(min(measure.timed(lambda: forward(variables, batch), 3, a.clock)), 4),
    }
    print(json.dumps(result | {"sizes": vars(a)}))


if __name__ == "__main__":
    main()
