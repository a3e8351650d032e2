"""Columns of text behave like lists, and are sent as a few buffers."""

import json
import pickle

import numpy as np
import pytest

from input_pipeline.columns import BLOCK_ROWS, Objects, Strings, json_list_chunks

VALUES = ["", "abc", "", "你好", "it\u2019s", "\ud800 half", "tail", ""]


def test_strings_read_like_a_list():
    column = Strings(VALUES)
    assert len(column) == len(VALUES)
    assert list(column) == VALUES
    assert [column[row] for row in range(-len(VALUES), len(VALUES))] == VALUES * 2
    assert list(column[1:6:2]) == VALUES[1:6:2]
    assert column == VALUES
    assert column == Strings(VALUES)
    assert column != VALUES[1:]
    assert column != [*VALUES[:-1], "another"]
    with pytest.raises(IndexError):
        column[len(VALUES)]


@pytest.mark.parametrize("length", [0, 1, 7, 20_000])
def test_rows_are_taken_in_any_order_and_repeatedly(length):
    values = [VALUES[i % len(VALUES)] + str(i) for i in range(length)]
    rows = np.random.default_rng(0).integers(0, length, 2 * length) if length else np.zeros(0, np.int64)
    assert list(Strings(values).take(rows)) == [values[row] for row in rows]


def test_columns_are_joined_and_still_appended_to():
    joined = Strings.concatenate([Strings(VALUES), Strings(), Strings(["last"])])
    assert list(joined) == [*VALUES, "last"]
    joined.append("more")
    assert joined[-1] == "more"


def test_strings_are_pickled_as_buffers():
    column = Strings(map(str, range(100_000)))
    sent = pickle.dumps(column)
    assert len(sent) < sum(len(str(i)) for i in range(100_000)) + 8 * 100_000 + 500
    assert pickle.loads(sent) == column


def test_objects_keep_what_json_can_say():
    values = [{}, {"speaker": "a", "take": 2}, {"nested": [{"x": None}], "\ud800": 1.5}]
    column = Objects(values)
    assert list(column) == values
    assert list(column.take(np.array([2, 1]))) == [values[2], values[1]]
    assert list(Objects.concatenate([column, Objects([{"y": 1}])])) == [*values, {"y": 1}]


@pytest.mark.parametrize("length", [0, 1, 8192, 8193, 20_000])
def test_json_in_pieces_is_that_of_the_whole(length):
    values = [VALUES[i % len(VALUES)] for i in range(length)]
    assert b"".join(json_list_chunks(values)) == json.dumps(values).encode()


def test_a_long_list_is_written_in_few_pieces():
    for count, pieces in ((0, 2), (1, 2), (BLOCK_ROWS, 3), (BLOCK_ROWS + 1, 3), (3 * BLOCK_ROWS, 5)):
        values = [str(number) for number in range(count)]
        found = list(json_list_chunks(values))
        assert b"".join(found) == json.dumps(values).encode()
        assert len(found) == pieces
