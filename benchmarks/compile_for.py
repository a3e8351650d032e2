"""Compile a recipe's training and evaluation step for TPUs, on a machine without one, and tell what became of them.

    TPU_SKIP_MDS_QUERY=1 JAX_PLATFORMS=cpu python -m benchmarks.compile_for --config=configs/librispeech.py --topology=v5e:2x4

Needs `pip install libtpu` (real TPU compilation; nothing runs). Prints one JSON line: for each step, memory of a chip, host
callbacks, collectives, and the products and other operations in the body of each recurrent loop.
"""

import argparse
import collections
import importlib.util
import json
import re
import time
from pathlib import Path

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh

from ds2_jax import sharding
from ds2_jax.compile import abstract_batch
from ds2_jax.model import DeepSpeech2, ModelSettings
from ds2_jax.optim import make_optimizer, make_schedule
from ds2_jax.state import init_state, init_variables
from ds2_jax.steps import make_eval_step, make_train_step
from input_pipeline.features import FeatureSettings, feature_size

CALLBACK = re.compile(r"custom_call_target=\"[^\"]*(?:callback|host)[^\"]*\"|\b(?:infeed|outfeed|send|recv)\(")
COLLECTIVE = re.compile(r"= .* (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(")
COPIES = {"copy", "copy-start", "copy-done", "bitcast", "tuple", "parameter", "constant", "get-tuple-element"}
STEPS_PER_EPOCH = 1000  # of the schedule, which does not change the program's shape


def read_config(path: str):
    """Return the settings of a recipe's file."""
    spec = importlib.util.spec_from_file_location("recipe", path)
    if spec is None or spec.loader is None or not Path(path).exists():
        raise SystemExit(f"error: {path} is no recipe; name a file such as configs/librispeech.py")
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    return recipe.get_config()


def programs(config, vocabulary: int, shape: tuple[int, int, int], mesh: Mesh) -> dict:
    """Lower the training step and the evaluation step of a recipe for a batch of this shape."""
    features = FeatureSettings(**{name: config.features[name] for name in FeatureSettings.__dataclass_fields__})
    model, size = DeepSpeech2(ModelSettings.from_config(config.model), vocabulary), feature_size(features)
    schedule = make_schedule(config.optim, config.train.epochs * STEPS_PER_EPOCH, STEPS_PER_EPOCH)
    optimizer = make_optimizer(config.optim, schedule)
    variables = jax.eval_shape(lambda: init_variables(model, size, seed=0))
    state = jax.eval_shape(lambda v: init_state(v, optimizer, average=config.optim.ema > 0), variables)
    everywhere, rows = sharding.replicated(mesh), sharding.by_row(mesh)
    train_step = make_train_step(model, optimizer, seed=0, accumulate=config.optim.accumulate, ema=config.optim.ema)
    in_shardings = (everywhere, rows)
    train = jax.jit(train_step, donate_argnums=0, in_shardings=in_shardings, out_shardings=everywhere)
    evaluate = jax.jit(make_eval_step(model), in_shardings=in_shardings, out_shardings=everywhere)
    _, frames, labels = shape
    batch = abstract_batch(shape, size)
    evaluated = abstract_batch((max(config.batch.eval_size, mesh.size), frames, labels), size)
    return {"train": train.lower(state, batch), "eval": evaluate.lower(variables, evaluated)}


def loop_bodies(text: str) -> list[collections.Counter]:
    """Count the kinds of operations in the body of each loop that holds a product, fused ones by their kind."""
    computations = {m[1]: m[0] for m in re.finditer(r"^(?:ENTRY )?%?([\w.-]+) \(.*?^}", text, re.M | re.S)}
    bodies = []
    for name in re.findall(r"\bwhile\(.*?body=%?([\w.-]+)", text):
        kinds: collections.Counter = collections.Counter()
        for line in computations[name].splitlines()[1:]:
            operation = re.search(r"\s([a-z][\w-]*)\(", line.split(" = ", 1)[-1])
            if not operation or operation[1] in COPIES:
                continue
            called = re.search(r"calls=%?([\w.-]+)", line)
            product = called and re.search(r"\b(?:dot|convolution)\(", computations.get(called[1], ""))
            kinds["product" if product or operation[1] in ("dot", "convolution") else operation[1]] += 1
        if kinds["product"]:
            bodies.append(kinds)
    return bodies


def describe(lowered) -> dict:
    """Compile and tell memory, callbacks, collectives and loops."""
    start = time.perf_counter()
    compiled = lowered.compile()
    text, memory = compiled.as_text(), compiled.memory_analysis()
    return {
        "compile_s": round(time.perf_counter() - start, 1),
        "arguments_gb": round(memory.argument_size_in_bytes / 2**30, 3),
        "temporary_gb": round(memory.temp_size_in_bytes / 2**30, 3),
        "host_callbacks": len(CALLBACK.findall(text)),
        "collectives": dict(collections.Counter(COLLECTIVE.findall(text))),
        "loops_with_products": [dict(kinds) for kinds in loop_bodies(text)],
    }


def main() -> None:
    """Parse, compile, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/librispeech.py")
    parser.add_argument("--topology", default="v5e:2x4")
    parser.add_argument("--frames", type=int, default=1600, help="of the longest batch; 10 ms each")
    parser.add_argument("--labels", type=int, default=320)
    parser.add_argument("--vocab", type=int, default=29)
    parser.add_argument("--batch", type=int, default=0, help="utterances of all chips; 0: the recipe's")
    a = parser.parse_args()
    config = read_config(a.config)
    topology = topologies.get_topology_desc(platform="tpu", topology_name=a.topology)
    mesh = Mesh(np.array(topology.devices), ("data",))
    shape = (a.batch or config.batch.size, a.frames, a.labels)
    result = {
        "benchmark": "compile_for",
        "config": a.config,
        "topology": a.topology,
        "chips": mesh.size,
        "batch": shape,
    }
    for name, lowered in programs(config, a.vocab, shape, mesh).items():
        result[name] = describe(lowered)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
