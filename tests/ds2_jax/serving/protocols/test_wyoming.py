"""The Wyoming protocol, spoken to a real server; with the wyoming library and wyoming-bench in the slow tests."""

import asyncio
import contextlib
import json
import re
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from ds2_jax.serving.protocols import wyoming
from ds2_jax.serving.protocols.wyoming import AudioFormat, Header, format_event, parse_format, parse_header, to_samples
from ds2_jax.serving.sessions import Service
from ds2_jax.serving.tcp import Connection
from tests.ds2_jax.serving.clients import install
from tests.ds2_jax.serving.speech import (
    LONG,
    RATE_HZ,
    SHORT,
    TEXTS,
    count_sessions,
    logged_server,
    read_clip,
    wrong_objects,
)
from tests.runs import free_port, wait_until

PCM = {"rate": RATE_HZ, "width": 2, "channels": 1}


class Client:
    """A client that speaks the bytes of the protocol."""

    def __init__(self, port: int):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._file = self.socket.makefile("rb")

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_) -> None:
        self._file.close()
        self.socket.close()

    def send(self, kind: str, data: dict | None = None, payload: bytes = b"") -> None:
        """Send an event as the wyoming library does: data after the header."""
        values = json.dumps(data).encode() if data else b""
        header: dict[str, str | int] = {"type": kind, "version": "1.10.2"}
        header |= {"data_length": len(values)} if values else {}
        header |= {"payload_length": len(payload)} if payload else {}
        self.socket.sendall(json.dumps(header).encode() + b"\n" + values + payload)

    def send_audio(self, samples: np.ndarray, data: dict | None = None) -> None:
        """Send an utterance in chunks of 1,024 samples."""
        data = data or PCM
        self.send("transcribe", {"language": "en"})
        self.send("audio-start", data)
        for start in range(0, len(samples), 1024):
            self.send("audio-chunk", data | {"timestamp": None}, samples[start : start + 1024].tobytes())
        self.send("audio-stop")

    def receive(self) -> tuple[str, dict] | None:
        """Return the next event; None if the server has closed the connection."""
        line = self._file.readline()
        if not line:
            return None
        header = json.loads(line)
        data = json.loads(self._file.read(header["data_length"])) if header.get("data_length") else {}
        return header["type"], data

    def receive_until(self, kind: str) -> list[tuple[str, dict]]:
        """Return events up to the first one of a kind."""
        events = []
        while (event := self.receive()) is not None:
            events.append(event)
            if event[0] == kind:
                return events
        raise AssertionError(f"no {kind}, but {events}")


@pytest.fixture(scope="module")
def ports(tmp_path_factory):
    """Ports of the HTTP and the Wyoming side of a server for four sessions."""
    wyoming = free_port()
    with logged_server(tmp_path_factory.mktemp("server") / "log", f"--wyoming_port={wyoming}") as (_, port):
        yield port, wyoming


@pytest.fixture
def client(ports):
    """Return a client that is connected."""
    with Client(ports[1]) as client:
        yield client


def no_sessions(ports) -> bool:
    """Tell whether no session is open."""
    return count_sessions("127.0.0.1", ports[0]) == 0


def check_transcript(events: list[tuple[str, dict]], text: str) -> None:
    """The events of an utterance come in order, and its chunks joined are its text."""
    kinds = [kind for kind, _ in events]
    chunks = [data["text"] for kind, data in events if kind == "transcript-chunk"]
    assert kinds == ["transcript-start", *["transcript-chunk"] * len(chunks), "transcript", "transcript-stop"]
    assert events[-2][1]["text"] == text
    assert "".join(chunks) == text


def test_info_names_the_model(client):
    client.send("describe")
    kind, data = client.receive()
    assert kind == "info"
    [program] = data["asr"]
    assert program["supports_transcript_streaming"]
    assert program["installed"]
    [model] = program["models"]
    assert (model["name"], model["languages"], model["installed"]) == ("an4", ["en"], True)
    assert set(model["attribution"]) == {"name", "url"}


