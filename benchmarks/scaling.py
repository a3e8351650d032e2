"""Measure weak and strong scaling of the training step: seconds per step, speed-up and efficiency by number of devices.

    python -m benchmarks.scaling --devices 1,2,4,8,16 --picture=scaling.png        # 64 utterances of 6.5 s per device

The counterpart of the original's profiling tool. Each number of devices is measured in its own process. With accelerators,
the first devices of this machine are used. On a CPU, devices are simulated and share its cores: this shows the cost of
splitting, not the gain from more devices; default sizes are small, and the table says so. Weak scaling: --batch utterances
on each device. Strong scaling: the same total on any number of devices, --batch times the largest number. Prints a table,
then one JSON line.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys

from input_pipeline.storage import console

WARM_UPS = 2
ORIGINAL = {1: 1.0, 2: 1.97, 4: 3.74, 8: 6.21, 16: 10.70}  # DeepSpeech2's profiling tool: Tesla K40m, 64 per device
DEFAULTS = {"batch": (64, 2), "frames": (650, 120), "labels": (96, 16), "hidden": (0, 64), "steps": (10, 5)}
MEANINGS = {
    "batch": "utterances per device",
    "frames": "frames of 10 ms per utterance",
    "labels": "labels per utterance",
    "hidden": "units per recurrent layer; 0: the recipe's",
    "steps": "timed steps, after two warm-up steps",
}


def parse_arguments() -> argparse.Namespace:
    """Parse the command line; defaults of sizes depend on the kind of device and are chosen by the worker."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", default="1,2,4,8", help="numbers of devices, separated by commas")
    parser.add_argument("--config", default="configs/librispeech.py")
    for name, (accelerator, cpu) in DEFAULTS.items():
        parser.add_argument(f"--{name}", type=int, help=f"{MEANINGS[name]} (default {accelerator}; on a CPU {cpu})")
    parser.add_argument("--picture", default="", help="PNG file for a plot of the speed-up")
    parser.add_argument("--worker", type=int, default=0, help=argparse.SUPPRESS)
    a = parser.parse_args()
    try:
        a.devices = sorted({int(n) for n in a.devices.split(",")})
    except ValueError:
        parser.error(f"--devices={a.devices}: write numbers separated by commas, such as 1,2,4,8")
    if min(a.devices) < 1:
        parser.error("--devices: every number must be at least 1")
    return a


