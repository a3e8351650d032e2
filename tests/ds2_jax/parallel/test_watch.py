"""The watch over other processes: who is named, and when; several watches in one process, on one store of signs."""

import threading
import time
from collections.abc import Iterator

import pytest

from ds2_jax.parallel import watch
from ds2_jax.parallel.watch import RETRY, Watch

NAMES = ["process 0 (a)", "process 1 (b)", "process 2 (c)"]
WAIT_S = 20  # for something that takes less than one


class Store:
    """What the watches use of JAX's coordination service."""

    def __init__(self):
        self.values: dict[str, str] = {}
        self.answers = True

    def key_value_set(self, key: str, value: str, allow_overwrite: bool = False) -> None:
        while not self.answers:
            time.sleep(0.01)
        self.values[key] = value

    def key_value_dir_get(self, folder: str) -> list[tuple[str, str]]:
        return [(key, value) for key, value in list(self.values.items()) if key.startswith(folder)]


@pytest.fixture(autouse=True)
def ends(monkeypatch) -> Iterator[dict[int, tuple[int, str]]]:
    """Let time pass quickly, and note who would have ended, with code and message."""
    monkeypatch.setattr(watch, "BEAT_S", 0.02)
    monkeypatch.setattr(watch, "LOST_S", 1.0)
    monkeypatch.setattr(watch, "BROKEN_S", 0.3)
    found: dict[int, tuple[int, str]] = {}
    over = threading.Event()

    def note(code: int, message: str, rank: int, processes: int) -> None:
        found.setdefault(rank, (code, message))
        over.wait()  # the real one does not return

    monkeypatch.setattr(watch, "exit_now", note)
    yield found
    over.set()


@pytest.fixture
def watches():
    store = Store()
    started = [Watch(store, rank, NAMES, "127.0.0.1:9") for rank in range(3)]
    yield store, started
    for one in started:
        one.end()


def wait_for(ends, ranks) -> None:
    deadline = time.monotonic() + WAIT_S
    while not set(ranks) <= set(ends):
        assert time.monotonic() < deadline, ends
        time.sleep(0.01)


def test_while_all_give_signs_of_life_nothing_ends(watches, ends):
    time.sleep(2.5 * watch.LOST_S)
    assert ends == {}


def test_a_process_without_a_sign_of_life_is_named_by_the_others(watches, ends):
    watches[1][2].end()
    wait_for(ends, [0, 1])
    for rank in (0, 1):
        assert ends[rank][0] == RETRY
        assert ends[rank][1].startswith("nothing was heard of process 2 (c) for 1 s")


def test_a_store_that_does_not_answer_is_process_0s_fault(watches, ends):
    watches[0].answers = False
    wait_for(ends, [1, 2])
    watches[0].answers = True
    assert ends[1] == (RETRY, ends[1][1])
    assert ends[1][1].startswith("process 0 (a), which coordinates the run at 127.0.0.1:9, has not answered for 1 s")


def test_who_leaves_is_named_with_its_reason_and_code(watches, ends):
    start = time.monotonic()
    watches[1][0].announce_exit(1, "the disk is full")
    assert time.monotonic() - start < WAIT_S / 4  # it waits until the others know, and no longer
    wait_for(ends, [1, 2])
    assert ends[2] == (1, "process 0 (a) ended: the disk is full")


def test_who_is_behind_is_named_when_nothing_moves(watches, ends):
    first, second, third = watches[1]
    for one, notes in ((first, 5), (second, 3), (third, 5)):
        for number in range(notes):
            one.note_progress(f"step {number}")
    second.note_progress("waiting for the data of step 3")
    with first.expect_progress(0.5), third.expect_progress(0.5), second.expect_progress(0):
        wait_for(ends, [0, 1, 2])  # whoever sees it first tells the others
    for code, message in ends.values():
        assert code == RETRY
        assert "(step 4); the others wait for process 1 (b) (waiting for the data of step 3)" in message


def test_notes_in_time_keep_it_going(watches, ends):
    first = watches[1][0]
    with first.expect_progress(1.0):
        for number in range(15):
            first.note_progress(f"step {number}")
            time.sleep(0.1)
    time.sleep(1.5)  # and outside of it, nothing is expected
    assert ends == {}


def test_threads_end_with_the_watch(watches):
    for one in watches[1]:
        one.end()
    for thread in [t for t in threading.enumerate() if t.name in ("_beat", "_look")]:
        thread.join(WAIT_S)
        assert not thread.is_alive()
