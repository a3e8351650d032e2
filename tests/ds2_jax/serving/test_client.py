"""`--mode=client` as users start it, against a real server: files, push-to-talk in a terminal, errors."""

import asyncio
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator

import aiohttp
import numpy as np
import pytest
import soundfile

from ds2_jax.serving.client import PIECE_S, Connection, Result, Server
from tests.certificates import make_certificate
from tests.conftest import CLIPS
from tests.ds2_jax.serving.speech import count_sessions
from tests.runs import ROOT, Program, free_port, slow, start_main, wait_until
from tests.servers import MODEL, server, wait_until_healthy

TOKEN = "client-test"
SESSIONS = 2
CLIP, TEXT = CLIPS / "cen1-mtos-b.flac", "s m i t h"
DELAYS = r"delay: partial results {0} \(of \d+\); final results {0} \(of 1\)\n".format(
    r"median \d+ ms, 98% within \d+ ms"
)
FORBIDDEN = ("jax", "flax", "grain", "orbax", "ml_dtypes")
# Push-to-talk as `--mode=client` does it, with the clip, again and again, as what the microphone records:
TALK = """
import asyncio, sys
import numpy as np
from ds2_jax.cli.client import Connection, Delays, Display, Server, talk
from ds2_jax.serving.client import at_speaking_pace
from input_pipeline import audio

async def record(samples, rate_hz):
    while True:
        async for piece in at_speaking_pace(samples, rate_hz):
            yield piece

async def main(port, token, path):
    samples, rate_hz = audio.read(path)
    delays = Delays()
    async with Connection(Server(port=int(port), token=token), rate_hz) as stream:
        await talk(stream, record((samples * 32768).astype(np.int16), rate_hz), Display(), delays)
    print("ENDED", delays.format())

asyncio.run(main(*sys.argv[1:]))
"""

# The keys that push-to-talk reads, until it is interrupted:
KEYS = """
import asyncio
from ds2_jax.cli.client import _keyboard

async def main():
    with _keyboard() as keys:
        print("READY", flush=True)
        while True:
            print("KEY", repr(await keys.get()), flush=True)

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Port of a server with a token and few sessions."""
    with server(f"--config.serve.sessions={SESSIONS}", f"--token={TOKEN}") as (_, port):
        yield port


def client(*flags: str, **more) -> subprocess.CompletedProcess:
    """Run --mode=client, without a terminal, until it ends."""
    command = [sys.executable, str(ROOT / "main.py"), "--mode=client", *flags]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, **more
    )


class Terminal:
    """A program in a terminal of its own."""

    def __init__(self, *command: str):
        self._end, self._theirs = pty.openpty()
        self.before = termios.tcgetattr(self._theirs)
        self.output = ""
        self.process = Program(
            command,
            cwd=ROOT,
            stdin=self._theirs,
            stdout=self._theirs,
            stderr=self._theirs,
            start_new_session=True,
            preexec_fn=self._control,
        )

    def _control(self) -> None:
        """Make the terminal the one whose Ctrl-C interrupts the program."""
        os.close(os.open(os.ttyname(self._theirs), os.O_RDWR))

    def __enter__(self) -> "Terminal":
        os.set_blocking(self._end, False)
        return self

    def __exit__(self, *details) -> None:
        self.process.__exit__(*details)
        os.close(self._end)
        os.close(self._theirs)

    def press(self, keys: str) -> None:
        os.write(self._end, keys.encode())

    def read_until(self, pattern: str, timeout_s: float = 60) -> str:
        """Read until the output matches a pattern; return what was read by this call."""
        start, end = len(self.output), time.monotonic() + timeout_s
        while not re.search(pattern, self.output[start:]):
            assert time.monotonic() < end, f"{pattern!r} was not printed: {self.output!r}"
            try:
                self.output += os.read(self._end, 1 << 16).decode()
            except BlockingIOError:
                time.sleep(0.01)
        return self.output[start:]

    def finish(self) -> int:
        """Wait for the end; return the exit code. Checks that the terminal is as it was."""
        code = self.process.wait(30)
        assert termios.tcgetattr(self._theirs) == self.before
        return code


def test_a_file_is_sent_at_speaking_pace_and_final_results_go_to_stdout(port):
    start = time.monotonic()
    result = client(f"--port={port}", f"--token={TOKEN}", f"--file={CLIP}")
    assert (result.returncode, result.stdout) == (0, f"{TEXT}\n"), result.stderr
    assert re.fullmatch(DELAYS, result.stderr)
    assert time.monotonic() - start > 2.1  # seconds of the clip


