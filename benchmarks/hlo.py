"""Read a compiled program (XLA's HLO text): what it computes and sends in one run, loops counted as often as they turn.

XLA's own cost analysis counts the body of a loop once, and most of a recurrent network is in loops.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

SIZES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")
_ARRAY = re.compile(r"\b(" + "|".join(SIZES) + r")\[([\d,]*)\]")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+) = (.*?)\s([a-z][\w-]*)\((.*)$")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    shape: str  # of its result: f32[2,3]{1,0}, or several in brackets
    operation: str
    arguments: str  # what stands in the brackets after it
    attributes: str  # what follows

    def operands(self) -> list[str]:
        """Return the names of what it reads."""
        return re.findall(r"%([\w.-]+)", self.arguments)

    def attribute(self, pattern: str) -> str:
        """Return the computation or word after `pattern=`, '' where there is none."""
        found = re.search(rf"\b(?:{pattern})=\{{?%?([\w.>-]+)", self.attributes)
        return found[1] if found else ""


@dataclasses.dataclass(frozen=True)
class Run:
    """An instruction with the computation it is in, its place there, and how often it runs."""

    instruction: Instruction
    computation: str
    place: int
    times: int


@dataclasses.dataclass(frozen=True)
class Collective:
    """A collective: how often it runs, bytes of its operands on one device, and whether others run meanwhile."""

    kind: str
    times: int
    bytes: int
    overlapped: bool  # products run between its start and its end
    source: str  # where it comes from in the traced program

    @property
    def total(self) -> int:
        """Bytes of all its runs."""
        return self.times * self.bytes


class Program:
    """A module's computations."""

    def __init__(self, text: str):
        self.computations: dict[str, list[Instruction]] = {}
        self.entry = ""
        current: list[Instruction] = []
        for line in text.splitlines():
            head, found = _COMPUTATION.match(line), _INSTRUCTION.match(line)
            if head:
                current = self.computations.setdefault(head[2], [])
                self.entry = head[2] if head[1] else self.entry
            elif found:
                end = _closing(found[4])
                current.append(Instruction(found[1], found[2], found[3], found[4][:end], found[4][end + 1 :]))
        self.shapes = {name: {i.name: i.shape for i in lines} for name, lines in self.computations.items()}

    def runs(self, computation: str = "", times: int = 1) -> Iterator[Run]:
        """Give each instruction that runs, those inside of loops and fusions too; of branches the first."""
        computation = computation or self.entry
        for place, instruction in enumerate(self.computations[computation]):
            yield Run(instruction, computation, place, times)
            if instruction.operation == "while":
                yield from self.runs(instruction.attribute("body"), times * self.turns(instruction))
            elif instruction.operation in ("fusion", "call", "conditional") or instruction.operation.endswith("-start"):
                called = instruction.attribute("calls|true_computation|branch_computations|to_apply")
                if called and instruction.operation != "all-reduce-start":
                    yield from self.runs(called, times)

    def turns(self, loop: Instruction) -> int:
        """Return how often a loop turns: as XLA states it, or the constant that its counter, from 0, is compared with."""
        stated = re.search(r"known_trip_count\W+n\W+(\d+)", loop.attributes)
        if stated:
            return int(stated[1])
        condition = self.computations[loop.attribute("condition")]
        constants = [int(i.arguments) for i in condition if i.operation == "constant" and i.shape.startswith("s32[]")]
        if len(constants) != 1:
            raise ValueError(f"{loop.name}: cannot read how often it turns from {condition}")
        return constants[0]

    def flop(self) -> int:
        """Count multiplications and additions in products and convolutions: where the time of this network goes."""
        return sum(run.times * self._product_flop(run) for run in self.runs())

    def _product_flop(self, run: Run) -> int:
        line, shapes = run.instruction, self.shapes[run.computation]
        if line.operation not in ("dot", "convolution"):
            return 0
        left, right = (dimensions(shapes[name]) for name in line.operands()[:2])
        out = dimensions(line.shape)
        if line.operation == "dot":
            contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", line.attributes)
            axes = [int(axis) for axis in contracted[1].split(",") if axis] if contracted else []
            return 2 * math.prod(out) * math.prod(left[axis] for axis in axes)
        return 2 * _convolution_products(line.attributes, left, right, out)

    def collectives(self) -> list[Collective]:
        """List the collectives of one run, on one device."""
        found = []
        for run in self.runs():
            kind = run.instruction.operation.removesuffix("-start")
            if kind in COLLECTIVES:
                operands = [self.shapes[run.computation][name] for name in run.instruction.operands()]
                source = re.search(r'op_name="([^"]*)"', run.instruction.attributes)
                overlapped = kind != run.instruction.operation and self._has_work_until_done(run)
                size = sum(map(bytes_of, operands))
                found.append(Collective(kind, run.times, size, overlapped, source[1] if source else ""))
        return found

    def _has_work_until_done(self, start: Run) -> bool:
        after = self.computations[start.computation][start.place + 1 :]
        for place, line in enumerate(after):
            if line.operation.endswith("-done") and start.instruction.name in line.operands():
                between = {other.operation for other in after[:place]}
                return bool(between & {"fusion", "while", "dot", "convolution", "call", "custom-call"})
        return False

    def estimated_cycles(self) -> int:
        """Add up what the TPU compiler expects each fusion, product and copy to take; 0 for other devices."""
        total = 0
        for run in self.runs():
            stated = re.search(r'"estimated_cycles":"(\d+)"', run.instruction.attributes)
            total += run.times * int(stated[1]) if stated else 0
        return total


def _closing(text: str) -> int:
    """Return where the bracket closes that was open at the start."""
    depth = 1
    for i, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return i
    return len(text)


def dimensions(shape: str) -> tuple[int, ...]:
    """Return the dimensions of an array's type; () for a scalar."""
    found = _ARRAY.search(shape)
    return tuple(int(n) for n in found[2].split(",") if n) if found else ()


def bytes_of(shape: str) -> int:
    """Return the bytes of all arrays of a type, layout apart."""
    return sum(SIZES[kind] * math.prod(int(n) for n in sizes.split(",") if n) for kind, sizes in _ARRAY.findall(shape))


def _convolution_products(attributes: str, left: tuple[int, ...], right: tuple[int, ...], out: tuple[int, ...]) -> int:
    """Count the multiplications of a convolution; those with padding or with holes of dilation are none.

    TPU programs write products of matrices as convolutions, batched ones with holes between the members of the batch.
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
        places = range(out[labels[3].index(letter)])
        reached = (place * stride - low + tap * spread for place in places for tap in range(taps))
        pairs *= sum(1 for at in reached if 0 <= at < (size - 1) * hole + 1 and at % hole == 0)
    width = right[labels[2].index("i")]  # input channels of one group
    return pairs * out[labels[3].index("b")] * out[labels[3].index("f")] * width
