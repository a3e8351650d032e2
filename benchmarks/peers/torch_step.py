"""Time one training step of the network in `benchmarks.train_step`, in plain PyTorch.

The counterpart of `benchmarks.train_step`: same layers, same batch, same machine, float32.
Needs an environment with `torch` (the CPU build is enough).

    python benchmarks/peers/torch_step.py --batch 8 --frames 500 --hidden 512 --layers 3 --labels 60 --cell gru

Network: conv 11x41 (time x frequency), stride 3x2, 32 channels; conv 11x21, stride 1x2, 32 channels;
each with batch norm and a ReLU clipped at 20; `layers` bidirectional recurrent layers whose two directions
are summed, batch norm before each; linear layer; CTC; Adam; global-norm clipping at 400.
Prints one JSON line: seconds per step (minimum and median of 7 after 2 warm-up steps), seconds of audio per
second, seconds of one forward pass, and the peak resident memory of the process during the timed steps (Linux).
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn


class DeepSpeech2(nn.Module):
    def __init__(self, cell: str, hidden: int, layers: int, vocab: int, bins: int = 161):
        super().__init__()
        self.hidden = hidden
        self.conv1 = nn.Conv2d(1, 32, (11, 41), (3, 2), (5, 20), bias=False)
        self.norm1 = nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 32, (11, 21), (1, 2), (5, 10), bias=False)
        self.norm2 = nn.BatchNorm2d(32)
        width = 32 * (((bins + 1) // 2 + 1) // 2)
        kind = {"gru": nn.GRU, "rnn": nn.RNN, "lstm": nn.LSTM}[cell]
        self.recurrent, self.norms = nn.ModuleList(), nn.ModuleList()
        for _ in range(layers):
            self.norms.append(nn.BatchNorm1d(width))
            self.recurrent.append(kind(width, hidden, bidirectional=True))
            width = hidden
        self.head = nn.Linear(hidden, vocab)

    def forward(self, spectrogram):  # [B, T, F] -> log-probabilities [U, B, K]
        x = F.hardtanh(self.norm1(self.conv1(spectrogram[:, None])), 0, 20)
        x = F.hardtanh(self.norm2(self.conv2(x)), 0, 20)
        batch, channels, frames, bins = x.shape
        x = x.permute(2, 0, 1, 3).reshape(frames, batch, channels * bins)
        for norm, recurrent in zip(self.norms, self.recurrent, strict=False):
            x = norm(x.reshape(frames * batch, -1)).reshape(frames, batch, -1)
            y, _ = recurrent(x)
            x = y[..., : self.hidden] + y[..., self.hidden :]
        return F.log_softmax(self.head(x), -1)


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--batch", type=int, default=8)
    args.add_argument("--frames", type=int, default=500)
    args.add_argument("--hidden", type=int, default=512)
    args.add_argument("--layers", type=int, default=3)
    args.add_argument("--labels", type=int, default=60)
    args.add_argument("--vocab", type=int, default=29)
    args.add_argument("--cell", default="gru")
    args.add_argument("--threads", type=int, default=2)
    a = args.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    model = DeepSpeech2(a.cell, a.hidden, a.layers, a.vocab)
    optimizer = torch.optim.Adam(model.parameters(), 1e-4)
    spectrogram = torch.randn(a.batch, a.frames, 161)
    labels = torch.randint(1, a.vocab, (a.batch, a.labels))
    label_lengths = torch.full((a.batch,), a.labels, dtype=torch.long)

    def step():
        optimizer.zero_grad()
        log_probs = model(spectrogram)
        lengths = torch.full((a.batch,), log_probs.shape[0], dtype=torch.long)
        loss = F.ctc_loss(log_probs, labels, lengths, label_lengths, zero_infinity=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 400.0)
        optimizer.step()

    def timed(call, times):
        seconds = []
        for _ in range(times):
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
        return seconds

    timed(step, 2)
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak
    steps = timed(step, 7)
    peak_mb = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
    model.eval()
    with torch.no_grad():
        timed(lambda: model(spectrogram), 1)
        forward = min(timed(lambda: model(spectrogram), 3))
    print(
        json.dumps(
            {
                "peer": "pytorch " + torch.__version__,
                "parameters": sum(p.numel() for p in model.parameters()),
                "step_min_s": round(min(steps), 4),
                "step_median_s": round(statistics.median(steps), 4),
                "audio_s_per_s": round(a.batch * a.frames * 0.01 / statistics.median(steps), 2),
                "peak_memory_mb": round(peak_mb),
                "forward_s": round(forward, 4),
            }
        )
    )


if __name__ == "__main__":
    main()
