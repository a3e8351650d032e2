"""Time one training step of the network in `benchmarks.train_step`, in plain PyTorch.

The counterpart of `benchmarks.train_step`: same layers, same batch, same machine, same precision.
Needs an environment with `torch` (without --device cuda, the CPU build is enough).

    python -m benchmarks.peers.torch_step --batch 8 --frames 500 --hidden 512 --layers 3 --labels 60 --cell gru
    python -m benchmarks.peers.torch_step --batch 64 --frames 1000 --hidden 1024 --device cuda --precision autocast

Network: conv 11x41 (time x frequency), stride 3x2, 32 channels; conv 11x21, stride 1x2, 32 channels;
each with batch norm and a ReLU clipped at 20; `layers` bidirectional recurrent layers whose two directions
are summed, batch norm before each; linear layer; CTC; Adam; global-norm clipping at 400.
Prints one JSON line: seconds per step (minimum and median of 7 after 2 warm-up steps), seconds of audio per
second, seconds of one forward pass, and the peak memory during the timed steps: of the GPU's allocations, or the
resident memory of the process (Linux).
"""

import argparse
import json
import statistics
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.peers import torch_device
from benchmarks.peers.torch_recurrent import KINDS


class DeepSpeech2(nn.Module):
    def __init__(self, cell: str, hidden: int, layers: int, vocab: int, bins: int = 161):
        super().__init__()
        self.hidden = hidden
        self.conv1 = nn.Conv2d(1, 32, (11, 41), (3, 2), (5, 20), bias=False)
        self.norm1 = nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 32, (11, 21), (1, 2), (5, 10), bias=False)
        self.norm2 = nn.BatchNorm2d(32)
        width = 32 * (((bins + 1) // 2 + 1) // 2)
        kind = KINDS[cell]
        self.recurrent, self.norms = nn.ModuleList(), nn.ModuleList()
        for _ in range(layers):
            self.norms.append(nn.BatchNorm1d(width))
            self.recurrent.append(kind(width, hidden, bidirectional=True))
            width = hidden
        self.head = nn.Linear(hidden, vocab)
        self.recurrent_dtype = ""  # of the recurrent layers' outputs, after a forward pass

    def forward(self, spectrogram):  # [B, T, F] -> log-probabilities [U, B, K]
        x = F.hardtanh(self.norm1(self.conv1(spectrogram[:, None])), 0, 20)
        x = F.hardtanh(self.norm2(self.conv2(x)), 0, 20)
        batch, channels, frames, bins = x.shape
        x = x.permute(2, 0, 1, 3).reshape(frames, batch, channels * bins)
        for norm, recurrent in zip(self.norms, self.recurrent, strict=False):
            x = norm(x.reshape(frames * batch, -1)).reshape(frames, batch, -1)
            y, _ = recurrent(x)
            self.recurrent_dtype = str(y.dtype)
            x = y[..., : self.hidden] + y[..., self.hidden :]
        return F.log_softmax(self.head(x).float(), -1)


@dataclass
class Sizes:
    cell: str
    hidden: int
    layers: int
    batch: int
    frames: int
    labels: int
    vocab: int = 29


class Steps:
    """Training step, evaluation step and forward pass of a network on one random batch."""

    def __init__(self, sizes: Sizes, device: str, precision: str):
        torch_device.prepare(device, precision)
        self.device, self.precision = device, precision
        self.model = DeepSpeech2(sizes.cell, sizes.hidden, sizes.layers, sizes.vocab).to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), 1e-4)
        self.spectrogram = torch.randn(sizes.batch, sizes.frames, 161, device=device)
        self.labels = torch.randint(1, sizes.vocab, (sizes.batch, sizes.labels), device=device)
        self.label_lengths = torch.full((sizes.batch,), sizes.labels, dtype=torch.long, device=device)

    def forward(self):
        with torch_device.autocast(self.device, self.precision):
            return self.model(self.spectrogram)

    def loss(self, log_probs):
        lengths = torch.full_like(self.label_lengths, log_probs.shape[0])
        return F.ctc_loss(log_probs, self.labels, lengths, self.label_lengths, zero_infinity=True)

    def train(self):
        self.optimizer.zero_grad()
        self.loss(self.forward()).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 400.0)
        self.optimizer.step()

    def evaluate(self):
        """Return the best symbol of each frame, its log-probability, and the loss; call with `model.eval()`."""
        with torch.no_grad():
            log_probs = self.forward()
            return log_probs.max(-1), self.loss(log_probs)


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--batch", type=int, default=8)
    args.add_argument("--frames", type=int, default=500)
    args.add_argument("--hidden", type=int, default=512)
    args.add_argument("--layers", type=int, default=3)
    args.add_argument("--labels", type=int, default=60)
    args.add_argument("--vocab", type=int, default=29)
    args.add_argument("--cell", choices=KINDS, default="gru")
    args.add_argument("--threads", type=int, default=2)
    args.add_argument("--device", default="cpu")
    args.add_argument("--precision", choices=("float32", "tf32", "autocast"), default="float32")
    args.add_argument("--clock", choices=torch_device.CLOCKS, default="wall")
    a = args.parse_args()
    torch.set_num_threads(a.threads)
    sizes = Sizes(a.cell, a.hidden, a.layers, a.batch, a.frames, a.labels, a.vocab)
    steps = Steps(sizes, a.device, a.precision)
    torch_device.timed(steps.train, 2, a.device)
    torch_device.reset_peak(a.device)
    seconds = torch_device.timed(steps.train, 7, a.device, a.clock)
    peak_mb = torch_device.peak_mb(a.device)
    steps.model.eval()
    with torch.no_grad():
        torch_device.timed(steps.forward, 1, a.device)
        forward = min(torch_device.timed(steps.forward, 3, a.device, a.clock))
    print(
        json.dumps(
            {
                "peer": "pytorch " + torch.__version__,
                "parameters": sum(p.numel() for p in steps.model.parameters()),
                "step_min_s": round(min(seconds), 4),
                "step_median_s": round(statistics.median(seconds), 4),
                "audio_s_per_s": round(a.batch * a.frames * 0.01 / statistics.median(seconds), 2),
                "peak_memory_mb": round(peak_mb),
                "forward_s": round(forward, 4),
            }
        )
    )


if __name__ == "__main__":
    main()