def test_a_connection_serves_one_utterance_after_the_other(client):
    for name in (LONG, SHORT):
        client.send_audio(read_clip(name))
        check_transcript(client.receive_until("transcript-stop"), TEXTS[name])


def test_words_arrive_while_audio_is_sent(client):
    samples = np.concatenate([read_clip(SHORT), np.zeros(2 * RATE_HZ, np.int16)])
    client.send("audio-start", PCM)
    client.send("audio-chunk", PCM, samples.tobytes())
    events = client.receive_until("transcript-chunk")
    assert TEXTS[SHORT].startswith(events[-1][1]["text"])
    client.send("audio-stop")
    client.receive_until("transcript-stop")


def encode(samples: np.ndarray, width: int, channels: int) -> bytes:
    """Return int16 samples as PCM of another width, the same in each channel."""
    wide = (np.repeat(samples.astype(np.int32) << 16, channels)).astype("<i4").view(np.uint8).reshape(-1, 4)
    return wide[:, 4 - width :].tobytes()


@pytest.mark.parametrize(
    ("rate", "width", "channels"), [(48_000, 2, 2), (22_050, 4, 1), (44_100, 3, 2), (16_000, 3, 1)]
)
def test_audio_of_other_formats(client, rate, width, channels):
    data = {"rate": rate, "width": width, "channels": channels}
    client.send("audio-start", data)
    client.send("audio-chunk", data, encode(read_clip(LONG, rate), width, channels))
    client.send("audio-stop")
    check_transcript(client.receive_until("transcript-stop"), TEXTS[LONG])


def test_audio_start_and_data_after_the_header_are_optional(client):
    audio = read_clip(SHORT).tobytes()
    header = {"type": "audio-chunk", "data": PCM, "payload_length": len(audio)}
    client.socket.sendall(json.dumps(header).encode() + b"\n" + audio)
    client.socket.sendall(b'{"type": "audio-')  # an event in two packets
    time.sleep(0.1)
    client.socket.sendall(b'stop"}\n')
    check_transcript(client.receive_until("transcript-stop"), TEXTS[SHORT])


def test_an_utterance_without_audio_has_an_empty_transcript(client):
    client.send("audio-stop")
    check_transcript(client.receive_until("transcript-stop"), "")
    client.send("audio-start", PCM)
    client.send("audio-stop")
    check_transcript(client.receive_until("transcript-stop"), "")


def test_other_events_are_ignored_and_ping_is_answered(client):
    client.send("select-program", {"name": "ds2-jax"})
    client.send("run-satellite")
    client.send("something", {"a": 1}, b"\x00\n" * 100)
    client.send("ping", {"text": "é"})
    assert client.receive() == ("pong", {"text": "é"})


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"GET / HTTP/1.1\r\n", "not JSON"),
        (b"\xff\xfe\n", "not JSON"),
        (b"[]\n", "not a JSON object"),
        (b"[" * 60_000 + b"\n", "nested too deeply" if sys.version_info < (3, 14) else "not JSON"),
        (b"{}\n", "a type"),
        (b'{"type": "ping", "data": 3}\n', "data, which is an object"),
        (b'{"type": "ping", "data_length": 1e12}\n', "data_length is '1000000000000.0': use 0 to"),
        (b'{"type": "ping", "payload_length": -1}\n', "payload_length is '-1'"),
        (b'{"type": "ping", "payload_length": "x"}\n', "payload_length is 'x'"),
        (b'{"type": "ping", "data_length": 2}\n[]', "not a JSON object"),
        (b'{"type": "audio-start"}\n', "rate of the audio is missing"),
        (
            b'{"type": "audio-start", "data": {"rate": 0, "width": 2, "channels": 1}}\n',
            "rate is '0': use 4000 to 192000",
        ),
        (b'{"type": "audio-start", "data": {"rate": 16000, "width": 8, "channels": 1}}\n', "width is '8': use 1 to 4"),
        (b'{"type": "audio-start", "data": {"rate": 16000, "width": 2, "channels": 0}}\n', "channels is '0'"),
        (b'{"type": "transcribe", "data": {"language": "de"}}\n', "language is 'de'"),
        (b"x" * 200_000, "longer than 65536 bytes"),
    ],
)
def test_a_wrong_event_is_answered_by_an_error(ports, client, message, reason):
    client.socket.sendall(message)
    kind, data = client.receive()
    assert (kind, data["code"]) == ("error", "invalid")
    assert reason in data["text"]
    assert client.receive() is None
    assert no_sessions(ports)


