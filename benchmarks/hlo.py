"""Read a compiled program (XLA's HLO text): what one execution computes and sends, with every run of a loop body counted.

XLA's own cost analysis counts a loop body once, and most of a recurrent network is in loops.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

SIZES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")
LIBRARIES = ("__cublas", "__cudnn$conv")  # products that a GPU program leaves to a library
PALLAS = "tpu_custom_call"  # a kernel: states its operations, but the compiler estimates no time
# Of the recurrent kernel (network/vmem_scan.py) on v5e, for each frame and tile of 128 x 128 weights: the schedules of
# rnn 2048 and gru 1024 with 20 rows have 14.7 to 16.1 cycles forward and 17.5 backward, with all that surrounds a frame.
TILE_CYCLES, TILE = 17, 128 * 128
_ARRAY = re.compile(r"\b(" + "|".join(SIZES) + r")\[([\d,]*)\]")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+) = (.*?)\s([a-z][\w-]*)\((.*)$")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    shape: str  # of the result: f32[2,3]{1,0}, or a tuple in parentheses
    operation: str
    arguments: str  # text in the parentheses after the operation
    attributes: str  # text after the parentheses

    def operands(self) -> list[str]:
        """Return the names of the operands."""
        return re.findall(r"%([\w.-]+)", self.arguments)

    def attribute(self, pattern: str) -> str:
        """Return the computation or word after `pattern=`, or '' if there is none."""
        value = re.search(rf"\b(?:{pattern})=[{{\"]?%?([\w.>$-]+)", self.attributes)
        return value[1] if value else ""


@dataclasses.dataclass(frozen=True)
class Run:
    """An instruction, the computation that contains it, its index there, and how often it runs."""

    instruction: Instruction
    computation: str
    index: int
    count: int


@dataclasses.dataclass(frozen=True)
class Collective:
    """A collective: how often it runs, the bytes of its operands on one device, and whether computation overlaps it."""

    kind: str
    runs: int
    bytes: int
    overlapped: bool  # computation is scheduled between its start and its end
    source: str  # operation of the traced program that it comes from

    @property
    def total(self) -> int:
        """Bytes of all runs."""
        return self.runs * self.bytes


class Program:
    """The computations of a module."""

    def __init__(self, text: str):
        self.computations: dict[str, list[Instruction]] = {}
        self.entry = ""
        current: list[Instruction] = []
        for line in text.splitlines():
            head, parts = _COMPUTATION.match(line), _INSTRUCTION.match(line)
            if head:
                current = self.computations.setdefault(head[2], [])
                self.entry = head[2] if head[1] else self.entry
            elif parts:
                end = _closing(parts[4])
                current.append(Instruction(parts[1], parts[2], parts[3], parts[4][:end], parts[4][end + 1 :]))
        self.shapes = {name: {i.name: i.shape for i in lines} for name, lines in self.computations.items()}

    def runs(self, computation: str = "", count: int = 1) -> Iterator[Run]:
        """Yield each instruction that runs, also inside loops and fusions; of a conditional's branches, only the first."""
        computation = computation or self.entry
        for index, instruction in enumerate(self.computations[computation]):
            yield Run(instruction, computation, index, count)
            if instruction.operation == "while":
                yield from self.runs(instruction.attribute("body"), count * self.trip_count(instruction))
            elif instruction.operation in ("fusion", "call", "conditional") or instruction.operation.endswith("-start"):
                called = instruction.attribute("calls|true_computation|branch_computations|to_apply")
                if called and instruction.operation != "all-reduce-start":
                    yield from self.runs(called, count)

    def trip_count(self, loop: Instruction) -> int:
        """Return a loop's trip count as XLA states it, or else the constant that the counter (from 0) is compared with.

        Raises ValueError if there is no single constant.
        """
        stated = re.search(r"known_trip_count\W+n\W+(\d+)", loop.attributes)
        if stated:
            return int(stated[1])
        condition = self.computations[loop.attribute("condition")]
        constants = [int(i.arguments) for i in condition if i.operation == "constant" and i.shape.startswith("s32[]")]
        if len(constants) != 1:
            raise ValueError(f"{loop.name}: cannot determine the trip count from {condition}")
        return constants[0]

    def flop(self) -> int:
        """Count multiplications and additions in products and convolutions, which dominate the time of this network."""
        return sum(run.count * self._product_flop(run) for run in self.runs())

    def _product_flop(self, run: Run) -> int:
        line, shapes = run.instruction, self.shapes[run.computation]
        library = line.attribute("custom_call_target") if line.operation == "custom-call" else ""
        if library == PALLAS:
            stated = re.search(r'"flops":"(\d+)"', line.attributes)
            return int(stated[1]) if stated else 0
        if line.operation not in ("dot", "convolution") and not library.startswith(LIBRARIES):
            return 0
        left, right = (dimensions(shapes[name]) for name in line.operands()[:2])
        out = dimensions(line.shape)
        if line.operation == "dot" or library.startswith("__cublas"):
            contracted = re.search(r"lhs_contracting_dim\w+\W+([\d,\"]*)", line.attributes)
            axes = [int(axis) for axis in re.findall(r"\d+", contracted[1])] if contracted else []
            return 2 * math.prod(out) * math.prod(left[axis] for axis in axes)
        if library.endswith("BackwardInput"):  # the window is that of the forward convolution
            left, out = out, left
        elif library.endswith("BackwardFilter"):
            right, out = out, right
        return 2 * _convolution_products(line.attributes, left, right, out)

    def collectives(self) -> list[Collective]:
        """List the collectives of one execution, on one device."""
        collectives = []
        for run in self.runs():
            kind = run.instruction.operation.removesuffix("-start")
            if kind in COLLECTIVES:
                operands = [self.shapes[run.computation][name] for name in run.instruction.operands()]
                source = re.search(r'op_name="([^"]*)"', run.instruction.attributes)
                overlapped = kind != run.instruction.operation and self._has_work_until_done(run)
                size = sum(map(bytes_of, operands))
                collectives.append(Collective(kind, run.count, size, overlapped, source[1] if source else ""))
        return collectives

    def _has_work_until_done(self, start: Run) -> bool:
        after = self.computations[start.computation][start.index + 1 :]
        for index, line in enumerate(after):
            if line.operation.endswith("-done") and start.instruction.name in line.operands():
                between = {other.operation for other in after[:index]}
                return bool(between & {"fusion", "while", "dot", "convolution", "call", "custom-call"})
        return False

    def estimated_cycles(self) -> int:
        """Sum the TPU compiler's estimates for all fusions, products and copies, and ours of kernels; 0 on other devices."""
        total = 0
        for run in self.runs():
            stated = re.search(r'"estimated_cycles":"(\d+)"', run.instruction.attributes)
            total += run.count * (int(stated[1]) if stated else self._kernel_cycles(run))
        return total

    def _kernel_cycles(self, run: Run) -> int:
        """Estimate the cycles of a recurrent kernel; its first operand is the matrix, its last has one row a frame."""
        line = run.instruction
        if line.operation != "custom-call" or line.attribute("custom_call_target") != PALLAS:
            return 0
        matrix, *_, inputs = (dimensions(self.shapes[run.computation][name]) for name in line.operands())
        return TILE_CYCLES * inputs[0] * math.prod(matrix) // TILE


