"""Build an ONNX graph node by node; values are known by their names."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LAST = np.iinfo(np.int64).max  # end of a slice that reaches to the end of an axis
# The version of ONNX's file format that came with a version of its operators: older engines refuse newer files.
IR_VERSIONS = {11: 6, 13: 7}

Shape = Sequence[int | str]  # a name stands for a size that may differ from run to run


class Graph:
    """An ONNX graph under construction. All operators mean the same in every version of IR_VERSIONS."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._initializers: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self.domains: set[str] = set()

    def input(self, name: str, dtype: type, shape: Shape) -> str:
        """Add an input of the graph."""
        self._inputs.append(helper.make_tensor_value_info(name, _element_type(dtype), shape))
        return name

    def output(self, name: str, value: str, dtype: type, shape: Shape) -> None:
        """Make a value an output of the graph."""
        self.nodes.append(helper.make_node("Identity", [value], [name]))
        self._outputs.append(helper.make_tensor_value_info(name, _element_type(dtype), shape))

    def constant(self, value: np.ndarray) -> str:
        """Return the name of a constant; equal ones are stored once."""
        value = np.asarray(value, order="C")
        key = (value.dtype.str, value.shape, value.tobytes())
        if key not in self._constants:
            name = self._constants[key] = f"constant_{len(self._constants)}"
            self._initializers.append(numpy_helper.from_array(value, name))
        return self._constants[key]

    def floats(self, value: Any) -> str:
        """Return a float32 constant."""
        return self.constant(np.asarray(value, np.float32))

    def doubles(self, value: Any) -> str:
        """Return a float64 constant."""
        return self.constant(np.asarray(value, np.float64))

    def ints(self, *values: int) -> str:
        """Return an int64 constant with one axis, as operators take shapes and positions."""
        return self.constant(np.array(values, np.int64))

    def int32(self, value: int) -> str:
        """Return an int32 scalar."""
        return self.constant(np.array(value, np.int32))

    def node(self, operator: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add a node with one output; an input that is left out is ''."""
        return self.node_of(1, operator, *inputs, domain=domain, **attributes)[0]

    def node_of(self, count: int, operator: str, *inputs: str, domain: str = "", **attributes: Any) -> list[str]:
        """Add a node with several outputs; return their names."""
        outputs = [f"{operator}_{len(self.nodes)}_{i}" for i in range(count)]
        self.domains.add(domain)
        self.nodes.append(helper.make_node(operator, inputs, outputs, domain=domain, **attributes))
        return outputs

    def cast(self, value: str, dtype: type) -> str:
        """Convert a value to another type of number."""
        return self.node("Cast", value, to=_element_type(dtype))

    def reshape(self, value: str, *shape: int) -> str:
        """Reshape; 0 keeps the size of an axis, -1 takes what is left."""
        return self.node("Reshape", value, self.ints(*shape))

    def transpose(self, value: str, *axes: int) -> str:
        """Reorder the axes."""
        return self.node("Transpose", value, perm=axes)

    def slice(self, value: str, axis: int, start: int, end: int = LAST) -> str:
        """Return part of an axis."""
        return self.node("Slice", value, self.ints(start), self.ints(end), self.ints(axis))

    def size(self, value: str, axis: int) -> str:
        """Return the size of an axis: an int32 scalar."""
        size = self.node("Gather", self.node("Shape", value), self.constant(np.array(axis, np.int64)), axis=0)
        return self.cast(size, np.int32)

    def positions(self, count: str) -> str:
        """Return 0, 1, ... below an int32 scalar: [count] int32."""
        return self.node("Range", self.int32(0), count, self.int32(1))

    def inside(self, count: str, lengths: str) -> str:
        """Return whether each of `count` positions lies below `lengths` [B]: [B, count] bool."""
        return self.node("Less", self.positions(count), self.reshape(lengths, -1, 1))

    def model(self, name: str, opset: int, description: Mapping[str, str]) -> onnx.ModelProto:
        """Return the finished, checked model; description: pairs that readers of the file find in it."""
        graph = helper.make_graph(self.nodes, name, self._inputs, self._outputs, self._initializers)
        imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in self.domains - {""})]
        model = helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSIONS[opset], producer_name="ds2-jax")
        helper.set_model_props(model, dict(description))
        onnx.checker.check_model(model, full_check=True)
        return model


def _element_type(dtype: type) -> int:
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype)) if dtype is not bool else TensorProto.BOOL
