"""Compile a recipe's training and evaluation steps for TPUs, on a machine without TPUs, and report what they need.

    python -m pip install --target build/libtpu --no-deps 'libtpu==0.0.42.*'          # 480 MB; the version of jax[tpu]
    python -m benchmarks.compile_for --config=configs/librispeech.py:16 --topology=v5e:4x4 --json=figures.json

The programs are those of a real run, built by the real compiler; none is executed. Shapes are the recipe's buckets for the
lengths in --manifest, or else for lengths typical of its corpus (benchmarks/recipe_shapes.py). --shapes=largest compiles
only the longest; --batch, --frames and --labels define a single shape. Reported for each step: memory per chip and its share
of the chip's memory, floating-point operations (loop bodies counted as often as they run), the compiler's time estimate,
collectives, and host callbacks. Compiling a training step takes several minutes on one core; only that time depends on
this machine.
"""

import argparse
import concurrent.futures
import json
import math
import os
import re
import sys
import time
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # do not search for a TPU
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-16")  # if unset, libtpu logs many lines about a missing TPU
os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # allow several compilers at once: none of them opens a chip

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh
from tqdm import tqdm

from benchmarks import recipe_shapes
from benchmarks.hlo import Program
from benchmarks.recipe_steps import make_steps
from ds2_jax.parallel import sharding
from ds2_jax.recognition.step import abstract_batch
from ds2_jax.training import memory
from input_pipeline.batches.plan import Bucket
from input_pipeline.cores import usable_cores
from input_pipeline.storage import console, whole_file

CALLBACK = re.compile(r"custom_call_target=\"[^\"]*(?:callback|host)[^\"]*\"|\b(?:infeed|outfeed|send|recv)\(")
LIBTPU = Path("build/libtpu/libtpu/libtpu.so")
INSTALL = "python -m pip install --target build/libtpu --no-deps 'libtpu==0.0.42.*'"
GIB = 2**30
CHIPS = {  # memory, GiB; dense bfloat16 operations per second; clock, Hz (peak = matrix units x 2 x their cells x clock)
    "v4": (32, 275e12, 1.05e9),
    "v5e": (16, 197e12, 1.5e9),
    "v5p": (95, 459e12, 1.75e9),
    "v6e": (32, 918e12, 1.75e9),
}
HEAD = (
    "step",
    "rows x frames x labels",
    "rows per chip",
    "arguments GB",
    "temporaries GB",
    "peak GB",
    "of the chip's memory",
    "TFLOP",
    "ms (compiler's estimate)",
    "collectives",
    "MB sent",
    "compile s",
)

Shape = tuple[int, int, int]  # rows, frames, labels


def make_mesh(topology: str, fsdp: int) -> Mesh:
    """Return a mesh of the chips in a topology such as v5e:4x4. Raises SystemExit."""
    kind, _, size = topology.partition(":")
    if kind not in CHIPS or not re.fullmatch(r"\d+(x\d+)+", size):
        raise SystemExit(
            f"error: --topology={topology} is unknown: write it like v5e:4x4; the types are {', '.join(CHIPS)}"
        )
    sides = [int(side) for side in size.split("x")]
    if LIBTPU.exists():
        os.environ.setdefault("TPU_LIBRARY_PATH", str(LIBTPU.absolute()))
    options = {"chips_per_host_bounds": [1, 1, 1]} if math.prod(sides) == 1 else {}
    try:
        description = topologies.get_topology_desc(platform="tpu", topology_name=topology, **options)
    except RuntimeError as error:
        remedy = f"install the compiler: {INSTALL}" if "not installed" in str(error) else "choose another --topology"
        raise SystemExit(f"error: {error}; {remedy}") from error
    return Mesh(np.array(description.devices).reshape(-1, fsdp), (sharding.DATA, sharding.FSDP))


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


def describe(lowered: jax.stages.Lowered, chip: tuple[float, float, float]) -> dict:
    """Compile a step; return its memory, operations, estimated time, collectives and callbacks, all per chip."""
    start = time.perf_counter()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return {"fits": False, "refused": str(error).splitlines()[0]}
    seconds = time.perf_counter() - start
    text, sizes, needed = compiled.as_text() or "", compiled.memory_analysis(), memory.needed_bytes(compiled)
    program = Program(text)
    kinds: dict[str, dict] = {}
    for collective in program.collectives():
        sums = kinds.setdefault(collective.kind, {"runs": 0, "bytes": 0, "overlapped_bytes": 0})
        sums["runs"] += collective.runs
        sums["bytes"] += collective.total
        sums["overlapped_bytes"] += collective.total * collective.overlapped
    assert sizes is not None
    assert needed is not None
    return {
        "fits": needed <= chip[0] * GIB,
        "arguments_bytes": sizes.argument_size_in_bytes,
        "temporary_bytes": sizes.temp_size_in_bytes,
        "peak_bytes": needed,
        "flop": program.flop(),
        "estimated_s": program.estimated_cycles() / chip[2],
        "collectives": kinds,
        "host_callbacks": len(CALLBACK.findall(text)),
        "compile_s": round(seconds, 1),
    }