def _closing(text: str) -> int:
    """Return the index of the parenthesis that closes one opened before the text."""
    depth = 1
    for i, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return i
    return len(text)


def dimensions(shape: str) -> tuple[int, ...]:
    """Return the dimensions of an array's type; () for a scalar."""
    array = _ARRAY.search(shape)
    return tuple(int(n) for n in array[2].split(",") if n) if array else ()


def bytes_of(shape: str) -> int:
    """Return the bytes of all arrays of a type, without padding of the layout."""
    return sum(SIZES[kind] * math.prod(int(n) for n in sizes.split(",") if n) for kind, sizes in _ARRAY.findall(shape))


def _convolution_products(attributes: str, left: tuple[int, ...], right: tuple[int, ...], out: tuple[int, ...]) -> int:
    """Count the multiplications of a convolution, without those by padding or by dilation holes.

    TPU programs express matrix products as convolutions; batched products have dilation holes between the batch members.
    """
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", attributes)
    assert labels is not None, attributes
    window = re.search(r"window=\{([^}]*)\}", attributes)
    fields = dict(field.split("=") for field in window[1].split()) if window else {}
    spatial = sorted(letter for letter in labels[3] if letter.isdigit())

    def each(name: str, default: str) -> list[str]:
        return fields[name].split("x") if name in fields else [default] * len(spatial)

    pairs = 1
    for i, letter in enumerate(spatial):
        low = int(each("pad", "0_0")[i].split("_")[0])
        stride, hole = int(each("stride", "1")[i]), int(each("lhs_dilate", "1")[i])
        spread = int(each("rhs_dilate", "1")[i])
        size, taps = left[labels[1].index(letter)], right[labels[2].index(letter)]
        outputs = range(out[labels[3].index(letter)])
        inputs = (output * stride - low + tap * spread for output in outputs for tap in range(taps))
        pairs *= sum(1 for at in inputs if 0 <= at < (size - 1) * hole + 1 and at % hole == 0)
    width = right[labels[2].index("i")]  # input channels of one group
    return pairs * out[labels[3].index("b")] * out[labels[3].index("f")] * width
