"""Our part of `benchmarks.card.layers`: recurrent layers and CTC in variants, each program a line of a journal."""

import argparse
import functools
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.card import programs
from benchmarks.card.journal import Figures, Journal
from benchmarks.card.programs import Program
from benchmarks.card.sizes import Layer, Loss, Sizes
from ds2_jax.network import ctc, recurrence, rnn
from input_pipeline.storage import console

DTYPES = {"bfloat16": jnp.bfloat16, "tf32": jnp.float32, "float32": jnp.float32}
PRODUCTS = {"bfloat16": "default", "tf32": "default", "float32": "highest"}  # by default, a GPU's products use TF32
UNROLLS, TURN_SIZES = (1, 4, 8, 16), (1, 4, 8, 16)
PRESENT = "present"  # of the constants
TURNS = 336


@functools.cache
def module(name: str, folder: str) -> ModuleType:
    """Return our module `rnn` or `ctc`, or the file of that name in a folder, which has that of another version."""
    if not folder:
        return {"rnn": rnn, "ctc": ctc}[name]
    spec = importlib.util.spec_from_file_location(f"before_{name}", Path(folder, f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found
    spec.loader.exec_module(found)
    return found


@functools.cache
def trace_layer(layer: Layer, precision: str, unroll: int, folder: str) -> jax.stages.Lowered:
    """Trace the gradient of a layer for its input and its parameters. unroll: 0 for the present constant."""
    dtype = DTYPES[precision]
    network = module("rnn", folder).Recurrent(layer.cell, layer.hidden, dtype=dtype)
    x = jax.ShapeDtypeStruct((layer.frames, layer.batch, layer.hidden), dtype)
    mask = jax.ShapeDtypeStruct(x.shape[:2], jnp.bool_)
    variables = jax.eval_shape(network.init, jax.random.key(0), x, mask)

    def loss(variables, x, mask):
        return jnp.square(network.apply(variables, x, mask)[0].astype(jnp.float32)).sum()

    constant = mock.patch.object(recurrence, "UNROLL", unroll or recurrence.UNROLL)
    with constant, jax.default_matmul_precision(PRODUCTS[precision]):
        return jax.jit(jax.grad(loss, argnums=(0, 1))).lower(variables, x, mask)


def random_arguments(lowered: jax.stages.Lowered, bound: float) -> list:
    """Return arguments of a program: numbers within the bound, and true."""
    rng = np.random.default_rng(0)

    def draw(info) -> jax.Array:
        if info.dtype == jnp.bool_:
            return jnp.ones(info.shape, bool)
        return jnp.asarray(rng.uniform(-bound, bound, info.shape).astype(np.float32), info.dtype)

    return jax.tree.map(draw, lowered.args_info[0])


def layer_program(layer: Layer, precision: str, unroll: int = 0, options: str = "plain", folder: str = "") -> Program:
    """Return a variant of a layer. Parameters as of `trace_layer`; folder: with another version."""
    trace = functools.partial(trace_layer, layer, precision, unroll, folder)

    def figures(seconds: float) -> Figures:
        return {
            "us_a_frame": round(1e6 * seconds / layer.frames, 2),
            "tflops": round(layer.flop / seconds / 1e12, 2),
        }

    def make_call(compiled):
        arguments = random_arguments(trace(), layer.hidden**-0.5)
        return lambda: compiled(*arguments)

    version = "before" if folder else "ours"
    name = f"{layer.name} {version} {precision} {f'unroll={unroll}' if unroll else PRESENT} {options}"
    return Program(name, trace, make_call, figures, options)


@functools.cache
def trace_loss(kind: str, turn: int, folder: str, loss: Loss) -> jax.stages.Lowered:
    """Trace CTC and its gradient for the logits. turn: frames between two rescalings, 0 for the present constant."""
    labels = jax.ShapeDtypeStruct((loss.batch, loss.labels), jnp.int32)
    logits = jax.ShapeDtypeStruct((loss.batch, loss.frames, loss.vocabulary), jnp.float32)
    lengths, label_lengths = jnp.full(loss.batch, loss.frames), jnp.full(loss.batch, loss.labels)

    def ours(logits, labels):
        return module("ctc", folder).negative_log_likelihood(logits, lengths, labels, label_lengths).sum()

    def theirs(logits, labels):
        return optax.ctc_loss(logits, jnp.zeros(logits.shape[:2]), labels, jnp.zeros(labels.shape)).sum()

    with mock.patch.object(ctc, "TURN", turn or ctc.TURN):
        return jax.jit(jax.value_and_grad(ours if kind == "ours" else theirs)).lower(logits, labels)


def loss_program(loss: Loss, kind: str, turn: int = 0, options: str = "plain", folder: str = "") -> Program:
    """Return a variant of CTC. kind: ours or optax."""
    trace = functools.partial(trace_loss, kind, turn, folder, loss)

    def make_call(compiled):
        rng = np.random.default_rng(0)
        logits = jnp.asarray(rng.normal(size=(loss.batch, loss.frames, loss.vocabulary)), jnp.float32)
        labels = jnp.asarray(rng.integers(1, loss.vocabulary, (loss.batch, loss.labels)), jnp.int32)
        return lambda: compiled(logits, labels)

    def figures(seconds: float) -> Figures:
        return {"us_a_frame": round(1e6 * seconds / loss.frames, 2)}

    name = f"ctc {'before' if folder else kind} {f'turn={turn}' if turn else PRESENT} {options}"
    return Program(name, trace, make_call, figures, options)


def loop_program(options: str) -> Program:
    """Return a loop whose body does almost nothing: the cost of a turn."""

    @functools.cache
    def trace() -> jax.stages.Lowered:
        def turn(x, _):
            return x * 1.0001 + 1, None

        return jax.jit(lambda x: jax.lax.scan(turn, x, length=TURNS)[0]).lower(
            jax.ShapeDtypeStruct((256,), jnp.float32)
        )

    def make_call(compiled):
        x = jnp.ones(256)
        return lambda: compiled(x)

    return Program(
        f"loop {options}", trace, make_call, lambda seconds: {"us_a_turn": round(1e6 * seconds / TURNS, 2)}, options
    )


def waves(sizes: Sizes, folder: str) -> list[list[Program]]:
    """Return the programs of rows 2 and 3, the most important first. folder: with rnn.py and ctc.py from before, or ''."""
    wide, narrow, loss = sizes.layers(64), sizes.layers(16), sizes.loss
    before = [folder] if folder else []

    def all_of(layers: list[Layer], *precisions: str, **variant) -> list[Program]:
        return [layer_program(layer, precision, **variant) for precision in precisions for layer in layers]

    def versions(make: Callable[..., list[Program]]) -> list[Program]:
        return [*make(), *(program for old in before for program in make(folder=old))]

    losses = [loss_program(loss, "ours"), loss_program(loss, "optax")]
    losses += [loss_program(loss, "ours", folder=old) for old in before]
    turns = [turn for turn in TURN_SIZES if turn != ctc.TURN]

    def unrolled(layers: list[Layer], options: str, *unrolls: int) -> list[Program]:
        others = [unroll for unroll in unrolls if unroll != recurrence.UNROLL]
        return [p for unroll in others for p in all_of(layers, "bfloat16", unroll=unroll, options=options)]

    return [
        versions(functools.partial(all_of, wide, "bfloat16")) + losses + [loop_program(o) for o in programs.OPTIONS],
        all_of(wide, "bfloat16", options="whole")
        + all_of(wide, "bfloat16", options="while")
        + [loss_program(loss, "ours", options="whole")],
        unrolled(wide, "plain", 8, 16, 1) + [loss_program(loss, "ours", turn) for turn in turns],
        versions(functools.partial(all_of, wide, "tf32")) + versions(functools.partial(all_of, narrow, "bfloat16")),
        unrolled(wide, "plain", 4) + unrolled(wide, "whole", *UNROLLS),
        all_of(narrow, "tf32") + all_of(wide, "float32") + all_of(narrow, "bfloat16", options="whole"),
        unrolled(wide, "while", *UNROLLS) + [loss_program(loss, "ours", turn, "whole") for turn in turns],
        unrolled(narrow, "whole", *UNROLLS) + all_of(narrow, "float32") + all_of(wide, "tf32", options="whole"),
    ]


@console.command
def main() -> None:
    """Measure, and write the journal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--journal", type=Path, required=True, help="file for the lines")
    parser.add_argument("--until", type=float, required=True, help="time at which the process has to end, Unix seconds")
    parser.add_argument("--before", default="", help="folder with rnn.py and ctc.py of another version")
    parser.add_argument("--shrink", type=int, default=1, help="divide all sizes by this, for a trial")
    a = parser.parse_args()
    journal, found = Journal(a.journal, a.until), waves(Sizes(a.shrink), a.before)
    programs.wait_for_card(found)
    journal.run("device", programs.RUN_S, lambda: {"name": jax.devices()[0].device_kind, "jax": jax.__version__})
    programs.measure_waves(journal, found)
    sys.stdout.flush()
    os._exit(0)  # compilations that are still running would delay the end


if __name__ == "__main__":
    main()