def test_a_change_of_the_rate_is_an_error(ports, client):
    client.send("audio-start", PCM)
    client.send("audio-chunk", PCM | {"rate": 8000}, bytes(100))
    assert "from 16000 to 8000 Hz" in client.receive_until("error")[-1][1]["text"]
    wait_until(lambda: no_sessions(ports), 5)


def test_a_session_too_many_is_refused_and_may_try_again(ports):
    clients = [Client(ports[1]) for _ in range(5)]
    for client in clients[:4]:
        client.send("audio-start", PCM)
        assert client.receive() == ("transcript-start", {})
    clients[4].send_audio(read_clip(LONG))
    kind, data = clients[4].receive() or ("", {})
    assert (kind, data["code"]) == ("error", "overloaded")
    assert "4 sessions are in use" in data["text"]
    for client in clients:
        client.__exit__()
    wait_until(lambda: no_sessions(ports), 10)
    with Client(ports[1]) as client:
        client.send_audio(read_clip(SHORT))
        check_transcript(client.receive_until("transcript-stop"), TEXTS[SHORT])


def test_a_client_that_breaks_off_is_freed(ports, client):
    client.send("audio-start", PCM)
    client.send("audio-chunk", PCM, read_clip(LONG).tobytes())
    assert client.receive() == ("transcript-start", {})
    assert not no_sessions(ports)
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # reset
    client.__exit__()
    wait_until(lambda: no_sessions(ports), 10)


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads the timers of Linux")
def test_the_system_looks_for_clients_that_have_vanished(ports, client):
    client.send("ping")
    client.receive()

    def timers() -> list[float]:
        """Return seconds until the keepalive timers of the server's sockets."""
        seconds = []
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            _, local, _, state, _, timer, *_ = line.split()
            if int(local.partition(":")[2], 16) == ports[1] and state == "01" and timer.startswith("02:"):
                seconds.append(int(timer[3:], 16) / 100)
        return seconds

    wait_until(lambda: len(timers()) >= 1, 5)
    assert max(timers()) <= 4.1


def send_until_blocked(client: Client) -> None:
    """Send pings, without reading the answers, until the server no longer takes them."""
    client.socket.settimeout(1)
    ping = b'{"type": "ping", "data": {"text": "' + b"x" * 60_000 + b'"}}\n'
    with contextlib.suppress(TimeoutError):
        for _ in range(1000):
            client.socket.sendall(ping)
        raise AssertionError("the server takes 60 MB")


def test_a_client_that_does_not_read_slows_nobody_else(ports):
    with Client(ports[1]) as slow, Client(ports[1]) as other:
        send_until_blocked(slow)
        other.send_audio(read_clip(SHORT))
        check_transcript(other.receive_until("transcript-stop"), TEXTS[SHORT])


@pytest.mark.slow
def test_a_client_that_does_not_read_is_cut_off(client):
    send_until_blocked(client)
    time.sleep(12)
    with pytest.raises(ConnectionError):
        client.socket.sendall(b"x" * 10_000_000)


@pytest.mark.slow
def test_a_client_that_does_nothing_is_told_and_freed(ports, client):
    client.send("audio-start", PCM)
    client.receive()
    started = time.monotonic()
    kind, data = client.receive()
    assert (kind, data["code"]) == ("error", "timeout")
    assert 25 < time.monotonic() - started < 40
    wait_until(lambda: no_sessions(ports), 5)


