"""Time one bidirectional recurrent layer in PyTorch, forward and backward, with its two directions summed.

    python benchmarks/peers/torch_recurrent.py --batch 8 --frames 167 --width 512 --hidden 512 --cell gru

The counterpart of `benchmarks.recurrent`, without masks. Prints one JSON line.
"""

import argparse
import json
import statistics
import time

import torch
from torch import nn


def main():
    args = argparse.ArgumentParser()
    for name, default in {"batch": 8, "frames": 167, "width": 512, "hidden": 512, "runs": 9, "threads": 2}.items():
        args.add_argument(f"--{name}", type=int, default=default)
    args.add_argument("--cell", default="gru")
    a = args.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    layer = {"gru": nn.GRU, "rnn": nn.RNN, "lstm": nn.LSTM}[a.cell](a.width, a.hidden, bidirectional=True)
    x = torch.randn(a.frames, a.batch, a.width, requires_grad=True)

    def forward():
        y, _ = layer(x)
        return y[..., : a.hidden] + y[..., a.hidden :]

    def both():
        layer.zero_grad()
        x.grad = None
        forward().square().sum().backward()

    def timed(call, times):
        seconds = []
        for _ in range(times):
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
        return seconds

    timed(both, 2)
    seconds = timed(both, a.runs)
    with torch.no_grad():
        timed(forward, 2)
        alone = timed(forward, a.runs)
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
