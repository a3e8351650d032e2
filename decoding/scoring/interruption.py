"""Notice Ctrl-C even where Python's exception for it is lost."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def noticed() -> Iterator[Callable[[], None]]:
    """Yield a check that raises KeyboardInterrupt if SIGINT has arrived since; to be called between pieces of work.

    The exception is raised when the signal arrives, too. But if that is while an extension module tries one conversion of a
    value after another, the module takes it for an error of the conversion and discards it. Other handlers of SIGINT
    are left alone, and Python calls handlers in the main thread only: there, the check does nothing.
    """
    received = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal received
        received = True
        signal.default_int_handler(number, frame)

    def check() -> None:
        if received:
            raise KeyboardInterrupt

    ours = threading.current_thread() is threading.main_thread()
    if ours and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, note)
        try:
            yield check
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)
    else:
        yield check
