"""Draw the wings of the code and their imports, read from the sources: the picture in docs/design.md.

    python -m benchmarks.rooms_picture

An arrow means that a wing imports another one; imports implied by other arrows are left out. Run this after adding, removing
or moving a module: a test compares the picture with the current imports.
"""

import argparse
import functools
import json
import textwrap
from collections import defaultdict
from dataclasses import dataclass
from html import escape
from pathlib import Path

from benchmarks.imports import INSIDE, ROOMS, ROOT, modules_used, wing_of
from input_pipeline.storage import console

OUTPUT = ROOT / "docs" / "rooms.svg"

# Rooms from left to right; all sizes are in pixels.
COLUMNS = {"decoding": 270, "ds2_jax": 510, "input_pipeline": 446}
COLOURS = {"decoding": "#1b7f5c", "ds2_jax": "#1d5fa8", "input_pipeline": "#a34700"}
MARGIN, PADDING, BETWEEN = 16, 14, 12  # around the picture, inside a room, between boxes in a row
LANE, ROUND = 9, 5  # distance between parallel lines, radius of their corners
LETTER, LINE = 7.3, 17  # width of a letter and height of a line, for module names
TITLE_LETTER = 9.0  # maximum width of a letter, for titles of wings
TITLE, HEADING = 26, 30  # height of the titles of wings and of rooms
DESCRIPTION = "Wings of ds2_jax, input_pipeline and decoding. An arrow leads from a wing to one that it imports."


@dataclass
class Box:
    """A wing in the picture; sizes in pixels."""

    wing: str
    row: int
    modules: list[str]
    x: float = 0.0
    y: float = 0.0
    width: float = 0.0

    @property
    def lines(self) -> list[str]:
        """Module names, wrapped to the width of the box."""
        return textwrap.wrap(", ".join(self.modules), max(8, int((self.width - 16) / LETTER)), break_long_words=False)

    @property
    def height(self) -> float:
        """Height of title and modules."""
        return TITLE + LINE * len(self.lines) + (7 if self.modules else 0)

    @property
    def title(self) -> str:
        """The wing's name without its room."""
        return self.wing.split(".")[1]

    @property
    def room(self) -> str:
        """The room that the wing belongs to."""
        return self.wing.split(".")[0]


def wing_imports() -> dict[str, set[str]]:
    """Return the other wings that each wing imports."""
    graph: dict[str, set[str]] = {wing_of(module): set() for module in INSIDE}
    for module, path in INSIDE.items():
        graph[wing_of(module)] |= {wing_of(used) for used in modules_used(path) if used not in ROOMS}
    return {wing: used - {wing} for wing, used in graph.items()}


def reduced(graph: dict[str, set[str]]) -> dict[str, list[str]]:
    """Remove the imports that are implied by others (transitive reduction)."""

    @functools.cache
    def below(wing: str) -> frozenset[str]:
        return frozenset(graph[wing]).union(*(below(other) for other in graph[wing]))

    return {
        wing: sorted(other for other in used if not any(other in below(third) for third in used - {other}))
        for wing, used in graph.items()
    }


def rows_of(graph: dict[str, set[str]]) -> dict[str, int]:
    """Assign each wing a row below those that import it; wings that import nothing are in the last row of their room."""

    @functools.cache
    def depth(wing: str) -> int:
        return max((depth(other) + 1 for other, used in graph.items() if wing in used), default=0)

    rows = {wing: depth(wing) for wing in graph}
    for wing in graph:  # a wing that nothing imports goes directly above its imports
        if depth(wing) == 0 and graph[wing]:
            rows[wing] = min(depth(other) for other in graph[wing]) - 1
    for room in COLUMNS:
        last = max(row for wing, row in rows.items() if wing.startswith(f"{room}.") and graph[wing])
        rows |= {wing: last + 1 for wing in graph if wing.startswith(f"{room}.") and not graph[wing]}
    return rows


