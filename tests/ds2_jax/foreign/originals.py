"""Releases of PaddlePaddle's DeepSpeech2 with random parameters, in both containers, and its forward pass in NumPy.

Nothing here is shared with the program: names, layouts and formulas are written down from the original.
"""

import io
import struct
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

BINS = 161
BLANK_BIAS = 3.0  # makes the blank probable, as training does


@dataclass
class Original:
    """A network: convolutions (channels of each), recurrent layers, hidden units, symbols without the blank."""

    channels: list[int]
    layers: int
    hidden: int
    symbols: int
    gru: bool = False
    shared: bool = True
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self):
        self.shared = self.shared and not self.gru
        random = np.random.default_rng(5)
        gates, bins, inputs = 3 if self.gru else 1, BINS, 1

        def norm(width):
            scale, mean = random.uniform(0.5, 1.5, width), random.normal(0, 0.3, width)
            return {
                "w0": scale,
                "w1": mean,
                "w2": random.uniform(0.5, 1.5, width),
                "wbias": random.normal(0, 0.3, width),
            }

        for i, outputs in enumerate(self.channels):
            shape = (outputs, inputs, 21 if i else 41, 11)
            self.arrays[f"conv{i}"] = random.normal(0, np.prod(shape[1:]) ** -0.5, shape)
            self._add(f"conv{i}", norm(outputs))
            bins, inputs = (bins - 1) // 2 + 1, outputs
        width = bins * inputs
        for layer in range(self.layers):
            for side in ("both",) if self.shared else ("fwd", "bwd"):
                self.arrays[f"fc{layer}{side}"] = random.normal(0, width**-0.5, (width, gates * self.hidden))
                self._add(f"fc{layer}{side}", norm(gates * self.hidden))
            for side in ("fwd", "bwd"):
                matrix = random.normal(0, self.hidden**-0.5, (self.hidden, gates * self.hidden))
                self.arrays[f"rec{layer}{side}"] = matrix
                self.arrays[f"recbias{layer}{side}"] = random.normal(0, 0.3, gates * self.hidden)
            width = 2 * self.hidden
        self.arrays["out"] = random.normal(0, width**-0.5, (width, self.symbols + 1))
        self.arrays["outbias"] = np.append(random.normal(0, 0.3, self.symbols), BLANK_BIAS)
        self.arrays = {name: array.astype(np.float32) for name, array in self.arrays.items()}

    def _add(self, name: str, norm: dict[str, np.ndarray]) -> None:
        self.arrays |= {f"{name}.{ending}": values for ending, values in norm.items()}

    def v2(self) -> dict[str, np.ndarray]:
        """Return the parameters by the names that the V2 API gives in order of creation, and their stated dimensions."""
        named, fc, norm, rec = {}, 0, 0, 0
        for i in range(len(self.channels)):
            named[f"___conv_{i}__.w0"] = self.arrays[f"conv{i}"].reshape(1, -1)
            named |= {f"___batch_norm_{norm}__.{e}": self.arrays[f"conv{i}.{e}"] for e in ("w0", "w1", "w2", "wbias")}
            norm += 1
        for layer in range(self.layers):
            for side in ("both",) if self.shared else ("fwd", "bwd"):
                named[f"___fc_layer_{fc}__.w0"] = self.arrays[f"fc{layer}{side}"]
                named |= {
                    f"___batch_norm_{norm}__.{e}": self.arrays[f"fc{layer}{side}.{e}"]
                    for e in ("w0", "w1", "w2", "wbias")
                }
                fc, norm = fc + 1, norm + 1
            for side in ("fwd", "bwd"):
                name = f"___{'gru' if self.gru else 'recurrent_layer'}_{rec}__"
                named[f"{name}.w0"] = self.arrays[f"rec{layer}{side}"]
                named[f"{name}.wbias"] = self.arrays[f"recbias{layer}{side}"].reshape(1, -1)
                rec += 1
        named[f"___fc_layer_{fc}__.w0"] = self.arrays["out"]
        named[f"___fc_layer_{fc}__.wbias"] = self.arrays["outbias"].reshape(1, -1)
        return named

    def fluid(self) -> dict[str, np.ndarray]:
        """Return the parameters by the names of Fluid."""
        named, ends = {}, {"weight": "w0", "bias": "wbias", "moving_mean": "w1", "moving_variance": "w2"}
        for i in range(len(self.channels)):
            named[f"layer_{i}_conv2d_weight"] = self.arrays[f"conv{i}"]
            named |= {f"layer_{i}_batch_norm_{end}": self.arrays[f"conv{i}.{e}"] for end, e in ends.items()}
        for layer in range(self.layers):
            start = f"layer_{len(self.channels) + layer}"
            for side in ("both",) if self.shared else ("fwd", "bwd"):
                name = start if side == "both" else f"{start}_{'forward' if side == 'fwd' else 'reverse'}"
                named[f"{name}_fc_weight"] = self.arrays[f"fc{layer}{side}"]
                named |= {f"{name}_batch_norm_{end}": self.arrays[f"fc{layer}{side}.{e}"] for end, e in ends.items()}
            for side, word in (("fwd", "forward"), ("bwd", "reverse")):
                name = f"{start}_{word}_{'gru' if self.gru else 'rnn'}"
                named[f"{name}_weight"] = self.arrays[f"rec{layer}{side}"]
                named[f"{name}_bias"] = self.arrays[f"recbias{layer}{side}"].reshape(1, -1)
        output = f"layer_{len(self.channels) + self.layers}_fc"
        return named | {f"{output}_weight": self.arrays["out"], f"{output}_bias": self.arrays["outbias"]}

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Run one utterance [T, 161] of normalised features through the original's network -> [U, symbols + 1], blank last."""
        x = features.T[None].astype(np.float64)  # [channel, frequency, time]
        for i in range(len(self.channels)):
            x = convolve(x, self.arrays[f"conv{i}"].astype(np.float64), 3 if i == 0 else 1)
            x = self._norm(f"conv{i}", x.transpose(1, 2, 0)).transpose(2, 0, 1)
            x = np.minimum(np.maximum(x, 0), 24)
        sequence = x.transpose(2, 0, 1).reshape(x.shape[2], -1)  # channel * bins + bin
        for layer in range(self.layers):
            outputs = []
            for side in ("fwd", "bwd"):
                projection = f"fc{layer}{'both' if self.shared else side}"
                u = self._norm(projection, sequence @ self.arrays[projection].astype(np.float64))
                outputs.append(self._recur(layer, side, u if side == "fwd" else u[::-1]))
            sequence = np.concatenate([outputs[0], outputs[1][::-1]], axis=1)
        return sequence @ self.arrays["out"].astype(np.float64) + self.arrays["outbias"]

    def _norm(self, name: str, x: np.ndarray) -> np.ndarray:
        gamma, mean, variance, beta = (
            self.arrays[f"{name}.{e}"].astype(np.float64) for e in ("w0", "w1", "w2", "wbias")
        )
        return gamma * (x - mean) / np.sqrt(variance + 1e-5) + beta

    def _recur(self, layer: int, side: str, u: np.ndarray) -> np.ndarray:
        weights, bias = (self.arrays[f"{name}{layer}{side}"].astype(np.float64) for name in ("rec", "recbias"))
        n, h, outputs = self.hidden, np.zeros(self.hidden), []
        if self.gru:
            buffer = weights.ravel()
            gates, candidate = buffer[: 2 * n * n].reshape(n, 2 * n), buffer[2 * n * n :].reshape(n, n)
        for x in u:
            if self.gru:
                z = 1 / (1 + np.exp(-(x[:n] + h @ gates[:, :n] + bias[:n])))
                r = 1 / (1 + np.exp(-(x[n : 2 * n] + h @ gates[:, n:] + bias[n : 2 * n])))
                c = np.maximum(x[2 * n :] + (r * h) @ candidate + bias[2 * n :], 0)
                h = (1 - z) * h + z * c
            else:
                h = np.minimum(np.maximum(x + h @ weights + bias, 0), 24)
            outputs.append(h)
        return np.array(outputs)


