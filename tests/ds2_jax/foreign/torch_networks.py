"""Run by a Python with PyTorch: write checkpoints of deepspeech.pytorch's network with random parameters, and its output.

    python torch_networks.py FOLDER CELL(lstm, gru, rnn) DIRECTIONS(1, 2) FORMAT(zip, legacy)

Reads spectrogram.npy [T, 161] from the folder; writes model.pth, and output.npy, the logits [U, K]. The layers are those of
https://github.com/SeanNaren/deepspeech.pytorch, deepspeech_pytorch/model.py.
"""

import enum
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

LABELS = list("_'ABCDEFGHIJKLMNOPQRSTUVWXYZ ")
HIDDEN, LAYERS, CONTEXT, CHANNELS = 7, 3, 4, (4, 6)


class RNNType(enum.Enum):
    lstm = nn.LSTM


class Configuration:
    """Stands for the saved configuration, of a class that a reader does not have."""

    def __init__(self):
        self.rnn_type, self.hidden_size = RNNType.lstm, HIDDEN


class DeepSpeech(nn.Module):
    def __init__(self, cell: type, two_ways: bool):
        super().__init__()
        first, second = CHANNELS
        self.conv = nn.Module()
        self.conv.seq_module = nn.Sequential(
            nn.Conv2d(1, first, kernel_size=(41, 11), stride=(2, 2), padding=(20, 5)),
            nn.BatchNorm2d(first),
            nn.Hardtanh(0, 20),
            nn.Conv2d(first, second, kernel_size=(21, 11), stride=(2, 1), padding=(10, 5)),
            nn.BatchNorm2d(second),
            nn.Hardtanh(0, 20),
        )
        self.rnns, width = nn.Sequential(), 41 * second
        for i in range(LAYERS):
            layer = nn.Module()
            if i:
                layer.batch_norm = nn.Module()
                layer.batch_norm.module = nn.BatchNorm1d(width)
            layer.rnn = cell(width, HIDDEN, bidirectional=two_ways)
            self.rnns.append(layer)
            width = HIDDEN
        if not two_ways:
            self.lookahead = nn.Sequential(nn.Module(), nn.Hardtanh(0, 20))
            self.lookahead[0].conv = nn.Conv1d(HIDDEN, HIDDEN, CONTEXT, groups=HIDDEN, bias=False)
        self.fc = nn.Sequential(nn.Module())
        self.fc[0].module = nn.Sequential(nn.BatchNorm1d(HIDDEN), nn.Linear(HIDDEN, len(LABELS), bias=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map one utterance [1, 1, F, T] to logits [U, K]."""
        x = self.conv.seq_module(x)
        x = x.view(x.shape[0], -1, x.shape[3]).transpose(1, 2).transpose(0, 1)  # [U, 1, X]
        for layer in self.rnns:
            if hasattr(layer, "batch_norm"):
                x = layer.batch_norm.module(x[:, 0])[:, None]
            x, _ = layer.rnn(x)
            if layer.rnn.bidirectional:
                x = x.view(len(x), 1, 2, -1).sum(2)
        if hasattr(self, "lookahead"):
            padded = nn.functional.pad(x.permute(1, 2, 0), (0, CONTEXT - 1))
            x = self.lookahead[1](self.lookahead[0].conv(padded)).permute(2, 0, 1)
        return self.fc[0].module(x[:, 0])


def main() -> None:
    """Write the files."""
    folder, cell, directions, file_format = sys.argv[1:]
    torch.manual_seed(1)
    kinds = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
    network = DeepSpeech(kinds[cell], directions == "2").eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                for values, low, high in (
                    (module.weight, 0.5, 1.5),
                    (module.running_var, 0.5, 1.5),
                    (module.bias, -1, 1),
                ):
                    values.uniform_(low, high)
                module.running_mean.uniform_(-0.5, 0.5)
            if isinstance(module, nn.Conv1d):
                module.weight.uniform_(-1, 3)  # so that the output varies from frame to frame
        x = torch.from_numpy(np.load(Path(folder, "spectrogram.npy")))
        np.save(Path(folder, "output.npy"), network(x.T[None, None]).numpy())
    state = network.state_dict()
    content = {
        "state_dict": state,
        "labels": LABELS,
        "audio_conf": {"window": "hamming", "window_size": 0.02},
        "version": "0.0.1",
    }
    if file_format == "zip":
        hyper = {"labels": LABELS, "model_cfg": Configuration(), "precision": 16}
        content = {
            "state_dict": state,
            "hyper_parameters": hyper,
            "epoch": 3,
            "callbacks": {Configuration: {"best": 1.0}},
        }
    torch.save(content, Path(folder, "model.pth"), _use_new_zipfile_serialization=file_format == "zip")


if __name__ == "__main__":
    main()
