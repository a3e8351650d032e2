"""The picture of the rooms: no implied arrows, all arrows downwards, no overlapping boxes."""

import itertools

import pytest

from benchmarks.rooms_picture import Picture, reduced, wing_imports
from tests.test_rooms import WINGS


@pytest.fixture(scope="module")
def picture() -> Picture:
    return Picture()


def test_implied_imports_have_no_arrow():
    graph = {"a": {"b", "c", "d"}, "b": {"c"}, "c": set(), "d": set()}
    assert reduced(graph) == {"a": ["b", "d"], "b": ["c"], "c": [], "d": []}


def test_every_import_can_be_followed_along_the_arrows(picture):
    def below(wing: str) -> set[str]:
        return set(picture.arrows[wing]).union(*map(below, picture.arrows[wing]))

    for wing, used in wing_imports().items():
        assert used <= below(wing)


def test_all_arrows_point_downwards(picture):
    arrows = [(wing, other) for wing, used in picture.arrows.items() for other in used]
    assert len(arrows) > len(WINGS) / 2
    for wing, other in arrows:
        assert picture.boxes[wing].y + picture.boxes[wing].height < picture.boxes[other].y


def test_boxes_do_not_overlap_and_their_text_fits(picture):
    for one, other in itertools.combinations(picture.boxes.values(), 2):
        beside = one.x + one.width <= other.x or other.x + other.width <= one.x
        apart = one.y + one.height <= other.y or other.y + other.height <= one.y
        assert beside or apart, (one, other)
    for box in picture.boxes.values():
        assert max(map(len, box.lines), default=0) * 7.3 + 8 <= box.width  # usual fonts need 7.23 pixels per letter
        assert box.x + box.width <= picture.width
        assert box.y + box.height <= picture.height
