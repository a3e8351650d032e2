"""The watch over other processes: which one is reported, and when; several watches in one process share a store."""

import threading
import time
from collections.abc import Iterator

import pytest

from ds2_jax.parallel import watch
from ds2_jax.parallel.watch import RETRY, Watch

NAMES = ["process 0 (a)", "process 1 (b)", "process 2 (c)"]
WAIT_S = 20  # for an event that takes less than one second


class Store:
    """The part of JAX's coordination service that the watches use."""

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
def exits(monkeypatch) -> Iterator[dict[int, tuple[int, str]]]:
    """Shorten all intervals, and record code and message of each exit, by rank."""
    monkeypatch.setattr(watch, "HEARTBEAT_S", 0.02)
    monkeypatch.setattr(watch, "LOST_S", 1.0)
    monkeypatch.setattr(watch, "BROKEN_S", 0.3)
    recorded: dict[int, tuple[int, str]] = {}
    over = threading.Event()

    def record(code: int, message: str, rank: int, processes: int) -> None:
        recorded.setdefault(rank, (code, message))
        over.wait()  # the real function does not return

    monkeypatch.setattr(watch, "exit_now", record)
    yield recorded
    over.set()


@pytest.fixture
def watches():
    store = Store()
    started = [Watch(store, rank, NAMES, "127.0.0.1:9") for rank in range(3)]
    yield store, started
    for one in started:
        one.end()


def wait_for(exits, ranks) -> None:
    deadline = time.monotonic() + WAIT_S
    while not set(ranks) <= set(exits):
        assert time.monotonic() < deadline, exits
        time.sleep(0.01)


def test_no_process_exits_while_all_send_heartbeats(watches, exits):
    time.sleep(2.5 * watch.LOST_S)
    assert exits == {}


def test_a_process_without_heartbeats_is_reported_by_the_others(watches, exits):
    watches[1][2].end()
    wait_for(exits, [0, 1])
    for rank in (0, 1):
        assert exits[rank][0] == RETRY
        assert exits[rank][1].startswith("no heartbeat from process 2 (c) for 1 s")


def test_a_store_that_does_not_answer_is_attributed_to_process_0(watches, exits):
    watches[0].answers = False
    wait_for(exits, [1, 2])
    watches[0].answers = True
    assert exits[1] == (RETRY, exits[1][1])
    assert exits[1][1].startswith("process 0 (a), which coordinates the run at 127.0.0.1:9, has not answered for 1 s")


def test_an_announced_exit_is_reported_with_its_reason_and_code(watches, exits):
    start = time.monotonic()
    watches[1][0].announce_exit(1, "the disk is full")
    assert time.monotonic() - start < WAIT_S / 4  # it waits until the others have read it, no longer
    wait_for(exits, [1, 2])
    assert exits[2] == (1, "process 0 (a) ended: the disk is full")


def test_the_slowest_process_is_reported_when_progress_stalls(watches, exits):
    first, second, third = watches[1]
    for one, reports in ((first, 5), (second, 3), (third, 5)):
        for number in range(reports):
            one.report_progress(f"step {number}")
    second.report_progress("waiting for the data of step 3")
    with first.expect_progress(0.5), third.expect_progress(0.5), second.expect_progress(0):
        wait_for(exits, [0, 1, 2])  # the first to notice announces its exit to the others
    for code, message in exits.values():
        assert code == RETRY
        assert "(step 4); the others wait for process 1 (b) (waiting for the data of step 3)" in message


def test_progress_within_the_limit_keeps_the_process_alive(watches, exits):
    first = watches[1][0]
    with first.expect_progress(1.0):
        for number in range(15):
            first.report_progress(f"step {number}")
            time.sleep(0.1)
    time.sleep(1.5)  # outside the context, no progress is expected
    assert exits == {}


def test_threads_end_with_the_watch(watches):
    for one in watches[1]:
        one.end()
    for thread in [t for t in threading.enumerate() if t.name in ("_send_heartbeats", "_check_processes")]:
        thread.join(WAIT_S)
        assert not thread.is_alive()