def work(a: argparse.Namespace) -> dict:
    """Time steps on `a.worker` devices of this process, for the weak and the strong batch."""
    import jax
    import numpy as np

    from benchmarks import measure, recipe_shapes
    from benchmarks.recipe_steps import make_steps
    from benchmarks.train_step import make_batch
    from ds2_jax.parallel import sharding

    simulated = jax.devices()[0].platform == "cpu"
    size = {
        name: getattr(a, name) if getattr(a, name) is not None else defaults[simulated]
        for name, defaults in DEFAULTS.items()
    }
    if jax.device_count() < a.worker:
        raise SystemExit(f"error: {a.worker} devices were requested, but this machine has {measure.devices()}")
    config = recipe_shapes.read_config(a.config)
    config.optim.accumulate = 1
    if size["hidden"]:
        config.model.rnn_size = size["hidden"]
    mesh = jax.sharding.Mesh(np.array(jax.devices()[: a.worker]).reshape(-1, 1), (sharding.DATA, sharding.FSDP))
    vocabulary = recipe_shapes.VOCABULARY[recipe_shapes.corpus_of(config)]
    step, abstract, bins = make_steps(config, vocabulary, mesh)["train"]
    shardings = sharding.state_sharding(abstract, mesh)

    def random_state():
        keys = iter(jax.random.split(jax.random.key(0), len(jax.tree.leaves(abstract))))
        draw = lambda x, key: 0.02 * abs(jax.random.normal(key, x.shape, x.dtype))  # noqa: E731
        return jax.tree.map(
            lambda x: draw(x, next(keys)) if x.dtype == "float32" else jax.numpy.zeros(x.shape, x.dtype), abstract
        )

    result = {
        "devices": a.worker,
        "kind": jax.devices()[0].device_kind,
        "fake": simulated,
        "machine": measure.machine(),
        "sizes": size,
    }
    for name, rows in (("weak", size["batch"] * a.worker), ("strong", size["batch"] * max(a.devices))):
        rows = -(-rows // a.worker) * a.worker
        batch = make_batch(rows, size["frames"], bins, size["labels"], vocabulary)
        arrays = sharding.put_batch(batch | {"utterance": np.arange(rows, dtype=np.int32)}, mesh)
        state = jax.jit(random_state, out_shardings=shardings)()

        def one_step(arrays=arrays):
            nonlocal state
            state, metrics = step(state, arrays)
            return metrics

        try:
            measure.timed(one_step, WARM_UPS)
            seconds = measure.timed(one_step, size["steps"])
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            result[name] = {"rows": rows, "step_s": None}
            continue
        result[name] = {"rows": rows, "step_s": statistics.median(seconds)}
    return result


def start_worker(a: argparse.Namespace, devices: int) -> dict:
    """Measure one number of devices in a new process; return its result."""
    command = [sys.executable, "-m", "benchmarks.scaling", *sys.argv[1:], f"--worker={devices}"]
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"  # affects CPUs only
    result = subprocess.run(command, env=os.environ | {"XLA_FLAGS": flags}, stdout=subprocess.PIPE, text=True)
    if result.returncode:
        raise SystemExit(result.returncode)
    return json.loads(result.stdout.splitlines()[-1])


def add_speed_up(results: list[dict]) -> None:
    """Add speed-up and efficiency to each result, relative to the fewest devices on which the batch fits."""
    for name in ("weak", "strong"):
        timed = [r for r in results if r[name]["step_s"]]
        for r in timed:
            first, now = timed[0][name], r[name]
            rate = (now["rows"] / now["step_s"]) / (first["rows"] / first["step_s"])
            now["speed_up"] = rate * timed[0]["devices"]
            now["efficiency"] = now["speed_up"] / r["devices"]


def table(results: list[dict]) -> str:
    """Format the results as Markdown tables."""
    lines = []
    for name in ("weak", "strong"):
        lines += [
            f"| {name}: devices | utterances per step | seconds per step | speed-up | efficiency |",
            "|---|---|---|---|---|",
        ]
        for r in results:
            one = r[name]
            numbers = (
                "does not fit | |"
                if not one["step_s"]
                else (f"{one['step_s']:.4g} | {one['speed_up']:.2f} | {one['efficiency']:.0%}")
            )
            lines.append(f"| {r['devices']} | {one['rows']} | {numbers} |")
        lines.append("")
    first = results[0]
    if first["fake"]:
        lines.append(
            f"Simulated devices that share {first['machine']}: more devices than cores cannot be faster. In weak scaling, "
            "the time of a step beyond its share of the cores is the cost of splitting."
        )
    return "\n".join(lines)


def draw(results: list[dict], path: str) -> None:
    """Plot the speed-up against the number of devices, with the original's for comparison."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 5))
    most = max(r["devices"] for r in results)
    axes.plot([1, most], [1, most], color="0.8", label="ideal")
    for name, style in (("weak", "o-"), ("strong", "s-")):
        timed = [r for r in results if r[name]["step_s"]]
        axes.plot([r["devices"] for r in timed], [r[name]["speed_up"] for r in timed], style, label=f"{name} scaling")
    shown = {n: speed for n, speed in ORIGINAL.items() if n <= most}
    axes.plot(list(shown), list(shown.values()), "x--", color="0.5", label="the original, Tesla K40m, 64 per device")
    kind = f"simulated devices on {results[0]['machine']}" if results[0]["fake"] else results[0]["kind"]
    axes.set(xlabel="devices", ylabel="speed-up", title=kind, xscale="log", yscale="log")
    ticks = sorted({r["devices"] for r in results} | set(shown))
    names = [str(n) for n in ticks]
    axes.set_xticks(ticks, names)
    axes.set_yticks(ticks, names)
    axes.minorticks_off()
    axes.legend()
    figure.savefig(path, dpi=120, bbox_inches="tight")


@console.command
def main() -> None:
    """Start a worker for each number of devices and print the results; with --worker, be one."""
    a = parse_arguments()
    if a.worker:
        print(json.dumps(work(a)))
        return
    from tqdm import tqdm

    results = [start_worker(a, devices) for devices in tqdm(a.devices, desc="scaling", unit=" runs", delay=2)]
    add_speed_up(results)
    print(table(results))
    if a.picture:
        draw(results, a.picture)
    print(json.dumps({"benchmark": "scaling", "config": a.config, "original": ORIGINAL, "results": results}))


if __name__ == "__main__":
    main()
