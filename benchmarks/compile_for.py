"""Compile recipes' training and evaluation steps for TPUs or GPUs on a machine without any, and report what they need.

    python -m benchmarks.compile_for --config=configs/librispeech.py:16 --topology=v5e:4x4 --json=figures.json
    python -m benchmarks.compile_for --config=all --topology=h100,a100 --shapes=largest

The programs are those of a real run, built by the real compiler; none is executed. benchmarks/accelerators.py says how to
install the compilers. Shapes are the recipe's buckets for the lengths in --manifest, or else for lengths typical of its
corpus (benchmarks/recipe_shapes.py). --shapes=largest compiles only the longest; --batch, --frames and --labels define a
single shape. Reported for each step: memory per chip and its share of the chip's memory, floating-point operations (loop
bodies counted as often as they run), collectives, and host callbacks; for TPUs the compiler's time estimate; for GPUs the
kernels of a step and of an output frame in each loop, and the CUDA graphs. A GPU's products are not tuned, which needs the
GPU: their time differs, their number hardly. XLA_FLAGS applies. For a TPU, compiling a training step takes several minutes
on one core, for a GPU ten seconds; only that time depends on this machine.
"""

import argparse
import concurrent.futures
import dataclasses
import functools
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
from jax.sharding import Mesh
from tqdm import tqdm

from benchmarks import recipe_shapes
from benchmarks.accelerators import GIB, Chip, chip_of, make_mesh
from benchmarks.compiled_tables import table
from benchmarks.gpu_program import GpuProgram
from benchmarks.hlo import Program
from benchmarks.recipe_steps import make_steps
from ds2_jax.cli import settings
from ds2_jax.recognition.step import abstract_batch
from ds2_jax.training import memory
from input_pipeline.batches.plan import Bucket
from input_pipeline.cores import usable_cores
from input_pipeline.storage import console, whole_file

CALLBACK = re.compile(r"custom_call_target=\"[^\"]*(?:callback|host)[^\"]*\"|\b(?:infeed|outfeed|send|recv)\(")
NOT_TRAINED = ("__init__", "base", "voxforge_eval")  # not recipes, or without a network of its own

Shape = tuple[int, int, int]  # rows, frames, labels


