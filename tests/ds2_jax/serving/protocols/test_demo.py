"""The protocol of the original's demo client, spoken to a real server."""

import contextlib
import socket
import struct
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ds2_jax.serving.protocols.demo import LONGEST_S, RATE_HZ, parse_header
from input_pipeline.audio import AudioError
from tests.ds2_jax.serving.speech import LONG, SHORT, TEXTS, count_sessions, logged_server, read_clip
from tests.runs import free_port, wait_until


@pytest.fixture(scope="module")
def ports(tmp_path_factory):
    """Ports of the HTTP and the demo side of a server for four sessions."""
    demo = free_port()
    with logged_server(tmp_path_factory.mktemp("server") / "log", f"--demo_port={demo}") as (_, port):
        yield port, demo


def record(name: str) -> bytes:
    """Return a clip as the client records it: 32 bits."""
    return (read_clip(name, RATE_HZ).astype("<i4") << 16).tobytes()


def ask(ports, message: bytes) -> bytes:
    """Send a message and return all of the reply, up to the end of the connection."""
    with socket.create_connection(("127.0.0.1", ports[1]), timeout=60) as client:
        client.sendall(message)
        reply = b""
        while piece := client.recv(1024):
            reply += piece
        return reply


def no_sessions(ports) -> bool:
    """Tell whether no session is open."""
    return count_sessions("127.0.0.1", ports[0]) == 0


def test_an_utterance_is_transcribed(ports):
    audio = record(LONG)
    assert ask(ports, struct.pack(">i", len(audio)) + audio).decode() == TEXTS[LONG]


def test_utterances_at_the_same_time(ports):
    names, replies = (LONG, SHORT) * 2, {}

    def talk(number: int) -> None:
        audio = record(names[number])
        replies[number] = ask(ports, struct.pack(">i", len(audio)) + audio).decode()

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(len(names))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [replies[number] for number in range(len(names))] == [TEXTS[name] for name in names]


def test_an_incomplete_last_sample_is_left_out(ports):
    audio = record(SHORT) + b"xyz"
    assert ask(ports, struct.pack(">i", len(audio)) + audio).decode() == TEXTS[SHORT]


def test_what_follows_the_audio_does_not_cost_the_reply(ports):
    audio = record(SHORT)
    assert ask(ports, struct.pack(">i", len(audio)) + audio + bytes(1 << 20)).decode() == TEXTS[SHORT]


@pytest.mark.parametrize("length", [0, -1, -(2**31), 2**31 - 1, LONGEST_S * RATE_HZ * 4 + 1])
def test_a_length_without_meaning_is_answered_by_nothing_at_once(ports, length):
    started = time.monotonic()
    assert ask(ports, struct.pack(">i", length)) == b""
    assert time.monotonic() - started < 10
    assert no_sessions(ports)


def test_clients_that_leave_early_are_freed(ports):
    for message in (b"", b"\x00", struct.pack(">i", 64_000), struct.pack(">i", 64_000) + bytes(1000)):
        with socket.create_connection(("127.0.0.1", ports[1]), timeout=60) as client:
            client.sendall(message)
    wait_until(lambda: no_sessions(ports), 10)


def test_a_session_too_many_is_closed(ports):
    waiting = [socket.create_connection(("127.0.0.1", ports[1]), timeout=60) for _ in range(4)]
    for client in waiting:
        client.sendall(struct.pack(">i", 64_000))
    wait_until(lambda: count_sessions("127.0.0.1", ports[0]) == 4, 10)
    with socket.create_connection(("127.0.0.1", ports[1]), timeout=60) as client:
        client.sendall(struct.pack(">i", 64_000))
        assert client.recv(1024) == b""
    for client in waiting:
        client.close()
    wait_until(lambda: no_sessions(ports), 10)


def test_a_connection_too_many_is_closed_at_once(ports):
    with contextlib.ExitStack() as stack:
        *_, one_more = [
            stack.enter_context(socket.create_connection(("127.0.0.1", ports[1]), timeout=10))
            for _ in range(2 * 4 + 1)  # twice as many as sessions may wait
        ]
        with contextlib.suppress(ConnectionResetError):
            assert one_more.recv(1) == b""


@pytest.mark.slow
def test_a_client_that_stops_sending_is_closed(ports):
    audio, started = record(LONG), time.monotonic()
    assert ask(ports, struct.pack(">i", len(audio)) + audio[:-1]) == b""
    assert 25 < time.monotonic() - started < 40
    assert no_sessions(ports)


def check_header(header: bytes) -> None:
    """A length is within the limit or refused."""
    [length] = struct.unpack(">i", header)
    if 0 <= length <= LONGEST_S * RATE_HZ * 4:
        assert parse_header(header) == length
    else:
        with pytest.raises(AudioError, match=f"{length} bytes"):
            parse_header(header)


HEADERS = st.binary(min_size=4, max_size=4) | st.integers(0, 10**8).map(lambda value: struct.pack(">i", value))


@given(HEADERS)
@settings(max_examples=1000, deadline=None)
def test_a_length_is_understood_or_refused(header):
    check_header(header)


@pytest.mark.slow
@given(HEADERS)
@settings(max_examples=100_000, deadline=None)
def test_many_lengths_are_understood_or_refused(header):
    check_header(header)


@pytest.mark.slow
def test_random_bytes_do_no_harm(ports):
    random = np.random.default_rng(0)
    for _ in range(300):
        with socket.create_connection(("127.0.0.1", ports[1]), timeout=60) as client:
            client.sendall(random.bytes(int(random.integers(0, 5000))))
    wait_until(lambda: no_sessions(ports), 10)
    audio = record(SHORT)
    assert ask(ports, struct.pack(">i", len(audio)) + audio).decode() == TEXTS[SHORT]