def test_times_of_sending_are_kept_for_what_is_not_yet_processed(port, monkeypatch):
    monkeypatch.setattr("ds2_jax.serving.client.SENDINGS_S", 1.0)
    samples, rate_hz = soundfile.read(CLIP, dtype="int16")
    size = round(PIECE_S * rate_hz)

    async def run() -> tuple[int, list[Result], int]:
        async with Connection(Server(port=port, token=TOKEN), rate_hz) as stream:
            for start in range(0, len(samples), size):
                await stream.send(samples[start : start + size])
            sent = len(stream._sent_s)
            await stream.end()
            results = [result async for result in stream.results()]
            return sent, results, len(stream._sent_s)

    sent, results, left = asyncio.run(run())
    assert sent == pytest.approx(1.0 / PIECE_S, abs=1)
    assert left <= 1
    assert "".join(result.text for result in results if result.is_final) == TEXT
    assert all(result.delay_s is not None for result in results if result.text)


def test_the_client_loads_no_jax():
    code = (
        "import sys\nfrom ds2_jax.cli.main import main\n"
        f"try: main()\nfinally: print(sorted(set(sys.modules) & set({FORBIDDEN})))"
    )
    flags = ["--mode=client", f"--port={free_port()}", f"--file={CLIP}"]
    result = subprocess.run([sys.executable, "-c", code, *flags], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.stdout == "[]\n", result.stderr
    assert "no server answers" in result.stderr  # it has come so far


def test_a_terminal_shows_partial_results_in_one_line_that_is_rewritten(port):
    command = [sys.executable, str(ROOT / "main.py"), "--mode=client", f"--port={port}", f"--file={CLIP}"]
    with Terminal(*command, f"--token={TOKEN}") as terminal:
        shown = terminal.read_until(r"delay: .*\n")
        assert terminal.finish() == 0
    rewritten, _, _ = shown.partition(f"{TEXT}\r\n")
    assert "\n" not in rewritten
    plain = [re.sub("\x1b\\[[0-9;]*[mK]", "", text) for text in rewritten.split("\r\x1b[K")]
    partials = [text for text in plain if text]
    assert len(partials) >= 2
    assert all(TEXT.startswith(text) for text in partials)
    assert re.search("\x1b\\[2m.+\x1b\\[0m", rewritten)  # words that may still change are dim


@pytest.mark.parametrize("quit_key", ["q", slow("\x1b"), slow("\x03")], ids=["q", "Esc", "Ctrl-C"])
def test_space_starts_and_sends_and_a_key_quits(port, quit_key):
    with Terminal(sys.executable, "-c", TALK, str(port), TOKEN, str(CLIP)) as terminal:
        terminal.read_until("press space and speak; q quits")
        terminal.press("\x1b[A")  # an arrow key, which is no Esc
        terminal.press(" ")
        terminal.read_until("recording: press space to send")
        terminal.read_until(r"s.* m")  # a partial result
        terminal.press(" ")
        sent = terminal.read_until(r"press space and speak.*\n(.|\n)*press space and speak")
        [final] = re.findall(r"\n?\r\x1b\[K([a-z ]+)\r\n", sent)
        assert set(final.split()) <= set(TEXT.split())
        terminal.press(quit_key)
        assert "final results median" in terminal.read_until(r"ENDED .*\n")
        assert terminal.finish() == 0


def test_the_first_ctrl_c_is_a_key_and_the_second_interrupts():
    with Terminal(sys.executable, "-c", KEYS) as terminal:
        terminal.read_until("READY")
        terminal.press("a")
        terminal.read_until("KEY 'a'")
        terminal.press("\x03")
        terminal.read_until(r"KEY '\\x03'")
        terminal.press("\x03")
        assert "KEY" not in terminal.read_until("KeyboardInterrupt", 10)
        assert terminal.finish() == -signal.SIGINT


@pytest.mark.slow
def test_ctrl_c_ends_a_file(port):
    command = [sys.executable, str(ROOT / "main.py"), "--mode=client", f"--port={port}", f"--file={CLIP}"]
    with Terminal(*command, f"--token={TOKEN}") as terminal:
        terminal.read_until("s")
        terminal.press("\x03")
        terminal.read_until("interrupted")
        assert terminal.finish() == 128 + signal.SIGINT


def test_errors_say_what_to_do(port, tmp_path):
    token = f"--token={TOKEN}"
    (tmp_path / "notes.txt").write_text("no audio")
    for flags, message in (
        (
            [f"--port={free_port()}"],
            r"no server answers at 127.0.0.1:\d+ \(Connection refused\): start one with --mode=serve",
        ),
        (["--host=ds2.invalid"], r"no server answers at ds2.invalid:\d+ \(.+\): .* correct --host and --port"),
        ([], r"requires a token: give it as --token=... or in DS2_TOKEN"),
        (["--token=wrong"], r"does not accept this token: give another one as --token="),
        ([token, "--tls"], r"does not use TLS: leave out --tls"),
        (
            [token, f"--tls_cert={CLIP}"],
            r"--tls_cert=.* cannot be used \(.+\): give the server's certificate as a PEM file",
        ),
        ([token, f"--file={tmp_path}/a.wav"], r"a.wav does not exist"),
        ([token, f"--file={tmp_path}/notes.txt"], r"notes.txt is not in an audio format"),
        ([token, "--file="], r"push-to-talk needs the keyboard of a terminal"),
    ):
        result = client(f"--port={port}", f"--file={CLIP}", *flags)
        assert (result.returncode, result.stdout) == (1, "")
        assert re.fullmatch(f"error: .*{message}.*\n", result.stderr), result.stderr


def test_a_server_whose_sessions_are_all_in_use_is_busy(port):
    async def run() -> subprocess.CompletedProcess:
        async with aiohttp.ClientSession() as http:
            sockets = [await http.ws_connect(f"http://127.0.0.1:{port}/stream?token={TOKEN}") for _ in range(SESSIONS)]
            assert [(await socket.receive_json())["type"] for socket in sockets] == ["ready"] * SESSIONS
            return await asyncio.to_thread(client, f"--port={port}", f"--token={TOKEN}", f"--file={CLIP}")

    result = asyncio.run(run())
    assert result.returncode == 1
    assert result.stderr == f"error: the server is busy: all {SESSIONS} sessions are in use: try again later\n"


@pytest.mark.slow
def test_a_server_that_stops_is_told_apart_from_a_lost_connection(tmp_path):
    samples, rate_hz = soundfile.read(CLIP, dtype="int16")
    soundfile.write(tmp_path / "long.wav", np.resize(samples, 60 * rate_hz), rate_hz)
    port = free_port()
    serve = ("main.py", "--mode=serve", f"--port={port}", f"--config.restore={MODEL}", "--config.serve.stop_s=0.5")
    with Program([sys.executable, *serve], cwd=ROOT) as process:
        wait_until_healthy(port, process)
        with start_main("--mode=client", f"--port={port}", f"--file={tmp_path}/long.wav") as talking:
            wait_until(lambda: count_sessions("127.0.0.1", port) == 1, 30)
            process.send_signal(signal.SIGTERM)
            errors = talking.communicate(timeout=30)[1]
    assert talking.returncode == 1
    assert errors.splitlines()[-1] == "error: the server has stopped: start it again"


def test_a_missing_microphone_is_explained(port):
    try:
        import sounddevice
    except OSError:
        message = "the library PortAudio.* is not installed: apt-get install libportaudio2, or give"
    else:
        message = "no microphone can be used.*: connect one, or give"
        if any(device["max_input_channels"] for device in sounddevice.query_devices()):
            pytest.skip("this machine has a microphone")
    command = [sys.executable, str(ROOT / "main.py"), "--mode=client", f"--port={port}", f"--token={TOKEN}"]
    with Terminal(*command) as terminal:
        shown = terminal.read_until(r"error: .*\n")
        assert re.search(f"error: {message} --file=a.wav", shown)
        assert terminal.finish() == 1


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl is installed")
def test_a_certificate_of_ones_own_is_trusted_when_it_is_given(tmp_path, monkeypatch):
    certificate, key = make_certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))  # trusted by wait_until_healthy
    port = free_port()
    flags = f"--port={port}", f"--tls_cert={certificate}", f"--tls_key={key}", "--config.serve.sessions=1"
    with start_main("--mode=serve", f"--config.restore={MODEL}", *flags) as process:
        wait_until_healthy(port, process, "https")
        monkeypatch.delenv("SSL_CERT_FILE")
        address = f"--port={port}", f"--file={CLIP}"
        assert client(*address, f"--tls_cert={certificate}").stdout == f"{TEXT}\n"
        assert "is not trusted" in client(*address, "--tls").stderr
        assert "if it uses TLS, add --tls" in client(*address).stderr
        process.terminate()
        process.communicate(timeout=30)