def steps_of(config, mesh: Mesh, a: argparse.Namespace) -> list[tuple[str, Shape]]:
    """List the steps to compile with their shapes, longest first; rows are rounded up as in training and evaluation."""
    steps: list[tuple[str, Shape]] = []
    for name, size, multiple in (
        ("train", config.batch.size, mesh.size * config.optim.accumulate),
        ("eval", config.batch.eval_size, mesh.size),
    ):
        if a.steps not in ("all", name):
            continue
        if a.frames:
            buckets = [Bucket(a.frames, a.labels, a.batch or size)]
        else:
            buckets = recipe_shapes.shapes(config, *recipe_shapes.lengths(config, a.manifest), training=name == "train")
        shapes = [(-(-b.rows // multiple) * multiple, b.frames, b.labels) for b in buckets]
        steps += [(name, shape) for shape in (shapes[:1] if a.shapes == "largest" else shapes)]
    return steps


def parse_settings(text: str) -> dict:
    """Parse --set into values by name; a value is JSON (a number, true, null) or else plain text."""
    settings = {}
    for name, _, value in (item.partition("=") for item in text.split(",") if item):
        try:
            settings[name] = json.loads(value)
        except json.JSONDecodeError:
            settings[name] = value
    return settings


def describe(lowered: jax.stages.Lowered, chip: Chip) -> dict:
    """Compile a step; return its memory, operations, collectives, callbacks, and the figures of its kind of chip."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as dump:
        options: dict[str, str | bool] = {}
        if chip.is_gpu:  # tuning needs the GPU
            options = {"xla_gpu_autotune_level": "0", "xla_dump_to": dump}
        try:
            compiled = lowered.compile(compiler_options=options)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return {"fits": False, "refused": str(error).splitlines()[0]}
        seconds = time.perf_counter() - start
        text = compiled.as_text() or ""
        program = Program(text)
        special = launches(program, Path(dump)) if chip.is_gpu else {}
    sizes, needed = compiled.memory_analysis(), memory.needed_bytes(compiled)
    kinds: dict[str, dict] = {}
    for collective in program.collectives():
        sums = kinds.setdefault(collective.kind, {"runs": 0, "bytes": 0, "overlapped_bytes": 0})
        sums["runs"] += collective.runs
        sums["bytes"] += collective.total
        sums["overlapped_bytes"] += collective.total * collective.overlapped
    assert sizes is not None
    assert needed is not None
    return {
        "fits": needed <= chip.memory_gib * GIB,
        "memory_gib": chip.memory_gib,
        "arguments_bytes": sizes.argument_size_in_bytes,
        "temporary_bytes": sizes.temp_size_in_bytes,
        "peak_bytes": needed,
        "flop": program.flop(),
        **(special or {"estimated_s": program.estimated_cycles() / chip.clock_hz}),
        "collectives": kinds,
        "host_callbacks": len(CALLBACK.findall(text)),
        "compile_s": round(seconds, 1),
    }


def launches(program: Program, dump: Path) -> dict:
    """Return the kernels, launches and loops of a GPU program."""
    gpu = GpuProgram(program, dump)
    loops = [dataclasses.asdict(loop) for loop in gpu.loops]
    return {"kernels": gpu.thunks.kernels, "launches": gpu.thunks.launches, "loops": loops}


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--config",
        default="configs/librispeech.py",
        help="recipes, as FILE or FILE:DEVICES, with commas; all: each once",
    )
    parser.add_argument(
        "--topology",
        default="v5e:4x4",
        help="with commas: v5e:4x4, h100, h100:8 (in one machine), a100:2x8",
    )
    parser.add_argument("--manifest", default="", help="manifest whose lengths determine the buckets")
    parser.add_argument("--shapes", choices=("all", "largest"), default="all")
    parser.add_argument("--steps", choices=("all", "train", "eval"), default="all")
    parser.add_argument("--batch", type=int, default=0, help="utterances on all chips, with --frames; 0: the recipe's")
    parser.add_argument("--frames", type=int, default=0, help="frames of 10 ms: one shape instead of the buckets")
    parser.add_argument("--labels", type=int, default=120, help="labels per utterance, with --frames")
    parser.add_argument("--vocab", type=int, default=0, help="symbols, including the blank; 0: the corpus's")
    parser.add_argument("--jobs", type=int, default=max(1, usable_cores() // 4), help="parallel compilations")
    parser.add_argument("--set", default="", help="changes to the recipe's settings, e.g. mesh.fsdp=8,train.remat=true")
    parser.add_argument(
        "--json", default="", help="file for the results; those of other recipes and topologies in it are kept"
    )
    return parser.parse_args()


def recipes(names: str) -> list[str]:
    """Return the recipes named with --config."""
    if names != "all":
        return names.split(",")
    return [str(file) for file in sorted(Path("configs").glob("*.py")) if file.stem not in NOT_TRAINED]


def prepare(recipe: str, topology: str, a: argparse.Namespace) -> list[Callable[[], dict]]:
    """Return a function for each step of a recipe, which compiles it and returns its figures."""
    config = recipe_shapes.read_config(recipe)
    config.update_from_flattened_dict(parse_settings(a.set))
    chip, mesh = chip_of(topology), make_mesh(topology, config.mesh.fsdp)
    jitted = make_steps(config, a.vocab or recipe_shapes.VOCABULARY[recipe_shapes.corpus_of(config)], mesh)
    network = settings.read_training(config).new_model.network
    lengths = a.manifest or ("as given" if a.frames else f"like {recipe_shapes.corpus_of(config)}")
    about = {"config": recipe, "set": a.set, "topology": topology, "chips": mesh.size}
    about |= {"accumulate": config.optim.accumulate, "remat": config.train.remat, "lengths": lengths}
    about |= {"jax": jax.__version__}

    def compile_step(name: str, shape: Shape) -> dict:
        function, argument, size = jitted[name]
        parts = mesh.size * (config.optim.accumulate if name == "train" else 1)
        figures = describe(function.lower(argument, abstract_batch(shape, size)), chip)
        shapes = {"step": name, "shape": shape, "rows_of_a_chip": shape[0] / parts}
        frames = {"output_frames": network.output_frames(shape[1])}
        return about | shapes | frames | figures

    return [functools.partial(compile_step, *step) for step in steps_of(config, mesh, a)]


@console.command
def main() -> None:
    """Compile the steps, print a table, and write the results if --json is given."""
    a = parse_arguments()
    jax.config.update("jax_enable_compilation_cache", False)  # a cached program has no list of its kernels
    topologies = a.topology.split(",")
    steps = [step for topology in topologies for recipe in recipes(a.config) for step in prepare(recipe, topology, a)]
    with concurrent.futures.ThreadPoolExecutor(a.jobs) as pool:
        results: list[dict] = []
        running = pool.map(lambda step: step(), steps)
        for result in tqdm(running, total=len(steps), desc="compile", unit=" steps", file=sys.stderr):
            results.append(result)
            if a.json:
                write(Path(a.json), results)
    for topology in topologies:
        print(f"{topology}\n\n{table([r for r in results if r['topology'] == topology])}\n")


def write(file: Path, results: list[dict]) -> None:
    """Add results to a file; they replace earlier ones of the same recipe, topology, step and shape."""

    def key(result: dict) -> list:
        settings = [result["config"], result.get("set", ""), result["chips"], result["topology"]]
        return [*settings, result["step"], list(result["shape"])]

    kept = json.loads(file.read_text()) if file.exists() else []
    new = [key(result) for result in results]
    merged = sorted([r for r in kept if key(r) not in new] + results, key=key)
    with whole_file.open_text(file) as lines:
        lines.write("[\n" + ",\n".join(json.dumps(result) for result in merged) + "\n]\n")


if __name__ == "__main__":
    main()