@pytest.mark.slow
def test_the_server_stops_although_clients_are_connected(tmp_path):
    port = free_port()
    with contextlib.ExitStack() as clients:
        with logged_server(tmp_path / "log", f"--wyoming_port={port}", "--config.serve.stop_s=1"):
            idle, speaking = clients.enter_context(Client(port)), clients.enter_context(Client(port))
            idle.send("ping")
            assert idle.receive() == ("pong", {"text": None})
            speaking.send("audio-start", PCM)
            assert speaking.receive() == ("transcript-start", {})
        assert idle.receive() is None
        assert speaking.receive() is None


HEADERS = st.binary() | wrong_objects("type", "data", "data_length", "payload_length").map(str.encode)


def check_header(line: bytes) -> None:
    """A header is understood or refused by ValueError; what is understood is within the limits."""
    try:
        header = parse_header(line)
    except ValueError:
        return
    assert isinstance(header, Header)
    assert 0 <= header.data_length <= 1 << 20
    assert 0 <= header.payload_length <= 1 << 22


@given(HEADERS)
@settings(max_examples=1000, deadline=None)
def test_a_header_is_understood_or_refused(line):
    check_header(line)


@pytest.mark.slow
@given(HEADERS)
@settings(max_examples=100_000, deadline=None)
def test_many_headers_are_understood_or_refused(line):
    check_header(line)


@pytest.mark.slow
@given(wrong_objects("rate", "width", "channels"))
@settings(max_examples=100_000, deadline=None)
def test_many_formats_are_understood_or_refused(text):
    try:
        audio = parse_format(json.loads(text))
    except ValueError:
        return
    assert 4000 <= audio.rate <= 192_000
    assert audio.width in (1, 2, 3, 4)
    assert 1 <= audio.channels <= 16


class Stub:
    """Service and session at once: takes audio, and recognises nothing."""

    def __init__(self):
        self.recogniser = SimpleNamespace(meta=SimpleNamespace(language="en"))
        self.opened = 0

    def open(self, rate_hz: int, protocol: str) -> "Stub":
        assert 4000 <= rate_hz <= 192_000
        self.opened += 1
        return self

    def close(self, session: "Stub") -> None:
        self.opened -= 1

    async def send(self, samples: np.ndarray) -> None:
        assert samples.ndim == 2

    def finish(self) -> None:
        pass

    async def events(self):
        for _ in ():
            yield


class Wire(Connection):
    """A connection on which bytes have arrived; what is written is an event."""

    def __init__(self, arrived: bytes):
        self._reader = asyncio.StreamReader(1 << 16)
        self._reader.feed_data(arrived)
        self._reader.feed_eof()

    async def write(self, data: bytes) -> None:
        parse_header(data[: data.index(b"\n") + 1])


async def check_events(arrived: bytes) -> None:
    """Events are answered or refused, and the session is freed."""
    service = Stub()
    client = wyoming._Client(cast("Service", service), "model", Wire(arrived))
    with contextlib.suppress(ValueError, EOFError):
        await client.run()
    client.close()
    assert service.opened == 0


KINDS = ("describe", "ping", "transcribe", "audio-start", "audio-chunk", "audio-stop", "other")
NAMES_OF_DATA = ("rate", "width", "channels", "language", "text")
RIGHT: st.SearchStrategy[dict] = st.just(PCM) | st.builds(
    dict, rate=st.integers(3999, 192_001), width=st.integers(0, 5), channels=st.integers(0, 17)
)
ANY = wrong_objects(*NAMES_OF_DATA).map(json.loads)
NESTED = st.integers(1, 2000).map(
    lambda depth: b'{"type": "ping", "data": {"text": ' + b"[" * depth + b"]" * depth + b"}}\n"
)


def event(kind: str, data: dict, payload: bytes, inside: bool, missing: int) -> bytes:
    values = b"" if inside else json.dumps(data).encode()
    lengths = {"data_length": len(values), "payload_length": max(0, len(payload) - missing)}
    return (
        json.dumps({"type": kind, **lengths, **({"data": data} if inside else {})}).encode() + b"\n" + values + payload
    )


