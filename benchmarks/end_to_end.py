"""Compare the speed of training with its input pipeline to the same steps on batches that are already in memory.

    python -m benchmarks.end_to_end --manifest=data/an4/train.jsonl [--augment=configs/augmentation_an4.json]

Prints one JSON line: the speed of the loop relative to the steps alone, and the fraction of time it waited for data.
"""

import argparse
import json
import logging
import tempfile
import time

import jax
from absl import flags

from benchmarks import measure
from ds2_jax.cli import settings
from ds2_jax.configs import an4
from ds2_jax.network.model import init_variables
from ds2_jax.parallel import sharding
from ds2_jax.recognition.step import abstract_inputs
from ds2_jax.training.compile import batch_shape, compile_steps
from ds2_jax.training.data import describe_model, make_corpus, read_manifests
from ds2_jax.training.optim import make_optimizer, make_schedule
from ds2_jax.training.state import init_state
from ds2_jax.training.step import make_train_step
from input_pipeline.storage import console


@console.command
def main() -> None:
    """Run the benchmark and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--augment", default="", help="JSON file of augmentors")
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rnn_size", type=int, default=0, help="units per recurrent layer; 0: the recipe's")
    a = parser.parse_args()
    flags.FLAGS.mark_as_parsed()
    logging.disable(logging.WARNING)
    config = an4.get_config()
    config.data.train, config.data.dev, config.data.test, config.augment.file = a.manifest, "", "", a.augment
    config.model.rnn_size = a.rnn_size or config.model.rnn_size
    recipe, mesh = settings.read_training(config), sharding.make_mesh()
    manifest = read_manifests(recipe.data).train
    with tempfile.TemporaryDirectory() as folder:
        meta = describe_model(recipe, manifest, folder)
    corpus = make_corpus(recipe, manifest, meta, mesh)
    optimizer, schedule = make_optimizer(recipe.optim), make_schedule(recipe.optim, 1000, 100)
    state = init_state(init_variables(meta.network, meta.feature_size, 0), optimizer, schedule, average=True)
    state = jax.device_put(state, sharding.replicated(mesh))
    step = make_train_step(meta.network, optimizer, seed=0, ema=recipe.optim.ema)
    abstract = {shape: abstract_inputs(shape, corpus.inputs) for shape in corpus.shapes}
    compiled = compile_steps(step, state, abstract, mesh, recipe.load)
    specs = corpus.plan_epoch(1)[: a.batches]

    def run(batches) -> tuple[float, float]:
        """Train on batches; return the total seconds and the seconds spent waiting for data."""
        nonlocal state
        begin, waited = time.perf_counter(), 0.0
        while True:
            requested = time.perf_counter()
            batch = next(batches, None)
            waited += time.perf_counter() - requested
            if batch is None:
                break
            batch.pop("problem", None)
            arrays = sharding.put_batch(batch, mesh)
            state, metrics = compiled[batch_shape(arrays, corpus.inputs)](state, arrays)
            jax.block_until_ready(metrics)  # on CPUs, steps run one after another, on cores shared with loading
        return time.perf_counter() - begin, waited

    ready = [dict(batch) for batch in corpus.batches(specs)]
    alone, loop, waits = [], [], []
    for _ in range(a.rounds):
        alone.append(run(iter([dict(batch) for batch in ready]))[0])
        total, waited = run(corpus.batches(specs))
        loop.append(total)
        waits.append(waited / total)
    result = {
        "benchmark": "end_to_end",
        "versions": measure.versions(),
        "devices": measure.devices(),
        "steps_alone_s": round(min(alone), 3),
        "loop_s": round(min(loop), 3),
        "share_of_step_speed": round(min(alone) / min(loop), 3),
        "waiting_share": round(min(waits), 4),
    }
    print(json.dumps(result | {"options": vars(a)}))


if __name__ == "__main__":
    main()
