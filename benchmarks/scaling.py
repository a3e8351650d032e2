"""Weak and strong scaling of the training step: seconds a step, speed-up and efficiency for several numbers of devices.

    python -m benchmarks.scaling --devices 1,2,4,8,16 --picture=scaling.png        # 64 utterances of 6.5 s a device

The original's profile tool. Each number of devices is a process of its own. On accelerators the devices are real, the
first of those that this machine has; on a CPU they are fakes that share its cores, which says what splitting costs, not
what devices bring: then sizes are small, and the table says so. Weak: --batch utterances on each device. Strong: the same
total, --batch on each of the most devices, on any number of them. Prints a table, then one JSON line.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys

WARM_UPS = 2
ORIGINAL = {1: 1.0, 2: 1.97, 4: 3.74, 8: 6.21, 16: 10.70}  # of DeepSpeech2's profile tool, Tesla K40m, 64 a device
DEFAULTS = {"batch": (64, 2), "frames": (650, 120), "labels": (96, 16), "hidden": (0, 64), "steps": (10, 5)}
MEANINGS = {
    "batch": "utterances on a device",
    "frames": "of 10 ms in each utterance",
    "labels": "of each utterance",
    "hidden": "units of a recurrent layer; 0: the recipe's",
    "steps": "timed, after two warm-ups",
}


def parse_arguments() -> argparse.Namespace:
    """Parse the command line; sizes that are not given depend on the kind of device, which a worker finds out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", default="1,2,4,8", help="numbers of devices, with commas")
    parser.add_argument("--config", default="configs/librispeech.py")
    for name, (real, fake) in DEFAULTS.items():
        parser.add_argument(f"--{name}", type=int, help=f"{MEANINGS[name]} ({real}; on a CPU {fake})")
    parser.add_argument("--picture", default="", help="PNG to draw")
    parser.add_argument("--worker", type=int, default=0, help=argparse.SUPPRESS)
    a = parser.parse_args()
    try:
        a.devices = sorted({int(n) for n in a.devices.split(",")})
    except ValueError:
        parser.error(f"--devices={a.devices}: write numbers with commas, 1,2,4,8")
    if min(a.devices) < 1:
        parser.error("--devices: use 1 or more")
    return a


def work(a: argparse.Namespace) -> dict:
    """Time steps on so many devices of this process, for the weak and the strong batch."""
    import jax
    import numpy as np

    from benchmarks import measure, recipe_shapes
    from benchmarks.recipe_steps import make_steps
    from benchmarks.train_step import make_batch
    from ds2_jax.parallel import sharding

    fake = jax.devices()[0].platform == "cpu"
    size = {name: getattr(a, name) if getattr(a, name) is not None else of[fake] for name, of in DEFAULTS.items()}
    if jax.device_count() < a.worker:
        raise SystemExit(f"error: {a.worker} devices were asked for, this machine has {measure.devices()}")
    config = recipe_shapes.read_config(a.config)
    config.optim.accumulate = 1
    if size["hidden"]:
        config.model.rnn_size = size["hidden"]
    mesh = jax.sharding.Mesh(np.array(jax.devices()[: a.worker]).reshape(-1, 1), (sharding.DATA, sharding.FSDP))
    vocabulary = recipe_shapes.VOCABULARY[recipe_shapes.corpus_of(config)]
    step, abstract, bins = make_steps(config, vocabulary, mesh)["train"]
    shardings = sharding.state_sharding(abstract, mesh)

    def start():
        keys = iter(jax.random.split(jax.random.key(0), len(jax.tree.leaves(abstract))))
        draw = lambda x, key: 0.02 * abs(jax.random.normal(key, x.shape, x.dtype))  # noqa: E731
        return jax.tree.map(
            lambda x: draw(x, next(keys)) if x.dtype == "float32" else jax.numpy.zeros(x.shape, x.dtype), abstract
        )

    found = {
        "devices": a.worker,
        "kind": jax.devices()[0].device_kind,
        "fake": fake,
        "machine": measure.machine(),
        "sizes": size,
    }
    for name, rows in (("weak", size["batch"] * a.worker), ("strong", size["batch"] * max(a.devices))):
        rows = -(-rows // a.worker) * a.worker
        batch = make_batch(rows, size["frames"], bins, size["labels"], vocabulary)
        arrays = sharding.put_batch(batch | {"utterance": np.arange(rows, dtype=np.int32)}, mesh)
        state = jax.jit(start, out_shardings=shardings)()

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
            found[name] = {"rows": rows, "step_s": None}
            continue
        found[name] = {"rows": rows, "step_s": statistics.median(seconds)}
    return found


def start_worker(a: argparse.Namespace, devices: int) -> dict:
    """Run a process for so many devices; return what it found."""
    command = [sys.executable, "-m", "benchmarks.scaling", *sys.argv[1:], f"--worker={devices}"]
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"  # of a CPU only
    result = subprocess.run(command, env=os.environ | {"XLA_FLAGS": flags}, stdout=subprocess.PIPE, text=True)
    if result.returncode:
        raise SystemExit(result.returncode)
    return json.loads(result.stdout.splitlines()[-1])


def add_speed_up(results: list[dict]) -> None:
    """Add speed-up and efficiency to each result, against the fewest devices that the batch fits."""
    for name in ("weak", "strong"):
        timed = [r for r in results if r[name]["step_s"]]
        for r in timed:
            first, now = timed[0][name], r[name]
            rate = (now["rows"] / now["step_s"]) / (first["rows"] / first["step_s"])
            now["speed_up"] = rate * timed[0]["devices"]
            now["efficiency"] = now["speed_up"] / r["devices"]


def table(results: list[dict]) -> str:
    """Lay the results out as a table of markdown."""
    lines = []
    for name in ("weak", "strong"):
        lines += [
            f"| {name}: devices | utterances a step | seconds a step | speed-up | efficiency |",
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
            f"Fake devices that share {first['machine']}: more of them than cores cannot be faster. What a step costs in "
            "weak scaling beyond its share of the cores is the cost of splitting."
        )
    return "\n".join(lines)


def draw(results: list[dict], path: str) -> None:
    """Draw speed-up over devices, beside the original's."""
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
    axes.plot(list(shown), list(shown.values()), "x--", color="0.5", label="the original, Tesla K40m, 64 a device")
    kind = f"fake devices on {results[0]['machine']}" if results[0]["fake"] else results[0]["kind"]
    axes.set(xlabel="devices", ylabel="speed-up", title=kind, xscale="log", yscale="log")
    ticks = sorted({r["devices"] for r in results} | set(shown))
    names = [str(n) for n in ticks]
    axes.set_xticks(ticks, names)
    axes.set_yticks(ticks, names)
    axes.minorticks_off()
    axes.legend()
    figure.savefig(path, dpi=120, bbox_inches="tight")


def main() -> None:
    """Start a worker for each number of devices; or be one."""
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
