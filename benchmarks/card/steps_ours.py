"""Our part of `benchmarks.card.steps`: training and evaluation steps, each a line of a journal, and a profiler trace of one."""

import argparse
import functools
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.card import programs, trace
from benchmarks.card.journal import Figures, Journal
from benchmarks.card.programs import Call, Program
from benchmarks.card.sizes import Network, Sizes
from benchmarks.train_step import make_batch
from ds2_jax.network.model import DeepSpeech2, ModelSettings, init_variables
from ds2_jax.recognition.step import abstract_batch, make_eval_step
from ds2_jax.training.state import TrainState, init_state
from ds2_jax.training.step import make_train_step
from input_pipeline.storage import console

PRODUCTS = {"bfloat16": "default", "tf32": "default", "float32": "highest"}
PROFILED_STEPS = 3
CLIP_NORM, LEARNING_RATE = 400.0, 1e-4  # as in benchmarks/peers/torch_step.py
FRAME_S = 0.01


@functools.cache
def model_of(network: Network, precision: str) -> DeepSpeech2:
    """Return the network with the standard convolutions."""
    dtype = "bfloat16" if precision == "bfloat16" else "float32"
    settings = ModelSettings(cell=network.cell, rnn_size=network.hidden, rnn_layers=network.layers, compute_dtype=dtype)
    return DeepSpeech2(settings, network.vocabulary)


def optimizer() -> optax.GradientTransformation:
    """Return clipping and Adam."""
    return optax.chain(optax.clip_by_global_norm(CLIP_NORM), optax.adam(LEARNING_RATE))


def new_state(network: Network, precision: str) -> TrainState:
    """Return the initial state."""
    variables = init_variables(model_of(network, precision), network.bins, seed=0)
    return init_state(variables, optimizer(), None, average=False)


@functools.cache
def state_shapes(network: Network, precision: str) -> TrainState:
    """Return the shapes and types of the state."""
    return jax.eval_shape(functools.partial(new_state, network, precision))


def batch_of(network: Network) -> dict[str, jax.Array]:
    """Return a random batch without padding, on the device."""
    batch = make_batch(network.batch, network.frames, network.bins, network.labels, network.vocabulary)
    return jax.device_put(batch | {"utterance": np.arange(network.batch, dtype=np.int32)})


@functools.cache
def trace_step(kind: str, network: Network, precision: str) -> jax.stages.Lowered:
    """Trace a training or evaluation step."""
    model = model_of(network, precision)
    state = state_shapes(network, precision)
    batch = abstract_batch((network.batch, network.frames, network.labels), network.bins)
    with jax.default_matmul_precision(PRODUCTS[precision]):
        if kind == "train":
            return jax.jit(make_train_step(model, optimizer(), seed=0), donate_argnums=0).lower(state, batch)
        variables = {"params": state.parameters, "batch_stats": state.batch_stats}
        return jax.jit(make_eval_step(model)).lower(variables, batch)


def random_like(tree: Any) -> Any:
    """Return small random numbers in the place of a tree's arrays of floats, and zeros in that of others."""
    rng = np.random.default_rng(0)

    def draw(shape) -> jax.Array:
        if jnp.issubdtype(shape.dtype, jnp.floating):
            return jnp.asarray(rng.uniform(-0.02, 0.02, shape.shape).astype(np.float32))
        return jnp.zeros(shape.shape, shape.dtype)

    return jax.tree.map(draw, tree)


def random_state(network: Network, precision: str) -> TrainState:
    """Return a state without compiling its initialisation; second moments and variances are at least 0."""
    shapes = state_shapes(network, precision)
    state = random_like(shapes)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes.optimizer)
    ones = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), shapes.batch_stats)
    return state.replace(optimizer=zeros, batch_stats=ones)


def step_program(
    kind: str,
    network: Network,
    precision: str,
    options: str = "plain",
    profile: Callable[[Call], Figures] | None = None,
) -> Program:
    """Return a training or evaluation step of a network."""

    def make_call(compiled):
        state, batch = random_state(network, precision), batch_of(network)
        if kind == "eval":
            variables = {"params": state.parameters, "batch_stats": state.batch_stats}
            return lambda: compiled(variables, batch)
        states = [state]

        def train():
            state, metrics = compiled(states.pop(), batch)
            states.append(state)
            return metrics

        return train

    def figures(seconds: float) -> Figures:
        flop = network.train_flop if kind == "train" else network.forward_flop
        audio_s = network.batch * network.frames * FRAME_S
        return {"tflops": round(flop / seconds / 1e12, 2), "audio_s_per_s": round(audio_s / seconds)}

    name = f"{network.name} {kind} {precision} {options}"
    return Program(name, functools.partial(trace_step, kind, network, precision), make_call, figures, options, profile)


def write_trace(output: Path, title: str, call: Call) -> Figures:
    """Trace a few steps and append the summary to a file; return its name."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(PROFILED_STEPS):
                jax.block_until_ready(call())
        text = trace.summary(Path(folder), PROFILED_STEPS)
    with output.open("a") as file:
        file.write(f"{title}\n{text}\n\n")
    return {"trace": output.name}


def waves(sizes: Sizes, output: Path) -> list[list[Program]]:
    """Return the programs of rows 4 and 6, the most important first."""
    wide, narrow = sizes.networks(64), sizes.networks(16)
    profiles = [functools.partial(write_trace, output / "trace.txt", wide[0].name), None, None]

    def all_of(kind: str, networks: list[Network], precision: str, options: str = "plain") -> list[Program]:
        return [step_program(kind, network, precision, options) for network in networks]

    return [
        [step_program("train", n, "bfloat16", profile=profile) for n, profile in zip(wide, profiles, strict=True)],
        all_of("train", wide, "tf32") + all_of("train", wide, "bfloat16", "whole"),
        all_of("train", narrow, "bfloat16") + all_of("eval", wide, "bfloat16"),
        all_of("train", narrow, "tf32") + all_of("train", wide, "tf32", "whole") + all_of("eval", wide, "tf32"),
        all_of("train", wide, "float32") + all_of("eval", narrow, "bfloat16"),
    ]


@console.command
def main() -> None:
    """Measure, and write the journal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--journal", type=Path, required=True, help="file for the lines; the summary of the trace goes beside it"
    )
    parser.add_argument("--until", type=float, required=True, help="time at which the process has to end, Unix seconds")
    parser.add_argument("--shrink", type=int, default=1, help="divide all sizes by this, for a trial")
    a = parser.parse_args()
    journal, found = Journal(a.journal, a.until), waves(Sizes(a.shrink), a.journal.parent)
    programs.wait_for_card(found)
    journal.run("device", programs.RUN_S, lambda: {"name": jax.devices()[0].device_kind, "jax": jax.__version__})
    programs.measure_waves(journal, found)
    sys.stdout.flush()
    os._exit(0)  # compilations that are still running would delay the end


if __name__ == "__main__":
    main()