class Picture:
    """Boxes in rows and columns, and lines in the lanes between them."""

    def __init__(self):
        graph = wing_imports()
        self.arrows = reduced(graph)
        rows = rows_of(graph)
        self.boxes = {wing: Box(wing, rows[wing], _modules_of(wing)) for wing in sorted(graph)}
        self.rows = range(max(rows.values()) + 1)
        # Horizontal lines run in lanes below a row, vertical ones over several rows in the gutter beside a room.
        self.lanes: dict[int, dict[str, int]] = defaultdict(dict)  # number of a wing's lane, by row and wing
        self.gutters: dict[str, list[str]] = {room: [] for room in COLUMNS}  # wings in the order of their lines
        for wing in self.boxes:
            self._take_lanes(wing)
        self._place_columns()
        self._place_rows()

    def _take_lanes(self, wing: str) -> None:
        row = self.boxes[wing].row
        for other in self.arrows[wing]:
            self.lanes[row].setdefault(wing, len(self.lanes[row]))
            target = self.boxes[other]
            if target.row > row + 1:
                gutter = self.gutters[_gutter_room(target.room)]
                if wing not in gutter:
                    gutter.append(wing)
                self.lanes[target.row - 1].setdefault(wing, len(self.lanes[target.row - 1]))

    def _place_columns(self) -> None:
        x = float(MARGIN)
        self.room_x: dict[str, float] = {}
        for room, width in COLUMNS.items():
            x += LANE * (len(self.gutters[room]) + 1) if room != next(iter(COLUMNS)) else 0
            self.room_x[room] = x
            for row in self.rows:
                inside = [box for box in self.boxes.values() if (box.room, box.row) == (room, row)]
                spare = width - 2 * PADDING - BETWEEN * (len(inside) - 1) - sum(map(_least_width, inside))
                left = x + PADDING
                for box in inside:  # spare width is shared in proportion to the number of modules
                    share = (len(box.modules) + 1) / sum(len(other.modules) + 1 for other in inside)
                    box.x, box.width = left, _least_width(box) + spare * share
                    left += box.width + BETWEEN
            x += width
        self.width = x + MARGIN

    def _place_rows(self) -> None:
        y = float(MARGIN)
        self.gap_y: dict[int, float] = {}
        starts = {min(box.row for box in self.boxes.values() if box.room == room) for room in COLUMNS}
        for row in self.rows:
            y += HEADING if row in starts else 0
            inside = [box for box in self.boxes.values() if box.row == row]
            for box in inside:
                box.y = y
            y += max(box.height for box in inside)
            self.gap_y[row] = y + 14
            y += 26 + LANE * len(self.lanes[row])
        self.height = y

    def svg(self) -> str:
        """Return the picture as SVG."""
        parts = [
            f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {self.width:.0f} {self.height:.0f}' role='img'>",
            f"<title>{DESCRIPTION}</title>",
            "<style>text { font: 12px ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace; fill: #333; }",
            "text.title { font: bold 14px system-ui, 'DejaVu Sans', sans-serif; fill: #111; }",
            "text.room { font: bold 17px system-ui, 'DejaVu Sans', sans-serif; }",
            "path { fill: none; stroke-width: 1.5; }</style>",
            f"<rect width='{self.width:.0f}' height='{self.height:.0f}' rx='8' fill='#fff'/>",
            *(self._room(room) for room in COLUMNS),
            *(
                f"<marker id='{room}' viewBox='0 0 8 8' refX='7' refY='4' markerWidth='7' markerHeight='7' orient='auto'>"
                f"<path d='M0 0 8 4 0 8z' style='fill:{colour}'/></marker>"
                for room, colour in COLOURS.items()
            ),
            *(self._arrow(self.boxes[wing], self.boxes[other]) for wing, used in self.arrows.items() for other in used),
            *map(_draw_box, self.boxes.values()),
            "</svg>",
        ]
        return "\n".join(parts) + "\n"

    def _room(self, room: str) -> str:
        inside = [box for box in self.boxes.values() if box.room == room]
        top, bottom = min(box.y for box in inside) - HEADING, max(box.y + box.height for box in inside) + PADDING
        x, colour = self.room_x[room], COLOURS[room]
        return (
            f"<rect x='{x:.0f}' y='{top:.0f}' width='{COLUMNS[room]}' height='{bottom - top:.0f}' rx='8' fill='{colour}' "
            f"fill-opacity='.08'/><text class='room' x='{x + PADDING:.0f}' y='{top + 20:.0f}' "
            f"style='fill:{colour}'>{room}</text>"
        )

    def _arrow(self, source: Box, target: Box) -> str:
        start = self.gap_y[source.row] + LANE * self.lanes[source.row][source.wing]
        into = self._entry(source, target)
        if target.row == source.row + 1:
            out = min(max(into, source.x + 12), source.x + source.width - 12)
            points = [(out, source.y + source.height), (out, start), (into, start), (into, target.y - 1)]
        else:
            room = _gutter_room(target.room)
            lane = self.room_x[room] - LANE * (self.gutters[room].index(source.wing) + 1)
            end = self.gap_y[target.row - 1] + LANE * self.lanes[target.row - 1][source.wing]
            out = source.x + 12 if lane < source.x else source.x + source.width - 12
            points = [(out, source.y + source.height), (out, start), (lane, start), (lane, end), (into, end)]
            points.append((into, target.y - 1))
        colour = COLOURS[source.room]
        return f"<path d='{_rounded(points)}' stroke='{colour}' marker-end='url(#{source.room})'/>"

    def _entry(self, source: Box, target: Box) -> float:
        """Return the x at which an arrow meets its target; arrows are evenly spaced, in the order of their sources."""
        sources = sorted(
            (box for box in self.boxes.values() if target.wing in self.arrows[box.wing]), key=lambda box: box.x
        )
        return target.x + target.width * (sources.index(source) + 1) / (len(sources) + 1)