def table(results: list[dict], chip: tuple[float, float, float]) -> str:
    """Format results as a Markdown table."""
    lines = [f"| {' | '.join(HEAD)} |", "|" + "---|" * len(HEAD)]
    for r in results:
        first = f"| {r['step']} | {' x '.join(map(str, r['shape']))} | {r['rows_of_a_chip']:g}"
        if not r["fits"] and "refused" in r:
            lines.append(f"{first} | does not fit: {r['refused'][:120]} |")
            continue
        gb = [f"{r[name] / 1e9:.2f}" for name in ("arguments_bytes", "temporary_bytes", "peak_bytes")]
        kinds = ", ".join(f"{sums['runs']} {kind}" for kind, sums in r["collectives"].items()) or "none"
        sent = sum(sums["bytes"] for sums in r["collectives"].values()) / 1e6
        share = r["peak_bytes"] / (chip[0] * GIB)
        rest = [
            f"{share:.0%}",
            f"{r['flop'] / 1e12:.3g}",
            f"{1e3 * r['estimated_s']:.3g}",
            kinds,
            f"{sent:.3g}",
            f"{r['compile_s']}",
        ]
        lines.append(" | ".join([first, *gb, *rest]) + " |")
    return "\n".join(lines)


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/librispeech.py", help="recipe, as FILE or FILE:DEVICES")
    parser.add_argument("--topology", default="v5e:4x4")
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


@console.command
def main() -> None:
    """Compile the steps, print a table, and write the results if --json is given."""
    a = parse_arguments()
    config = recipe_shapes.read_config(a.config)
    config.update_from_flattened_dict(parse_settings(a.set))
    chip = CHIPS.get(a.topology.partition(":")[0], CHIPS["v5e"])
    mesh = make_mesh(a.topology, config.mesh.fsdp)
    jitted = make_steps(config, a.vocab or recipe_shapes.VOCABULARY[recipe_shapes.corpus_of(config)], mesh)
    steps = steps_of(config, mesh, a)
    lengths = a.manifest or ("as given" if a.frames else f"like {recipe_shapes.corpus_of(config)}")
    about = {"config": a.config, "topology": a.topology, "chips": mesh.size, "accumulate": config.optim.accumulate}
    about |= {"remat": config.train.remat, "lengths": lengths, "jax": jax.__version__}
    print(
        f"{a.config} on {a.topology}: {mesh.size} chips, {config.optim.accumulate} parts per step, lengths {lengths}",
        flush=True,
    )

    def compile_step(step: tuple[str, Shape]) -> dict:
        name, shape = step
        function, argument, size = jitted[name]
        lowered = function.lower(argument, abstract_batch(shape, size))
        parts = mesh.size * (config.optim.accumulate if name == "train" else 1)
        return {
            **about,
            "step": name,
            "shape": shape,
            "rows_of_a_chip": shape[0] / parts,
            **describe(lowered, chip),
        }

    with concurrent.futures.ThreadPoolExecutor(a.jobs) as pool:
        results: list[dict] = []
        for result in tqdm(
            pool.map(compile_step, steps), total=len(steps), desc="compile", unit=" steps", file=sys.stderr
        ):
            results.append(result)
            if a.json:
                write(Path(a.json), results)
    print(table(results, chip))


def write(file: Path, results: list[dict]) -> None:
    """Add results to a file; they replace earlier ones of the same recipe, topology, step and shape."""

    def key(result: dict) -> list:
        return [result["config"], result["chips"], result["topology"], result["step"], list(result["shape"])]

    kept = json.loads(file.read_text()) if file.exists() else []
    new = [key(result) for result in results]
    merged = sorted([r for r in kept if key(r) not in new] + results, key=key)
    with whole_file.open_text(file) as lines:
        lines.write("[\n" + ",\n".join(json.dumps(result) for result in merged) + "\n]\n")


if __name__ == "__main__":
    main()
