"""Products with weights that a model's file holds as float32, float16 or int8.

float16 is converted when a model is loaded, and everything is computed in float32: half the size, the same speed. With int8,
convolutions and products quantise their input as they go, and recurrent layers that no engine quantises compute in float32.
"""

import numpy as np

from ds2_jax.export.graph import Graph

OPSETS = {"float32": 11, "float16": 11, "int8": 13}  # int8 needs a scale for each row of a matrix


class Weights:
    """Adds operators with weights to a graph; kind: a key of OPSETS."""

    def __init__(self, graph: Graph, kind: str):
        self.graph = graph
        self.kind = kind

    def stored(self, value: np.ndarray) -> str:
        """Return a float32 value that is stored compactly; with int8, each row of the last axis has its own scale."""
        graph = self.graph
        if self.kind == "float32":
            return graph.floats(value)
        if self.kind == "float16":
            return graph.cast(graph.constant(value.astype(np.float16)), np.float32)
        rows = value.reshape(-1, value.shape[-1])
        whole, scale = quantise(rows, axis=1)
        zeros = graph.constant(np.zeros(len(rows), np.int8))
        inputs = graph.constant(whole), graph.floats(scale[:, 0]), zeros
        return graph.reshape(graph.node("DequantizeLinear", *inputs, axis=0), *value.shape)

    def matmul(self, x: str, matrix: np.ndarray) -> str:
        """Multiply x [..., X] by matrix [X, Y]."""
        if self.kind != "int8":
            return self.graph.node("MatMul", x, self.stored(matrix))
        whole, scale = quantise(matrix, axis=0)
        return self._integer_product("MatMulInteger", x, whole, scale)

    def conv(self, x: str, kernel: np.ndarray, strides: tuple[int, int], *, pad_time: bool = True) -> str:
        """Convolve x [B, C, T, F] with kernel [O, C, kt, kf], padded by half a kernel on each side, or only in frequency."""
        pads = [(size - 1) // 2 for size in kernel.shape[2:]] * 2
        if not pad_time:
            pads[0] = pads[2] = 0
        if self.kind != "int8":
            return self.graph.node("Conv", x, self.stored(kernel), strides=strides, pads=pads)
        whole, scale = quantise(kernel, axis=(1, 2, 3))
        return self._integer_product("ConvInteger", x, whole, scale.reshape(-1, 1, 1), strides=list(strides), pads=pads)

    def _integer_product(self, operator: str, x: str, whole: np.ndarray, scale: np.ndarray, **attributes) -> str:
        """Quantise x, multiply by integers [...], and scale the result."""
        graph = self.graph
        x, x_scale, x_zero = graph.node_of(3, "DynamicQuantizeLinear", x)
        product = graph.cast(graph.node(operator, x, graph.constant(whole), x_zero, **attributes), np.float32)
        return graph.node("Mul", product, graph.node("Mul", x_scale, graph.floats(scale)))


def quantise(value: np.ndarray, axis: int | tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest int8 multiples of a scale, which is the largest absolute value over `axis` divided by 127."""
    largest = np.abs(value).max(axis=axis, keepdims=True)
    scale = np.where(largest > 0, largest, 1) / 127
    return np.rint(value / scale).astype(np.int8), scale.astype(np.float32)