def convolve(x: np.ndarray, kernel: np.ndarray, time_stride: int) -> np.ndarray:
    """Cross-correlate x [C, F, T] with kernel [O, C, kf, kt], padded by half a kernel; frequency stride 2."""
    _, _, kf, kt = kernel.shape
    padded = np.pad(x, ((0, 0), (kf // 2, kf // 2), (kt // 2, kt // 2)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (kf, kt), axis=(1, 2))[:, ::2, ::time_stride]
    return np.einsum("cgukt,ockt->ogu", windows, kernel, optimize=True)


def spectrogram(samples: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Return the original's normalised log power spectrogram [T, 161] of samples at 16 kHz."""
    x = samples.astype(np.float64)
    x = x * 10 ** ((-20 - 10 * np.log10(np.mean(x**2))) / 20)
    frames = np.lib.stride_tricks.sliding_window_view(x, 320)[::160]
    window = np.hanning(320)
    power = np.abs(np.fft.rfft(frames * window)) ** 2 / ((window**2).sum() * 16000)
    power[:, 1:-1] *= 2
    return (np.log(power + 1e-14) - mean) / (std + 1e-14)


def varint(number: int) -> bytes:
    encoded = b""
    while number > 127:
        encoded += bytes([number & 127 | 128])
        number >>= 7
    return encoded + bytes([number])


def v2_file(named: dict[str, np.ndarray]) -> bytes:
    """Return the parameters as params.tar.gz, members in an arbitrary order."""
    packed = io.BytesIO()
    members = []
    for name, array in named.items():
        members.append((name, struct.pack("<IIQ", 0, 4, array.size) + array.astype("<f4").tobytes()))
        description = b"\x0a" + varint(len(name)) + name.encode() + b"\x10" + varint(array.size)
        description += b"\x19" + struct.pack("<d", 1.0)  # learning rate, between fields that matter
        if array.ndim > 1 and ".w0" in name and "conv" not in name:
            description += b"".join(b"\x48" + varint(size) for size in array.shape)
        members.append((f"{name}.protobuf", description + b"\x90\x01\x01"))
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for index in np.random.default_rng(1).permutation(len(members)):
            name, content = members[index]
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def fluid_file(named: dict[str, np.ndarray]) -> bytes:
    """Return the parameters as params.pdparams."""
    content = b""
    for name in sorted(named):
        description = b"\x08\x05" + b"".join(b"\x10" + varint(size) for size in named[name].shape)
        content += struct.pack("<IQIi", 0, 0, 0, len(description)) + description
        content += named[name].astype("<f4").tobytes()
    return content


def write_release(folder: Path, original: Original, kind: str = "v2", symbols: str = "") -> Path:
    """Write a folder with parameters, statistics and vocabulary; return it."""
    folder.mkdir(parents=True, exist_ok=True)
    content = v2_file(original.v2()) if kind == "v2" else fluid_file(original.fluid())
    (folder / ("params.tar.gz" if kind == "v2" else "params.pdparams")).write_bytes(content)
    mean, std = statistics()
    np.savez(folder / "mean_std.npz", mean=mean[:, None], std=std[:, None])
    symbols = symbols or " 'abcdefghijklmnopqrstuvwxyz"[: original.symbols]
    (folder / "vocab.txt").write_text("".join(f"{symbol}\n" for symbol in symbols), encoding="utf-8")
    return folder


def statistics() -> tuple[np.ndarray, np.ndarray]:
    return np.linspace(-14, -20, BINS), np.linspace(3, 5, BINS)
