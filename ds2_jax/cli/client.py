"""`--mode=client`: push to talk in a terminal, or send a file at speaking pace. Loads no JAX."""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import sys
import termios
import tty
from collections.abc import AsyncIterator, Iterator

import numpy as np

from ds2_jax.serving.client import Connection, Delays, Result, Server, at_speaking_pace
from ds2_jax.serving.microphone import Microphone
from input_pipeline import audio
from input_pipeline.text import may_divide, width

SPACE, ESCAPE, CTRL_C, END_OF_INPUT = " ", "\x1b", "\x03", "\x04"
QUIT = ("q", "Q", ESCAPE, CTRL_C, END_OF_INPUT)
OTHER_KEYS = re.compile(r"\x1b[\[O][0-9;]*[A-Za-z~]")  # arrows and others, which also begin with Esc
TO_START, TO_SEND = "press space and speak; q quits", "recording: press space to send"
CLEAR_LINE, DIM, PLAIN = "\r\x1b[K", "\x1b[2m", "\x1b[0m"


def run_client(server: Server, file: str) -> None:
    """Send a file, or with '' the microphone, and print results; at the end, print their delays to stderr.

    Raises ValueError (ServerError, AudioError) for a server, a file or a microphone that cannot be used.
    """
    asyncio.run(_send_file(server, file) if file else _push_to_talk(server))


async def _send_file(server: Server, file: str) -> None:
    samples, rate_hz = audio.read(file)
    delays = Delays()
    with _first_error():
        async with Connection(server, rate_hz) as stream, asyncio.TaskGroup() as tasks:
            tasks.create_task(_speak(stream, samples, rate_hz))
            await _show(stream, Display(), delays)
    print(delays.format(), file=sys.stderr)


async def _speak(stream: Connection, samples: np.ndarray, rate_hz: int) -> None:
    whole = np.clip(np.round(samples * 32768.0), -32768, 32767).astype(np.int16)
    async for piece in at_speaking_pace(whole, rate_hz):
        await stream.send(piece)
    await stream.end()


async def _push_to_talk(server: Server) -> None:
    if not sys.stdin.isatty():
        raise ValueError(
            "push-to-talk needs the keyboard of a terminal as stdin: start it in one, or give --file=a.wav"
        )
    delays = Delays()
    with Microphone() as microphone:
        async with Connection(server, microphone.rate_hz) as stream:
            display = Display()
            await talk(stream, microphone.pieces(), display, delays)
            display.clear()
    print(delays.format(), file=sys.stderr)


async def talk(stream: Connection, pieces: AsyncIterator[np.ndarray], display: "Display", delays: Delays) -> None:
    """Send audio while recording, which the space bar starts and ends, until a key quits; show results.

    pieces: what a microphone records, [N] int16 each. stdin is a terminal.
    """
    recording = asyncio.Event()

    async def send() -> None:
        async for piece in pieces:
            if recording.is_set():
                await stream.send(piece)

    async def obey(keys: asyncio.Queue[str]) -> None:
        while (key := await keys.get()) not in QUIT:
            if key == SPACE and not recording.is_set():
                recording.set()
                display.hint(TO_SEND)
            elif key == SPACE:
                recording.clear()
                await stream.commit()
                display.hint(TO_START)
        recording.clear()
        await stream.end()

    with _first_error(), _keyboard() as keys:
        display.hint(TO_START)
        async with asyncio.TaskGroup() as tasks:
            others = [tasks.create_task(send()), tasks.create_task(obey(keys))]
            await _show(stream, display, delays)
            for task in others:
                task.cancel()


async def _show(stream: Connection, display: "Display", delays: Delays) -> None:
    async for result in stream.results():
        display.show(result)
        delays.add(result)


@contextlib.contextmanager
def _first_error() -> Iterator[None]:
    """Raise the first error of a group of tasks as itself."""
    try:
        yield
    except ExceptionGroup as group:
        raise group.exceptions[0] from None


@contextlib.contextmanager
def _keyboard() -> Iterator[asyncio.Queue[str]]:
    """Yield a queue of the keys that are pressed in the terminal, which gives them at once and does not show them.

    The first Ctrl-C is such a key; a second one interrupts the program.
    """
    keys: asyncio.Queue[str] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def read() -> None:
        pressed = ""
        with contextlib.suppress(OSError):  # the terminal is gone
            pressed = os.read(sys.stdin.fileno(), 64).decode(errors="replace")
        if not pressed:
            loop.remove_reader(sys.stdin)
        for key in OTHER_KEYS.sub("", pressed) if pressed else END_OF_INPUT:
            keys.put_nowait(key)

    def interrupt() -> None:
        loop.remove_signal_handler(signal.SIGINT)
        keys.put_nowait(CTRL_C)

    before = termios.tcgetattr(sys.stdin)
    loop.add_reader(sys.stdin, read)
    loop.add_signal_handler(signal.SIGINT, interrupt)
    try:
        tty.setcbreak(sys.stdin)
        yield keys
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        loop.remove_reader(sys.stdin)
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


class Display:
    """Results on stdout: final ones as lines; in a terminal, also partial ones and hints, in one line that is rewritten."""

    def __init__(self):
        self._is_terminal = sys.stdout.isatty()
        self._hint = ""

    def hint(self, text: str) -> None:
        """Show what to do next, until there is a partial result."""
        self._hint = text
        self._rewrite(f"{DIM}{text}{PLAIN}" if text else "")

    def show(self, result: Result) -> None:
        """Show a result; words that may still change are dim."""
        if result.is_final:
            self.clear()
            if result.text:
                print(result.text, flush=True)
            self.hint(self._hint)
        elif result.text:
            space = shutil.get_terminal_size().columns - 1
            shown = _last_columns(result.text, space)
            settled = " ".join(word["text"] for word in result.words[: result.settled])
            if not result.text.startswith(settled):  # Chinese is written without spaces
                settled = settled.replace(" ", "")
            changing = min(len(result.text) - len(settled), len(shown))
            bright, dim = shown[: len(shown) - changing], shown[len(shown) - changing :]
            self._rewrite(f"{bright}{DIM}{dim}{PLAIN}")

    def clear(self) -> None:
        """Remove the line that is rewritten."""
        self._rewrite("")

    def _rewrite(self, line: str) -> None:
        if self._is_terminal:
            print(f"{CLEAR_LINE}{line}", end="", flush=True)


def _last_columns(text: str, columns: int) -> str:
    """Return the end of a text that fits into so many columns of a terminal."""
    for start in range(len(text)):
        if width(text[start:]) <= columns and may_divide(text[:start], text[start:]):
            return text[start:]
    return ""
