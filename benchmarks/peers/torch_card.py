"""PyTorch's part of `benchmarks.card`: floors, layers and loss, or whole steps, each step a line of a journal."""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np

from benchmarks.card.journal import Journal
from benchmarks.card.sizes import BATCHES, Layer, Network, Sizes

LIMIT_S = 20  # of a step


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--part", choices=("layers", "steps"), required=True)
    args.add_argument("--journal", type=Path, required=True)
    args.add_argument("--until", type=float, required=True)
    args.add_argument("--device", default="cuda")
    args.add_argument("--shrink", type=int, default=1)
    a = args.parse_args()
    journal, sizes = Journal(a.journal, a.until), Sizes(a.shrink)
    import torch  # slow

    sys.stdin.readline()
    journal.run("card", LIMIT_S, lambda: card(torch, a.device))
    measures = layer_measures if a.part == "layers" else step_measures
    for name, measure in measures(sizes, a.device):
        journal.run(name, LIMIT_S, measure)


def card(torch, device: str) -> dict:
    """Name the device, and list its limits and its state."""
    facts = {"torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    if device != "cuda":
        return {"name": device, **facts}
    of = torch.cuda.get_device_properties(0)
    names = "multi_processor_count", "total_memory", "L2_cache_size", "shared_memory_per_multiprocessor"
    fields = "driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.limit,power.draw,temperature.gpu"
    query = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    state = subprocess.run(query, capture_output=True, text=True, timeout=LIMIT_S / 2).stdout.strip()
    limits = {name: getattr(of, name, None) for name in names}  # they differ by version
    return {"name": of.name, **limits, **facts, **dict(zip(fields.split(","), state.split(", "), strict=False))}


def floor_measures(sizes: Sizes, device: str):
    """Yield the floors: products of the recurrence and of 8192 rows, launches and a copy."""
    from benchmarks.peers import torch_floors

    def product(shape, precision):
        return lambda: {"tflops": round(torch_floors.product_tflops(shape, device, precision), 1)}

    for precision in ("bfloat16", "tf32", "float32"):
        yield f"product {precision}", product((1, *[sizes.product] * 3), precision)
    yield "launch", lambda: {"us": round(torch_floors.launch_us(device, graph=False), 2)}
    yield "launch in a graph", lambda: {"us": round(torch_floors.launch_us(device, graph=True), 2)}
    yield "copy", lambda: {"tb_per_s": round(torch_floors.copy_tb_per_s(sizes.copy_bytes, device), 2)}


def recurrence_measures(sizes: Sizes, device: str):
    """Yield the product h x W_h of one frame, both directions, forward and back."""
    from benchmarks.card.sizes import GATES
    from benchmarks.peers import torch_floors

    def product(shape, precision):
        tflops = torch_floors.product_tflops(shape, device, precision)
        d, m, k, n = shape
        return {"tflops": round(tflops, 2), "us": round(2 * d * m * k * n / tflops / 1e6, 2)}

    for precision in ("bfloat16", "tf32"):
        for batch in BATCHES:
            for layer in sizes.layers(batch):
                columns = GATES[layer.cell] * layer.hidden
                name = f"{layer.name.replace('layer', 'product of a frame')} {precision}"
                for way, inner, outer in (("forward", layer.hidden, columns), ("backward", columns, layer.hidden)):
                    shape = 2, layer.batch, inner, outer
                    yield f"{name} {way}", lambda shape=shape, precision=precision: product(shape, precision)


def layer_measures(sizes: Sizes, device: str):
    """Yield rows 1 to 3, the most important first."""
    yield from floor_measures(sizes, device)
    yield "ctc torch", lambda: ctc(sizes, device)
    order = [("autocast", 64), ("tf32", 64), ("bfloat16", 64), ("autocast", 16), ("tf32", 16), ("float32", 64)]
    for precision, batch in [*order, ("bfloat16", 16), ("float32", 16)]:
        for layer in sizes.layers(batch):
            yield f"{layer.name} torch {precision}", lambda x=layer, p=precision: time_layer(x, device, p)
    yield from recurrence_measures(sizes, device)
    for blocks in (64, 128):
        yield f"barrier of {blocks} blocks", lambda blocks=blocks: barrier(blocks)


def barrier(blocks: int) -> dict:
    """Time a barrier of thread blocks."""
    from benchmarks.peers import torch_floors

    return {"us": round(torch_floors.barrier_us(blocks), 2)}


def time_layer(layer: Layer, device: str, precision: str) -> dict:
    """Time forward and backward pass of a layer, and the forward pass alone."""
    import torch

    from benchmarks.peers import torch_device, torch_recurrent

    shape = layer.frames, layer.batch, layer.hidden
    torch_device.reset_peak(device)
    forward, both = torch_recurrent.make_calls(layer.cell, layer.hidden, shape, device, precision)
    dtype = str(both().dtype)
    seconds = torch_device.median_s(both, device)
    figures = {
        "median_ms": round(1e3 * seconds, 3),
        "us_a_frame": round(1e6 * seconds / layer.frames, 2),
        "tflops": round(layer.flop / seconds / 1e12, 2),
        "peak_mb": round(torch_device.peak_mb(device)),
        "output": dtype,
    }
    with torch.no_grad():
        return figures | {"forward_ms": round(1e3 * torch_device.median_s(forward, device), 3)}


def ctc(sizes: Sizes, device: str) -> dict:
    """Time the loss and its gradient."""
    from benchmarks.peers import torch_ctc, torch_device

    loss, rng = sizes.loss, np.random.default_rng(0)
    logits = rng.normal(size=(loss.batch, loss.frames, loss.vocabulary)).astype(np.float32)
    labels = rng.integers(1, loss.vocabulary, (loss.batch, loss.labels))
    torch_device.reset_peak(device)
    seconds = torch_device.median_s(torch_ctc.make_call(logits, labels, device), device)
    return {"median_ms": round(1e3 * seconds, 3), "peak_mb": round(torch_device.peak_mb(device))}


def step_measures(sizes: Sizes, device: str):
    """Yield the products and row 4, the most important first."""
    yield from list(floor_measures(sizes, device))[:2]
    for precision, batch in (("autocast", 64), ("tf32", 64), ("autocast", 16), ("tf32", 16), ("float32", 64)):
        for network in sizes.networks(batch):
            yield f"{network.name} torch {precision}", lambda x=network, p=precision: time_steps(x, device, p)


def time_steps(network: Network, device: str, precision: str) -> dict:
    """Time a training step and an evaluation step."""
    import dataclasses

    from benchmarks.peers import torch_device, torch_step

    fields = {f.name: getattr(network, f.name) for f in dataclasses.fields(torch_step.Sizes) if f.name != "vocab"}
    torch_device.reset_peak(device)
    steps = torch_step.Steps(torch_step.Sizes(**fields), device, precision)
    torch_device.timed(steps.train, 3, device)  # cuDNN's search needs memory of its own
    torch_device.reset_peak(device)
    seconds = torch_device.median_s(steps.train, device, warm_ups=1, budget_s=0.7)
    peak_mb = torch_device.peak_mb(device)
    steps.model.eval()
    evaluation = torch_device.median_s(steps.evaluate, device, budget_s=0.2)
    return {
        "median_ms": round(1e3 * seconds, 2),
        "tflops": round(network.train_flop / seconds / 1e12, 2),
        "audio_s_per_s": round(network.batch * network.frames / 100 / seconds),
        "peak_mb": round(peak_mb),
        "eval_ms": round(1e3 * evaluation, 2),
        "recurrent": steps.model.recurrent_dtype,
    }


if __name__ == "__main__":
    main()