EVENT = st.builds(
    event, st.sampled_from(KINDS), RIGHT | ANY, st.binary(max_size=40), st.booleans(), st.sampled_from([0, 0, 0, 1, -1])
)
ARRIVED = st.lists(EVENT | NESTED | st.binary(max_size=9), max_size=6).map(b"".join)


@given(ARRIVED)
@settings(max_examples=200, deadline=None)
def test_any_events_are_answered_or_refused(arrived):
    asyncio.run(check_events(arrived))


@pytest.mark.slow
@given(ARRIVED)
@settings(max_examples=100_000, deadline=None)
def test_any_of_many_events_are_answered_or_refused(arrived):
    asyncio.run(check_events(arrived))


@given(st.binary(max_size=60), st.integers(1, 4), st.integers(1, 5))
@settings(max_examples=500, deadline=None)
def test_samples_are_little_endian_signed_integers(payload, width, channels):
    samples = to_samples(payload, AudioFormat(16_000, width, channels))
    values = [
        int.from_bytes(payload[at : at + width], "little", signed=True)
        for at in range(0, len(payload) // (width * channels) * width * channels, width)
    ]
    scale = 256 if width == 3 else 1  # three bytes come as the upper ones of four
    assert samples.shape == (len(values) // channels, channels)
    assert (samples.ravel() // scale).tolist() == values


def test_an_event_can_be_parsed():
    line, _, data = format_event("transcript", text="é\n").partition(b"\n")
    assert parse_header(line) == Header("transcript", {}, len(data))
    assert json.loads(data) == {"text": "é\n"}


LIBRARY = """
import asyncio, sys, wave
from wyoming.asr import Transcribe, Transcript, TranscriptChunk, TranscriptStart, TranscriptStop
from wyoming.audio import AudioStart, AudioStop, wav_to_chunks
from wyoming.client import AsyncTcpClient
from wyoming.info import Describe, Info

async def main():
    async with AsyncTcpClient("127.0.0.1", int(sys.argv[1]), read_timeout=30) as client:
        await client.write_event(Describe().event())
        info = Info.from_event(await client.read_event())
        print(info.asr[0].supports_transcript_streaming, info.asr[0].models[0].name)
        await client.write_event(Transcribe(language="en").event())
        with wave.open(sys.argv[2]) as wav:
            for chunk in wav_to_chunks(wav, 1024, start_event=True, stop_event=True):
                await client.write_event(chunk.event())
        text = ""
        while not TranscriptStop.is_type((event := await client.read_event()).type):
            if TranscriptChunk.is_type(event.type):
                text += TranscriptChunk.from_event(event).text
            elif Transcript.is_type(event.type):
                assert Transcript.from_event(event).text == text
        print(text)

asyncio.run(main())
"""


@pytest.mark.slow
def test_the_library_and_its_benchmark(ports, tmp_path):
    python = install(tmp_path / "venv", "wyoming", "wyoming-bench")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for name, text in TEXTS.items():
        soundfile.write(corpus / Path(name).with_suffix(".wav"), read_clip(name), RATE_HZ)
        (corpus / name).with_suffix(".txt").write_text(text)
    wav = str((corpus / LONG).with_suffix(".wav"))
    command = [python, "-c", LIBRARY, str(ports[1]), wav]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100).stdout
    assert printed.splitlines() == ["True an4", TEXTS[LONG]]

    bench = [str(Path(python).with_name("wyoming-bench")), "stt", f"127.0.0.1:{ports[1]}"]
    command = [*bench, "--corpus", str(corpus), "--rounds", "1", "--warmup", "0"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout
    assert re.findall(r"ok=(\d+) fail=(\d+)", printed) == [(str(len(TEXTS)), "0")] * 2, printed  # both modes
    rates = [float(rate) for rate in re.findall(r"WER=([\d.]+)%", printed)]
    assert len(rates) >= 2
    assert max(rates) < 5
