"""Tests of noticing Ctrl-C."""

import os
import signal
import threading

import pytest

from decoding.scoring import interruption


@pytest.fixture(autouse=True)
def python_handler():
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


def interrupt_and_discard() -> None:
    """Send this process SIGINT, and discard the exception as an extension module does."""
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_a_discarded_exception_is_raised_by_the_check():
    with interruption.noticed() as check:
        check()
        interrupt_and_discard()
        with pytest.raises(KeyboardInterrupt):
            check()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_handler_is_restored_after_an_interruption():
    with pytest.raises(KeyboardInterrupt), interruption.noticed():
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_another_handler_stays():
    numbers = []
    signal.signal(signal.SIGINT, lambda number, frame: numbers.append(number))
    with interruption.noticed() as check:
        os.kill(os.getpid(), signal.SIGINT)
        check()
    assert numbers == [signal.SIGINT]


def test_it_can_be_used_in_any_thread():
    errors = []

    def work() -> None:
        try:
            with interruption.noticed() as check:
                check()
        except ValueError as error:  # signal only works in main thread
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not errors
