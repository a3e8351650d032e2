"""A pause is the longest silence of the second half."""

import numpy as np

from decoding.search.pauses import widest_pause

QUIET = (0, 1)  # blank, space


def test_the_pause_is_the_longest_silence_of_the_second_half():
    spoken = np.array([2, 0, 0, 0, 0, 0, 2, 3, 2, 3, 2, 0, 3, 0, 1, 0, 2, 3, 0, 2])
    assert widest_pause(np.log(np.eye(5, dtype=np.float32)[spoken] + 1e-6), QUIET) == 14


def test_endless_speech_is_cut_in_the_middle():
    assert widest_pause(np.log(np.eye(5, dtype=np.float32)[np.full(20, 2)] + 1e-6), QUIET) == 11
