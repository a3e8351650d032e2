"""Checkpoints of deepspeech.pytorch (versions 2 and 3): the same network as ours, for recognition.

Its batch normalisations of layers' inputs, and its biases, become those of our projections (`norm="projection"`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ds2_jax.artifacts.bundle import ModelFileError, ModelMeta
from ds2_jax.foreign import torch_file
from ds2_jax.network.model import ModelSettings
from ds2_jax.network.norm import MaskedBatchNorm, gain_and_shift
from input_pipeline.audio.features import FeatureSettings, feature_size
from input_pipeline.text import Vocabulary

BLANK, CLIP, WINDOW = "_", 20.0, "hamming"
CELLS = {4: "lstm", 3: "gru"}  # by gates, whose order is ours
CONVS = ((0, (41, 11), (2, 2)), (3, (21, 11), (2, 1)))  # place, kernel and stride over frequency and time
NORM = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
_ADVICE = "it is no checkpoint of deepspeech.pytorch 2 or 3, or of another network"

Arrays = Mapping[str, np.ndarray]


class Checkpoint:
    """A checkpoint: its tensors by name, which are taken one after another, and its labels."""

    def __init__(self, path: Path):
        self.path = path
        content = torch_file.read(path)
        content = content if isinstance(content, dict) else {}
        state = content.get("state_dict")
        if not isinstance(state, dict) or not all(isinstance(value, np.ndarray) for value in state.values()):
            raise ModelFileError(f"{path} has no state_dict of tensors: {_ADVICE}")
        hyper = content.get("hyper_parameters")
        labels = content.get("labels", hyper.get("labels") if isinstance(hyper, dict) else None)
        if isinstance(labels, str):
            labels = list(labels)
        if not isinstance(labels, list | tuple) or not all(isinstance(label, str) for label in labels):
            raise ModelFileError(f"{path} has no labels, the symbols of its network: {_ADVICE}")
        if BLANK not in labels or labels[0] != BLANK:
            raise ModelFileError(f"{path}: its first label is {labels[:1]}, and the blank, {BLANK!r}, is needed there")
        self.vocabulary = Vocabulary(tuple(labels[1:]))
        conf = content.get("audio_conf")  # of version 2; the configuration of version 3 is an object, which is not read
        self.audio = conf if isinstance(conf, dict) else {}
        self.state = {
            name.removeprefix("module."): array
            for name, array in state.items()
            if not name.endswith("num_batches_tracked")
        }
        self.taken: set[str] = set()

    def take(self, name: str, *shape: int) -> np.ndarray:
        """Return a tensor in float32; -1 in shape stands for any size. Raises ModelFileError."""
        array = self.state.get(name)
        if array is None:
            raise ModelFileError(f"{self.path} has no tensor {name}: {_ADVICE}")
        if array.ndim != len(shape) or any(n not in (-1, m) for n, m in zip(shape, array.shape, strict=True)):
            wanted = [n if n >= 0 else "any" for n in shape]
            raise ModelFileError(
                f"{self.path}: {name} has the shape {list(array.shape)}, {wanted} is needed: {_ADVICE}"
            )
        self.taken.add(name)
        return np.asarray(array, np.float32)

    def norm(self, name: str, width: int) -> dict[str, np.ndarray]:
        """Return a batch normalisation by our names."""
        return {ours: self.take(f"{name}.{theirs}", width) for ours, theirs in NORM.items()}


def read(path: Path, source_rate_hz: int, language: str) -> tuple[ModelMeta, dict[str, Any]]:
    """Read a checkpoint as one of our models; source_rate_hz as in FeatureSettings. Raises ModelFileError."""
    file = Checkpoint(path)
    features = _features(file, source_rate_hz)
    params: dict[str, Any] = {}
    stats: dict[str, Any] = {}
    conv, inputs, bins = [], 1, feature_size(features)
    for i, (place, (kf, kt), (sf, st)) in enumerate(CONVS):
        kernel = file.take(f"conv.seq_module.{place}.weight", -1, inputs, kf, kt)
        inputs, bins = len(kernel), (bins - 1) // sf + 1
        norm = file.norm(f"conv.seq_module.{place + 1}", inputs)
        norm["mean"] = norm["mean"] - file.take(f"conv.seq_module.{place}.bias", inputs)
        params[f"conv_{i}"] = kernel.transpose(3, 2, 1, 0)
        _put(params, stats, f"conv_norm_{i}", norm)
        conv.append(f"{kt}x{kf}/{st}x{sf}:{inputs}")
    hidden = file.take("rnns.0.rnn.weight_hh_l0", -1, -1).shape[1]
    gates = len(file.state["rnns.0.rnn.weight_hh_l0"]) // max(hidden, 1)
    if gates not in CELLS:
        raise ModelFileError(
            f"{path}: its recurrent layers have {gates} gates: only LSTM (4) and GRU (3) can be imported"
        )
    two_ways = "rnns.0.rnn.weight_hh_l0_reverse" in file.state
    layers, width = 0, bins * inputs
    while f"rnns.{layers}.rnn.weight_hh_l0" in file.state:
        params[f"rnn_{layers}"], stats[f"rnn_{layers}"] = _layer(
            file, layers, (width, gates * hidden, hidden), two_ways
        )
        layers, width = layers + 1, hidden
    kernel = params["rnn_0"]["input_kernel"]  # rows by channel, then bin
    params["rnn_0"]["input_kernel"] = kernel.reshape(inputs, bins, -1).transpose(1, 0, 2).reshape(kernel.shape)
    ahead = 0
    if not two_ways:
        look = file.take("lookahead.0.conv.weight", hidden, 1, -1)
        ahead = look.shape[2] - 1
        if ahead:
            params["lookahead"] = {"kernel": look[:, 0].T}
    gain, shift = gain_and_shift(file.norm("fc.0.module.0", hidden))
    weights = file.take("fc.0.module.1.weight", file.vocabulary.size, hidden)
    params["output"] = {"kernel": (weights * gain).T, "bias": weights @ shift}
    other = set(file.state) - file.taken
    if other or (not two_ways and not ahead):
        what = f"has the unknown tensor {min(other)}" if other else "looks no frame ahead"
        raise ModelFileError(f"{path} {what}: {_ADVICE}")
    settings = ModelSettings(
        conv=", ".join(conv),
        cell=CELLS[gates],
        rnn_size=hidden,
        rnn_layers=layers,
        bidirectional=two_ways,
        lookahead=ahead,
        lookahead_clip=not two_ways,
        activation_clip=CLIP,
        norm="projection",
    )
    meta = ModelMeta(settings, features, "clip", None, file.vocabulary, language)
    return meta, {"params": params, "batch_stats": stats}


def _features(file: Checkpoint, source_rate_hz: int) -> FeatureSettings:
    """Return the features of a checkpoint, by default those of the program. Raises ModelFileError for other windows."""
    conf = file.audio
    if conf.get("window", WINDOW) != WINDOW and isinstance(conf["window"], str):
        raise ModelFileError(f"{file.path} was trained with {conf['window']} windows: only {WINDOW} can be imported")
    try:
        return FeatureSettings(
            kind="log1p",
            normalise_db=False,
            sample_rate_hz=int(conf.get("sample_rate", 16000)),
            source_rate_hz=source_rate_hz,
            window_ms=1000 * float(conf.get("window_size", 0.02)),
            stride_ms=1000 * float(conf.get("window_stride", 0.01)),
        )
    except (TypeError, ValueError) as error:
        raise ModelFileError(f"{file.path}: its audio_conf cannot be used ({error})") from error


def _layer(file: Checkpoint, i: int, sizes: tuple[int, int, int], two_ways: bool) -> tuple[dict, dict]:
    """Return parameters and statistics of a recurrent layer. sizes: of its input, its gates, its units."""
    width, columns, hidden = sizes
    gain, shift = np.ones(width, np.float32), np.zeros(width, np.float32)
    if f"rnns.{i}.batch_norm.module.weight" in file.state:
        gain, shift = gain_and_shift(file.norm(f"rnns.{i}.batch_norm.module", width))
    kernels, biases, recurrent, recurrent_biases = [], [], [], []
    for ending in ("l0", "l0_reverse")[: 1 + two_ways]:
        kernel = file.take(f"rnns.{i}.rnn.weight_ih_{ending}", columns, width).T
        kernels.append(kernel * gain[:, None])
        biases.append(shift @ kernel + file.take(f"rnns.{i}.rnn.bias_ih_{ending}", columns))
        recurrent.append(file.take(f"rnns.{i}.rnn.weight_hh_{ending}", columns, hidden).T)
        recurrent_biases.append(file.take(f"rnns.{i}.rnn.bias_hh_{ending}", columns))
    bias = np.concatenate(biases)
    params = {
        "input_kernel": np.concatenate(kernels, axis=1),
        "recurrent_kernel": np.stack(recurrent),
        "bias": np.stack(recurrent_biases),
        "norm": {"scale": np.ones_like(bias), "bias": bias},
    }
    # a variance with which normalisation changes nothing
    norm = {"mean": np.zeros_like(bias), "var": np.full_like(bias, 1 - MaskedBatchNorm.epsilon)}
    return params, {"norm": norm}


def _put(params: dict, stats: dict, name: str, norm: Arrays) -> None:
    params[name] = {part: norm[part] for part in ("scale", "bias")}
    stats[name] = {part: norm[part] for part in ("mean", "var")}
