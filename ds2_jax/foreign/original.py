"""PaddlePaddle's DeepSpeech2: how its parameters are called, what shapes they have, and the same network as ours.

Each parameter has a role, such as `rnn0.forward.kernel`, which both formats call by names of their own. Letters: C channels,
F bins of frequency, H hidden units, K symbols with blank.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ds2_jax.artifacts.bundle import ModelFileError
from ds2_jax.foreign.containers import Parameter
from ds2_jax.network.model import ModelSettings, parse_conv

CLIP = 24.0
TIME_TAPS, FIRST_BINS, BINS = 11, 41, 21  # of kernels: time, frequency of the first convolution, of the others
MOST_LAYERS = 12  # of each kind
DIRECTIONS = ("forward", "reverse")
NORM = {  # of batch normalisation: role, ending in V2, in Fluid
    "scale": ("w0", "weight"),
    "bias": ("wbias", "bias"),
    "mean": ("w1", "moving_mean"),
    "var": ("w2", "moving_variance"),
}


@dataclass(frozen=True)
class Topology:
    """Layers of a network: convolutions, recurrent layers, whether these are GRUs, and share their input's projection."""

    convs: int
    layers: int
    gru: bool
    shared: bool

    @property
    def sides(self) -> tuple[str, ...]:
        """Projections of a recurrent layer: one for each direction, or `both`."""
        return ("both",) if self.shared else DIRECTIONS

    def describe(self) -> str:
        """Describe the layers for a message."""
        kind = "GRU" if self.gru else "RNN, shared projection" if self.shared else "RNN"
        return f"{self.convs} convolutions, {self.layers} recurrent layers ({kind})"


def v2_names(topology: Topology) -> dict[str, str]:
    """Return the names of all parameters by role, as the V2 API numbers its layers."""
    names = {f"conv{i}.kernel": f"___conv_{i}__.w0" for i in range(topology.convs)}
    for i in range(topology.convs):
        names |= {f"conv{i}.{role}": f"___batch_norm_{i}__.{ending}" for role, (ending, _) in NORM.items()}
    sides, cell = topology.sides, "gru" if topology.gru else "recurrent_layer"
    for layer in range(topology.layers):
        for s, side in enumerate(sides):
            number = layer * len(sides) + s
            names[f"rnn{layer}.{side}.kernel"] = f"___fc_layer_{number}__.w0"
            normalisation = f"___batch_norm_{topology.convs + number}__"
            names |= {f"rnn{layer}.{side}.{role}": f"{normalisation}.{ending}" for role, (ending, _) in NORM.items()}
        for d, direction in enumerate(DIRECTIONS):
            for role, ending in (("recurrent", "w0"), ("recurrent_bias", "wbias")):
                names[f"rnn{layer}.{direction}.{role}"] = f"___{cell}_{2 * layer + d}__.{ending}"
    output = f"___fc_layer_{topology.layers * len(sides)}__"
    return names | {"output.kernel": f"{output}.w0", "output.bias": f"{output}.wbias"}


def fluid_names(topology: Topology) -> dict[str, str]:
    """Return the names of all parameters by role, as Fluid has them; its file stores the parameters sorted by them."""
    names = {f"conv{i}.kernel": f"layer_{i}_conv2d_weight" for i in range(topology.convs)}
    for i in range(topology.convs):
        names |= {f"conv{i}.{role}": f"layer_{i}_batch_norm_{ending}" for role, (_, ending) in NORM.items()}
    cell = "gru" if topology.gru else "rnn"
    for layer in range(topology.layers):
        start = f"layer_{topology.convs + layer}"
        for side in topology.sides:
            prefix = start if side == "both" else f"{start}_{side}"
            names[f"rnn{layer}.{side}.kernel"] = f"{prefix}_fc_weight"
            names |= {
                f"rnn{layer}.{side}.{role}": f"{prefix}_batch_norm_{ending}" for role, (_, ending) in NORM.items()
            }
        for direction in DIRECTIONS:
            for role, ending in (("recurrent", "weight"), ("recurrent_bias", "bias")):
                names[f"rnn{layer}.{direction}.{role}"] = f"{start}_{direction}_{cell}_{ending}"
    output = f"layer_{topology.convs + topology.layers}_fc"
    return names | {"output.kernel": f"{output}_weight", "output.bias": f"{output}_bias"}