def _modules_of(wing: str) -> list[str]:
    return sorted({module.split(".")[2] for module in INSIDE if wing_of(module) == wing and module != wing})


def _least_width(box: Box) -> float:
    """Return the width of the title or of the longest module name, whichever is wider."""
    return 18 + max(TITLE_LETTER * len(box.title), LETTER * max((len(name) + 1 for name in box.modules), default=0))


def _gutter_room(room: str) -> str:
    """Return the room on whose left side long lines to `room` pass; those to the first room pass on its right."""
    rooms = list(COLUMNS)
    return rooms[max(1, rooms.index(room))]


def _draw_box(box: Box) -> str:
    colour, x = COLOURS[box.room], box.x + 8
    lines = "".join(
        f"<text x='{x:.0f}' y='{box.y + TITLE + LINE * (number + 0.6):.0f}'>{escape(line)}</text>"
        for number, line in enumerate(box.lines)
    )
    return (
        f"<rect x='{box.x:.0f}' y='{box.y:.0f}' width='{box.width:.0f}' height='{box.height:.0f}' rx='5' fill='#fff' "
        f"stroke='{colour}'/><text class='title' x='{x:.0f}' y='{box.y + 18:.0f}'>{box.title}</text>{lines}"
    )


def _rounded(points: list[tuple[float, float]]) -> str:
    """Return an SVG path of right-angled lines through points (x, y), with rounded corners."""
    points = [point for number, point in enumerate(points) if number == 0 or _apart(point, points[number - 1])]
    path = [f"M{points[0][0]:.0f} {points[0][1]:.0f}"]
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        near, far = (_towards(corner, other) for other in (before, after))
        path.append(f"L{near[0]:.0f} {near[1]:.0f}Q{corner[0]:.0f} {corner[1]:.0f} {far[0]:.0f} {far[1]:.0f}")
    return " ".join([*path, f"L{points[-1][0]:.0f} {points[-1][1]:.0f}"])


def _apart(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return abs(one[0] - other[0]) + abs(one[1] - other[1]) >= 1


def _towards(corner: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    """Move from a corner towards another point, by ROUND or half the distance, whichever is shorter."""
    length = abs(other[0] - corner[0]) + abs(other[1] - corner[1])
    share = min(ROUND / length, 0.5)
    return corner[0] + share * (other[0] - corner[0]), corner[1] + share * (other[1] - corner[1])


def draw(output: Path = OUTPUT) -> None:
    """Write the picture."""
    output.write_text(Picture().svg(), encoding="utf-8")


@console.command
def main() -> None:
    """Write the picture and print one JSON line."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    draw()
    print(json.dumps({"benchmark": "rooms_picture", "bytes": OUTPUT.stat().st_size, "output": str(OUTPUT)}))


if __name__ == "__main__":
    main()
