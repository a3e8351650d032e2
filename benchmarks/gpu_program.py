"""Read what a compiled GPU program launches: its kernels, its loops, and which of them are CUDA graphs.

The optimised HLO does not contain the graphs (XLA calls them command buffers); the list of thunks does, which the compiler
writes beside it on request. A copy on the device counts as a kernel, because it costs a launch.
"""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

from benchmarks.hlo import Program

NO_WORK = {"AsyncDone", "WaitForStreams", "BufferDebug"}
_THUNK = re.compile(r"^( *)(\d+): k(\w+)")
_NAME = re.compile(r'profile_annotation: "([^"]*)"\s+thunk_id: (\d+)')


@dataclasses.dataclass
class Thunk:
    """A kernel, or a loop, graph or other group of thunks."""

    kind: str
    number: int = 0
    turns: int = 1
    condition: list["Thunk"] = dataclasses.field(default_factory=list)  # of a loop
    body: list["Thunk"] = dataclasses.field(default_factory=list)

    @property
    def kernels(self) -> int:
        """Number of kernels that one execution runs."""
        if self.kind in NO_WORK:
            return 0
        inside = [*self.condition, *self.body]
        return self.turns * sum(thunk.kernels for thunk in inside) if inside else 1

    @property
    def launches(self) -> int:
        """Number of times that the host starts a kernel or a graph in one execution."""
        if self.kind == "CommandBuffer" or not self.body:
            return min(self.kernels, 1)
        return self.turns * sum(thunk.launches for thunk in self.body)


@dataclasses.dataclass(frozen=True)
class Loop:
    """A loop without loops inside: what it belongs to, its turns, and the kernels of one turn."""

    part: str  # "rnn_0", or "CTC" outside the recurrent layers
    backward: bool
    turns: int  # in one execution of the step
    kernels: int
    graph: str  # "whole" if the loop lies in one CUDA graph, "turn" if each turn is one, else "none"


def read_thunks(text: str) -> Thunk:
    """Return the group of all thunks in a dump, `*.thunk_sequence_after_thunk_passes.txt`."""
    whole = Thunk("Sequential")
    open_groups = [(-1, whole)]
    in_condition = False
    for line in text.splitlines():
        parts = _THUNK.match(line)
        if not parts:
            in_condition = in_condition or line.strip() == "condition:"
            in_condition &= line.strip() != "body:"
            continue
        thunk, indent = Thunk(parts[3], int(parts[2])), len(parts[1])
        while open_groups[-1][0] >= indent:
            open_groups.pop()
        group = open_groups[-1][1]
        (group.condition if in_condition else group.body).append(thunk)
        open_groups.append((indent, thunk))
    return whole


class GpuProgram:
    """A compiled program and its thunks."""

    def __init__(self, program: Program, dump: Path):
        """Read the dump (`--xla_dump_to`) of one module. Raises ValueError if there is no single one."""
        found = sorted(dump.glob("*.thunk_sequence_after_thunk_passes.txt"))
        if len(found) != 1:
            raise ValueError(
                f"{dump}: {len(found)} lists of thunks, expected one; this version of XLA is not supported"
            )
        stem = str(found[0]).removesuffix("thunk_sequence_after_thunk_passes.txt")
        self.thunks = read_thunks(found[0].read_text())
        names = {int(number): name for name, number in _NAME.findall(Path(f"{stem}thunk_metadata.txt").read_text())}
        unrolled = "xla_gpu_command_buffer_unroll_loops: true" in Path(f"{stem}config.pbtxt").read_text()
        loops = {i.name: i for lines in program.computations.values() for i in lines if i.operation == "while"}
        self.loops: list[Loop] = []
        for thunk, groups in list(_walk(self.thunks)):
            if thunk.kind != "While":
                continue
            instruction = loops[names[thunk.number]]
            thunk.turns = program.trip_count(instruction)
            # the host knows how often a loop runs; a graph that is not unrolled asks after each turn, with one kernel more
            in_graph = any(group.kind == "CommandBuffer" for group in groups)
            thunk.condition = [*thunk.condition, Thunk("SetCondition")] if in_graph and not unrolled else []
        for thunk, groups in _walk(self.thunks):
            if thunk.kind == "While" and not any(inner.kind == "While" for inner, _ in _walk(thunk)):
                source = re.search(r'op_name="([^"]*)"', loops[names[thunk.number]].attributes)
                self.loops.append(_describe(thunk, groups, source[1] if source else ""))


def _walk(group: Thunk, above: tuple[Thunk, ...] = ()) -> Iterator[tuple[Thunk, tuple[Thunk, ...]]]:
    """Yield each thunk inside a group, with the groups that contain it."""
    for thunk in group.body:
        yield thunk, (*above, group)
        yield from _walk(thunk, (*above, group))


def _describe(loop: Thunk, groups: tuple[Thunk, ...], source: str) -> Loop:
    layer = re.search(r"/(rnn_\d+)/", source)
    graph = "none"
    if any(group.kind == "CommandBuffer" for group in groups):
        graph = "whole"
    elif [thunk.kind for thunk in loop.body] == ["CommandBuffer"]:
        graph = "turn"
    turns = loop.turns
    for group in groups:
        turns *= group.turns
    return Loop(layer[1] if layer else "CTC", "transpose(" in source, turns, loop.kernels // loop.turns, graph)
