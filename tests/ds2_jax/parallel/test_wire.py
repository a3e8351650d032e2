"""Values that processes exchange arrive as they were sent, and nothing is run on arrival."""

import pickle

import numpy as np
import pytest

from decoding.hypothesis import Hypothesis, Word
from ds2_jax.parallel import wire

CLASSES = (Hypothesis, Word)
HYPOTHESIS = Hypothesis("héllo", [Word("héllo", 0.1, 0.30000000000000004, 1 / 3)], 0.5, float("-inf"))


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        -3,
        0.1,
        "text\u0000\ud800",
        [],
        (1, [2, "a"]),
        {3, 1},
        {1: "a", "b": [None], (1, 2): {}},
        ({5: [HYPOTHESIS]}, {2: "cannot be read"}),
        ["array"],
        ["Word", {"text": 1}],
    ],
)
def test_a_value_arrives_as_it_was_sent(value):
    received = wire.decode(wire.encode(value, CLASSES), CLASSES)
    assert received == value
    assert type(received) is type(value)


def test_arrays_arrive_with_type_and_shape():
    arrays: dict[int, np.ndarray] = {3: np.arange(6, dtype=np.float16).reshape(2, 3), 4: np.zeros((0, 5), np.int64)}
    received, number = wire.decode(wire.encode([arrays, np.float32(1.5)]))
    assert number == 1.5
    for key, array in arrays.items():
        assert received[key].dtype == array.dtype
        assert np.array_equal(received[key], array)


class Bomb:
    def __reduce__(self):
        return exit, ()


@pytest.mark.parametrize(
    "data",
    [b"", pickle.dumps(1), pickle.dumps(Bomb()), wire.encode(HYPOTHESIS, CLASSES), wire.encode([np.zeros(9)])[:-9]],
    ids=["nothing", "pickle", "program", "unknown class", "cut off"],
)
def test_other_bytes_are_refused(data):
    with pytest.raises(ValueError, match=r"another process sent \d+ bytes that are not a value"):
        wire.decode(data)


def test_an_array_of_objects_is_neither_sent_nor_received():
    with pytest.raises(ValueError, match="allow_pickle"):
        wire.encode(np.array([Bomb()], object))
    with pytest.raises(TypeError, match="Bomb cannot be sent to another process"):
        wire.encode({1: Bomb()})