@dataclass(frozen=True)
class Network:
    """A network's parameters by role, in the shapes that follow from its sizes, and their names in the file."""

    topology: Topology
    arrays: dict[str, np.ndarray]
    names: Mapping[str, str]

    @property
    def settings(self) -> ModelSettings:
        """The same network as ours."""
        channels = [len(self.arrays[f"conv{i}.scale"]) for i in range(self.topology.convs)]
        return ModelSettings(
            conv=_conv_text(channels),
            cell="gru_relu" if self.topology.gru else "rnn",
            rnn_size=len(self.arrays["output.kernel"]) // 2,
            rnn_layers=self.topology.layers,
            merge="concat",
            share_input=self.topology.shared,
            activation_clip=CLIP,
            norm="projection",
        )

    @property
    def symbols(self) -> int:
        """Outputs K, with the blank, which is the last one."""
        return len(self.arrays["output.bias"])

    def variables(self) -> dict[str, Any]:
        """Return parameters and batch statistics as `DeepSpeech2` has them."""
        a, convs, gru = self.arrays, self.topology.convs, self.topology.gru
        params: dict[str, Any] = {
            "output": {"kernel": np.roll(a["output.kernel"], 1, axis=1), "bias": np.roll(a["output.bias"], 1)}
        }
        stats: dict[str, Any] = {}
        for i in range(convs):
            params[f"conv_{i}"] = a[f"conv{i}.kernel"].transpose(3, 2, 1, 0)  # [C', C, kf, kt] -> [kt, kf, C, C']
            params[f"conv_norm_{i}"] = {part: a[f"conv{i}.{part}"] for part in ("scale", "bias")}
            stats[f"conv_norm_{i}"] = {part: a[f"conv{i}.{part}"] for part in ("mean", "var")}
        for j in range(self.topology.layers):
            sides = [f"rnn{j}.{side}" for side in self.topology.sides]
            both = [f"rnn{j}.{direction}" for direction in DIRECTIONS]
            kernel = np.concatenate([_gates_last(a[f"{s}.kernel"], gru) for s in sides], axis=1)
            norm = {part: np.concatenate([_gates_last(a[f"{s}.{part}"], gru) for s in sides]) for part in NORM}
            if gru:  # their update gate is the share of the new state, ours that of the old one
                sign = np.tile(_signs(len(norm["scale"]) // 6), 2)
                norm["scale"], norm["bias"] = norm["scale"] * sign, norm["bias"] * sign
            params[f"rnn_{j}"] = {
                "input_kernel": _bins_first(kernel, len(a[f"conv{convs - 1}.scale"])) if j == 0 else kernel,
                "recurrent_kernel": np.stack([_recurrent(a[f"{d}.recurrent"], gru) for d in both]),
                "bias": np.stack([_recurrent_bias(a[f"{d}.recurrent_bias"], gru) for d in both]),
                "norm": {part: norm[part] for part in ("scale", "bias")},
            }
            stats[f"rnn_{j}"] = {"norm": {part: norm[part] for part in ("mean", "var")}}
        return {"params": params, "batch_stats": stats}


def _conv_text(channels: Sequence[int]) -> str:
    parts = [f"{TIME_TAPS}x{BINS if i else FIRST_BINS}/{1 if i else 3}x2:{c}" for i, c in enumerate(channels)]
    return ", ".join(parts)


def _gates_last(array: np.ndarray, gru: bool) -> np.ndarray:
    """Reorder the last axis of a GRU's projection from update, reset, candidate to reset, update, candidate."""
    if not gru:
        return array
    update, reset, candidate = np.split(array, 3, axis=-1)
    return np.concatenate([reset, update, candidate], axis=-1)


def _signs(hidden: int) -> np.ndarray:
    """Return [3 H] that negates the update gate: 1 - sigmoid(x) = sigmoid(-x)."""
    return np.repeat(np.array([1, -1, 1], np.float32), hidden)


def _recurrent(array: np.ndarray, gru: bool) -> np.ndarray:
    """Return a recurrent matrix [H, G H]; a GRU's is stored as [H, 2 H] of its gates, then [H, H] of its candidate."""
    if not gru:
        return array
    hidden = len(array)
    gates, candidate = np.split(array.ravel(), [2 * hidden * hidden])
    matrix = np.concatenate([gates.reshape(hidden, 2 * hidden), candidate.reshape(hidden, hidden)], axis=1)
    return _gates_last(matrix, gru) * _signs(hidden)


def _recurrent_bias(array: np.ndarray, gru: bool) -> np.ndarray:
    return _gates_last(array, gru) * _signs(len(array) // 3) if gru else array


def _bins_first(kernel: np.ndarray, channels: int) -> np.ndarray:
    """Reorder the rows of the first projection from [C, F] to [F, C]."""
    return kernel.reshape(channels, -1, kernel.shape[1]).transpose(1, 0, 2).reshape(kernel.shape)


def read_v2_network(where: str, parameters: Mapping[str, Parameter], features: int) -> Network:
    """Recognise a network by the names of its parameters, for `features` bins of input. Raises ModelFileError."""

    def count(prefix: str) -> int:
        return sum(name.startswith(f"___{prefix}_") and name.endswith(".w0") for name in parameters)

    gru, recurrent, projections = count("gru") > 0, count("gru") or count("recurrent_layer"), count("fc_layer")
    layers = recurrent // 2
    topology = Topology(count("conv"), layers, gru, not gru and projections <= layers + 1)
    if not topology.convs or not layers or max(topology.convs, layers) > MOST_LAYERS:
        raise ModelFileError(
            f"{where} has {topology.convs} convolutions and {recurrent} recurrent directions by its names, such as "
            f"{min(parameters)!r}: it is no DeepSpeech2 network of the V2 API"
        )
    names = v2_names(topology)
    missing, other = set(names.values()) - set(parameters), set(parameters) - set(names.values())
    if missing or other:
        what = f"no parameter {min(missing)}" if missing else f"the unknown parameter {min(other)}"
        raise ModelFileError(f"{where} has {what}, and by its other names it has {topology.describe()}: {_DAMAGED}")
    return _shape(where, topology, names, {role: parameters[name] for role, name in names.items()}, features)


_DAMAGED = "the file is damaged, or of another network"


def read_fluid_network(where: str, tensors: Sequence[Parameter], features: int) -> Network:
    """Recognise a network by the shapes of its tensors, sorted by names that are not stored. Raises ModelFileError."""
    reasons = []
    for topology in _topologies(len(tensors)):
        names = fluid_names(topology)
        order = sorted(names, key=names.__getitem__)
        parameters = dict(zip(order, tensors, strict=True))
        if any(
            (len(parameters[role].shape) == 4) != (role.startswith("conv") and role.endswith("kernel"))
            for role in order
        ):
            continue
        try:
            return _shape(where, topology, names, parameters, features)
        except ModelFileError as error:
            reasons.append(error)
    if len(reasons) == 1:
        raise reasons[0]
    raise ModelFileError(
        f"{where} has {len(tensors)} tensors, of shapes {', '.join(str(list(t.shape)) for t in tensors[:5])} ...: no network of "
        "the original has these (39 for 2 convolutions and 3 RNN layers with a shared projection, 54 with 3 GRU layers)"
    )


def _topologies(tensors: int) -> Iterable[Topology]:
    """Yield the networks with this number of tensors."""
    sizes = range(1, MOST_LAYERS + 1)
    for kind, (gru, shared) in ((9, (False, True)), (14, (True, False)), (14, (False, False))):
        for convs in sizes:
            for layers in sizes:
                if 5 * convs + kind * layers + 2 == tensors:
                    yield Topology(convs, layers, gru, shared)


def _shape(
    where: str, topology: Topology, names: Mapping[str, str], parameters: Mapping[str, Parameter], features: int
) -> Network:
    """Give all parameters the shapes that follow from the sizes of a few. Raises ModelFileError for one that does not fit."""
    shapes = _shapes(topology, {role: parameter.values.size for role, parameter in parameters.items()}, features)
    arrays = {}
    for role, shape in shapes.items():
        values, stated = parameters[role]
        plain = [tuple(n for n in sizes if n > 1) for sizes in (stated, shape)]
        # V2 states no dimensions of convolutions and vectors
        if values.size != math.prod(shape) or (len(plain[0]) > 1 and plain[0] != plain[1]):
            raise ModelFileError(
                f"{where}: {names[role]} has {values.size} values (shape {list(stated)}), and {math.prod(shape)} (shape "
                f"{list(shape)}) are needed with {topology.describe()} and {features} features: {_DAMAGED}"
            )
        arrays[role] = values.reshape(shape)
    return Network(topology, arrays, names)


def _shapes(topology: Topology, counts: Mapping[str, int], features: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of each role, by the channels, hidden units and symbols that vectors show."""
    shapes: dict[str, tuple[int, ...]] = {}
    channels = [1, *(counts[f"conv{i}.scale"] for i in range(topology.convs))]
    for i in range(topology.convs):
        shapes[f"conv{i}.kernel"] = (channels[i + 1], channels[i], BINS if i else FIRST_BINS, TIME_TAPS)
        shapes |= {f"conv{i}.{part}": (channels[i + 1],) for part in NORM}
    gates = 3 if topology.gru else 1
    hidden, symbols = counts["rnn0.forward.recurrent_bias"] // gates, counts["output.bias"]
    bins = features
    for layer in parse_conv(_conv_text(channels[1:])):
        bins = (bins - 1) // layer.stride[1] + 1
    for j in range(topology.layers):
        for side in topology.sides:
            shapes[f"rnn{j}.{side}.kernel"] = (2 * hidden if j else bins * channels[-1], gates * hidden)
            shapes |= {f"rnn{j}.{side}.{part}": (gates * hidden,) for part in NORM}
        for direction in DIRECTIONS:
            shapes[f"rnn{j}.{direction}.recurrent"] = (hidden, gates * hidden)
            shapes[f"rnn{j}.{direction}.recurrent_bias"] = (gates * hidden,)
    return shapes | {"output.kernel": (2 * hidden, symbols), "output.bias": (symbols,)}
