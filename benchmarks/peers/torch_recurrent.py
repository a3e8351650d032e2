"""Time one bidirectional recurrent layer in PyTorch, forward and backward, with its two directions summed.

    python -m benchmarks.peers.torch_recurrent --batch 8 --frames 167 --width 512 --hidden 512 --cell gru
    python -m benchmarks.peers.torch_recurrent --batch 64 --frames 336 --width 1024 --hidden 1024 --device cuda --precision tf32

The counterpart of `benchmarks.recurrent`, without masks. Prints one JSON line.
"""

import argparse
import json
import statistics

import torch
from torch import nn

from benchmarks.peers import torch_device

KINDS = {"gru": nn.GRU, "rnn": nn.RNN, "lstm": nn.LSTM}


def make_calls(cell: str, hidden: int, shape: tuple[int, int, int], device: str, precision: str):
    """Return (forward pass, forward and backward pass) of a layer over [U, B, X]; both return the output."""
    torch_device.prepare(device, precision)
    dtype = torch_device.dtype_of(precision)
    layer = KINDS[cell](shape[-1], hidden, bidirectional=True).to(device, dtype)
    x = torch.randn(*shape, device=device, dtype=dtype, requires_grad=True)

    def forward():
        with torch_device.autocast(device, precision):
            y, _ = layer(x)
            return y[..., :hidden] + y[..., hidden:]

    def both():
        layer.zero_grad()
        x.grad = None
        y = forward()
        y.float().square().sum().backward()
        return y

    return forward, both


def main():
    args = argparse.ArgumentParser()
    for name, default in {"batch": 8, "frames": 167, "width": 512, "hidden": 512, "runs": 9, "threads": 2}.items():
        args.add_argument(f"--{name}", type=int, default=default)
    args.add_argument("--cell", choices=KINDS, default="gru")
    args.add_argument("--device", default="cpu")
    args.add_argument("--precision", choices=torch_device.PRECISIONS, default="float32")
    a = args.parse_args()
    torch.set_num_threads(a.threads)
    forward, both = make_calls(a.cell, a.hidden, (a.frames, a.batch, a.width), a.device, a.precision)
    torch_device.timed(both, 2, a.device)
    seconds = torch_device.timed(both, a.runs, a.device)
    with torch.no_grad():
        torch_device.timed(forward, 2, a.device)
        alone = torch_device.timed(forward, a.runs, a.device)
    print(
        json.dumps(
            {
                "peer": "pytorch " + torch.__version__,
                "median_s": round(statistics.median(seconds), 5),
                "min_s": round(min(seconds), 5),
                "forward_s": round(statistics.median(alone), 5),
            }
        )
    )


if __name__ == "__main__":
    main()
