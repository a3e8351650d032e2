"""What all commands share: home folders in their arguments, and output that any terminal can show.

Characters that a terminal's encoding lacks, control characters and the surrogates of file names that are not UTF-8 are
written as escapes. A reader that has enough, such as `head`, is no error: what is printed afterwards is dropped. A command that
does nothing but print ends when `reader_has_gone`.
"""

import _thread
import contextlib
import functools
import io
import os
import re
import select
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, ParamSpec, TextIO, TypeVar

STDOUT = 1  # file descriptor
REPEAT_S = 0.05  # when the finaliser has ended
_HOME = re.compile(r"(?<![^,=])~[^/,:=]*(?=[/,:]|$)")
# C0, C1, line separators, embeddings and isolates of direction, surrogates
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_MOVES = re.compile("\n*(\x1b\\[A)*")  # what progress bars write to change the line

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def command(main: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Make a function the main function of a command; called with arguments of its own, it is left as it is."""

    @functools.wraps(main)
    def run(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        if not args and not kwargs:
            sys.argv[1:] = map(expand_home, sys.argv[1:])
            protect_output()
            keep_interruptions()
        return main(*args, **kwargs)

    return run


def expand_home(argument: str) -> str:
    """Replace `~` and `~user` by the home folder where a path of an argument begins with it: `--text=~/a.txt,~/b.txt`."""
    return _HOME.sub(lambda match: os.path.expanduser(match[0]), argument)


def escape(text: str, keep: str = "") -> str:
    r"""Return a text with control characters, such as `\x1b`, and half surrogates written as escapes, except those kept."""
    return _UNPRINTABLE.sub(lambda match: match[0] if match[0] in keep else ascii(match[0])[1:-1], text)


def protect_output(*, raw: bool = False) -> None:
    """Replace sys.stdout and sys.stderr by streams that escape what cannot be shown and outlive their reader.

    What native libraries print on standard output, such as decoders of damaged audio, goes to standard error.
    raw: leave control characters as they are, for a program that moves the cursor.
    """
    os.environ.setdefault("PYTHON_COLORS", "0")  # Python 3.13 colours tracebacks, Python 3.14 also help
    sys.stdout = _protected(sys.stdout, None if raw else "\n\t")
    _redirect_native_output()
    sys.stderr = _protected(sys.stderr, None if raw else "\n\t\r")  # progress bars return to the start of their line


def keep_interruptions() -> None:
    """Repeat Ctrl-C if Python drops its exception, as in a finaliser or a callback of the garbage collector."""
    previous = sys.unraisablehook

    def repeat() -> None:
        time.sleep(REPEAT_S)
        os.kill(os.getpid(), signal.SIGINT)

    def hook(dropped: Any) -> None:
        if issubclass(dropped.exc_type, KeyboardInterrupt):
            _thread.start_new_thread(repeat, ())  # without the locks of threading, which may be held here
        else:
            previous(dropped)

    sys.unraisablehook = hook


def reader_has_gone() -> bool:
    """Tell whether nothing reads what is printed on standard output, as after the end of `head`."""
    if isinstance(sys.stdout, _Output) and sys.stdout.dropped:
        return True
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    except (AttributeError, OSError, ValueError):  # closed, or without a file: a notebook's, a test's
        return False


def _redirect_native_output() -> None:
    """Let file descriptor 1 lead to standard error, if the results have a descriptor of their own."""
    if isinstance(sys.stdout, _Output) and sys.stdout.fileno() != STDOUT:
        with contextlib.suppress(OSError, AttributeError, ValueError):  # without standard error
            os.dup2(sys.stderr.fileno(), STDOUT)


def _protected(stream: TextIO, keep: str | None) -> TextIO:
    try:
        stream.flush()
        return _Output(stream, keep)
    except (AttributeError, OSError, ValueError):  # closed, or without a file: a notebook's, a test's
        return stream


class _Output(io.TextIOWrapper):
    """A text stream to the file of another one.

    keep: control characters that are not escaped; None: all. Attribute dropped: the reader has gone, so all is dropped.
    """

    def __init__(self, stream: TextIO, keep: str | None):
        descriptor = stream.fileno()
        if descriptor == STDOUT:
            descriptor = os.dup(descriptor)
        file = open(descriptor, "wb", closefd=False)  # noqa: SIM115 - open as long as the program runs
        # Like Python's own streams, stderr and terminals are written line by line.
        super().__init__(
            file, stream.encoding, "backslashreplace", line_buffering=getattr(stream, "line_buffering", True)
        )
        self._keep = keep
        self.dropped = False

    def write(self, text: str) -> int:
        as_it_is = self._keep is None or _MOVES.fullmatch(text)
        shown = text if as_it_is else escape(text, self._keep or "")
        with self._reader():
            super().write(shown)
        return len(text)

    def flush(self) -> None:
        with self._reader():
            super().flush()

    @contextlib.contextmanager
    def _reader(self) -> Any:
        """Drop this and all later output if the reader has gone."""
        try:
            yield
        except BrokenPipeError:
            self.dropped = True
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
