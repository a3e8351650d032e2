"""The protocol of vosk-server, spoken to a real server; with vosk's own clients in the slow tests."""

import asyncio
import json
import subprocess

import aiohttp
import numpy as np
import pytest
import soundfile
from aiohttp import WSMsgType
from hypothesis import given, settings
from hypothesis import strategies as st

from decoding.hypothesis import Hypothesis, Word
from ds2_jax.recognition.stream import Segment
from ds2_jax.serving.protocols.vosk import Command, Options, format_final, format_partial, parse_command
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
from tests.runs import wait_until

CONFIG = '{ "config" : { "sample_rate" : 16000.000000 } }'
EOF = '{"eof" : 1}'
TIMEOUT_S = 60


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Host and port of a server for four sessions."""
    with logged_server(tmp_path_factory.mktemp("server") / "log") as (host, port):
        yield host, port


def pieces(samples: np.ndarray, rate_hz: int = RATE_HZ) -> list[bytes]:
    """Cut samples into messages of 0.2 s, as vosk's clients do."""
    size = rate_hz // 5
    return [samples[start : start + size].tobytes() for start in range(0, len(samples), size)]


def silence(seconds: float) -> np.ndarray:
    """Return digital silence, int16."""
    return np.zeros(int(seconds * RATE_HZ), np.int16)


async def send(socket: aiohttp.ClientWebSocketResponse, message: str | bytes) -> None:
    """Send a message of its type."""
    await (socket.send_str(message) if isinstance(message, str) else socket.send_bytes(message))


def talk(address, *messages: str | bytes) -> tuple[list[dict], int, str]:
    """Send messages without waiting for replies; return all replies, and code and reason of the close."""

    async def run():
        async with (
            aiohttp.ClientSession() as client,
            client.ws_connect("http://{}:{}/".format(*address), max_msg_size=0) as socket,
        ):
            for message in messages:
                await send(socket, message)
            replies = []
            while (reply := await socket.receive(TIMEOUT_S)).type == WSMsgType.TEXT:
                replies.append(json.loads(reply.data))
            return replies, socket.close_code, str(reply.extra or "")

    return asyncio.run(run())


def test_each_message_has_one_reply_and_the_last_one_is_final(address):
    audio = pieces(read_clip(LONG))
    replies, code, _ = talk(address, CONFIG, *audio, EOF)
    assert len(replies) == len(audio) + 1
    assert code == 1000
    assert all(set(reply) == {"partial"} for reply in replies[:-1])
    assert len({reply["partial"] for reply in replies[:-1]}) > 3  # they grow
    assert TEXTS[LONG].startswith(replies[-2]["partial"])
    final = replies[-1]
    assert final["text"] == TEXTS[LONG]
    assert [word["word"] for word in final["result"]] == TEXTS[LONG].split()
    for word, after in zip(final["result"], final["result"][1:], strict=False):
        assert 0 <= word["start"] < word["end"] <= after["start"] < 3.7
    assert all(0 < word["conf"] <= 1 for word in final["result"])


def test_a_reply_has_all_of_its_message(address):
    replies, _, _ = talk(address, CONFIG, read_clip(LONG).tobytes(), EOF)
    assert len(replies) == 2
    assert len(replies[0]["partial"]) >= len(TEXTS[LONG]) // 2  # all but what the network needs to see ahead


def test_the_default_rate_is_8000(address):
    replies, _, _ = talk(address, *pieces(read_clip(LONG, 8000), 8000), EOF)
    assert len(replies[-1]["text"].split()) >= 6  # half of the spectrum is missing: not all letters are right
    assert replies[-1]["result"][-1]["end"] == pytest.approx(3.5, abs=0.3)


def test_silence_ends_an_utterance(address):
    audio = np.concatenate([read_clip(SHORT), silence(2), read_clip(LONG)])
    replies, _, _ = talk(address, CONFIG, *pieces(audio), EOF)
    finals = [reply for reply in replies if "text" in reply]
    assert [finals[0]["text"], finals[-1]["text"]] == [TEXTS[SHORT], TEXTS[LONG]]
    assert finals[-1]["result"][0]["start"] > 4  # times are those of the whole stream
    assert len(replies) == len(pieces(audio)) + 1


def test_utterances_in_one_message_are_one_result(address):
    audio = np.concatenate([read_clip(SHORT), silence(2), read_clip(SHORT), silence(2)])
    replies, _, _ = talk(address, CONFIG, audio.tobytes(), EOF)
    assert len(replies) == 2
    text = replies[0]["text"]
    assert text.startswith(TEXTS[SHORT])
    assert text.removeprefix(TEXTS[SHORT]).endswith(" " + TEXTS[SHORT])
    assert [word["word"] for word in replies[0]["result"]] == text.split()


@pytest.mark.parametrize("reset", ['{"reset":1}', ' { "reset" :  1 } ', b'{"reset" : 1}'])
def test_reset_gives_the_result_so_far_and_goes_on(address, reset):
    audio = pieces(read_clip(SHORT))
    replies, code, _ = talk(address, CONFIG, *audio, reset, *audio, '{"eof":1}')
    assert len(replies) == 2 * len(audio) + 2
    first, last = replies[len(audio)], replies[-1]
    assert [first["text"], last["text"]] == [TEXTS[SHORT]] * 2
    assert last["result"][0]["start"] > first["result"][-1]["end"]
    assert code == 1000


@pytest.mark.parametrize("count", [2, 3])
def test_alternatives_are_different_and_the_best_comes_first(count, address):
    config = f'{{"config": {{"sample_rate": 16000, "max_alternatives": {count}, "words": true}}}}'
    replies, _, _ = talk(address, config, read_clip(LONG).tobytes(), EOF)
    alternatives = replies[-1]["alternatives"]
    assert set(replies[-1]) == {"alternatives"}
    assert alternatives[0]["text"] == TEXTS[LONG]
    assert len({alternative["text"] for alternative in alternatives}) == count
    scores = [alternative["confidence"] for alternative in alternatives]
    assert scores == sorted(scores, reverse=True)
    assert [word["word"] for word in alternatives[1]["result"]] == alternatives[1]["text"].split()


def test_words_can_be_left_out(address):
    config = '{"config": {"sample_rate": "16000", "words": false, "phrase_list": ["one"], "model": "other"}}'
    replies, _, _ = talk(address, config, read_clip(SHORT).tobytes(), EOF)
    assert replies[-1] == {"text": TEXTS[SHORT]}


def test_without_audio_the_result_is_empty(address):
    assert talk(address, EOF) == ([{"text": ""}], 1000, "")
    assert (
        talk(address, '{"config": {"max_alternatives": 2}}', '{"reset": 1}', EOF)[0]
        == [{"alternatives": [{"confidence": 1.0, "text": ""}]}] * 2
    )


def test_empty_and_odd_messages_have_a_reply(address):
    replies, code, _ = talk(address, CONFIG, b"", b"x", b"xyz", EOF)
    assert replies == [{"partial": ""}] * 3 + [{"text": ""}]
    assert code == 1000


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("garbage", "not JSON"),
        ("[1]", "not a JSON object"),
        ("[" * 100_000, "nested too deeply"),
        ('{"text": 1}', "send audio"),
        ('{"config": 3}', "not an object"),
        ('{"config": {"sample_rate": 1}}', "sample_rate is '1': use 4000 to 192000"),
        ('{"config": {"sample_rate": 1e999}}', "sample_rate is 'inf'"),
        ('{"config": {"sample_rate": "\\ud800"}}', "sample_rate is"),
        ('{"config": {"max_alternatives": null}}', "max_alternatives is 'None'"),
    ],
)
def test_a_wrong_message_is_refused_with_a_reason(address, message, reason):
    replies, code, text = talk(address, message)
    assert (replies, code) == ([], 1003)
    assert reason in text


def close_code_of(address: tuple[str, int], frame: bytes) -> int | None:
    """Return the code with which the server closes after audio and then these bytes."""

    async def run() -> int | None:
        async with (
            aiohttp.ClientSession() as client,
            client.ws_connect("http://{}:{}/".format(*address)) as socket,
        ):
            await socket.send_bytes(b"ab")
            await socket.receive(TIMEOUT_S)
            socket._response.connection.transport.write(frame)  # type: ignore[union-attr]
            await socket.receive(TIMEOUT_S)
            return socket.close_code

    return asyncio.run(run())


def test_a_gigantic_message_is_refused(address):
    """A frame that announces 3 MiB is refused before they are sent."""
    assert close_code_of(address, b"\x82\xff" + (3 << 20).to_bytes(8, "big") + bytes(4)) == 1009
    wait_until(lambda: count_sessions(*address) == 0, 10)


@pytest.mark.parametrize(
    ("frame", "code"),
    [(b"\x81\x82\0\0\0\0\xff\xfe", 1007), (b"\x8b\x80\0\0\0\0", 1002), (b"\xff" * 40, 1002)],
    ids=["text that is not UTF-8", "unknown opcode", "garbage"],
)
def test_a_broken_frame_is_refused(address, frame, code):
    assert close_code_of(address, frame) == code
    wait_until(lambda: count_sessions(*address) == 0, 10)


def test_a_session_too_many_is_refused_and_may_try_again(address):
    async def run() -> tuple[int | None, str]:
        async with aiohttp.ClientSession() as client:
            url = "http://{}:{}/".format(*address)
            sockets = [await client.ws_connect(url) for _ in range(5)]
            for socket in sockets[:4]:
                await socket.send_bytes(b"ab")
                assert (await socket.receive(TIMEOUT_S)).type == WSMsgType.TEXT
            await sockets[4].send_bytes(b"ab")
            refusal = await sockets[4].receive(TIMEOUT_S)
            for socket in sockets:
                await socket.close()
            return sockets[4].close_code, str(refusal.extra)

    code, reason = asyncio.run(run())
    assert code == 1013
    assert "4 sessions are in use" in reason
    wait_until(lambda: count_sessions(*address) == 0, 10)
    assert talk(address, CONFIG, read_clip(SHORT).tobytes(), EOF)[0][-1]["text"] == TEXTS[SHORT]


def test_a_client_that_breaks_off_is_freed(address):
    async def run() -> None:
        async with aiohttp.ClientSession() as client:
            socket = await client.ws_connect("http://{}:{}/".format(*address))
            await socket.send_bytes(b"ab")
            await socket.receive(TIMEOUT_S)
            assert count_sessions(*address) == 1
            socket._response.connection.transport.abort()  # type: ignore[union-attr]

    asyncio.run(run())
    wait_until(lambda: count_sessions(*address) == 0, 10)


def segment(*texts: str, start_s: float = 0.0) -> Segment:
    """Return a segment with an hypothesis for each text, of words that last a second."""
    nbest = [
        Hypothesis(text, [Word(word, float(n), n + 1.0, 0.5) for n, word in enumerate(text.split())], 0.5, -float(rank))
        for rank, text in enumerate(texts)
    ]
    words = [Word(word.text, word.start_s + start_s, word.end_s + start_s, 0.5) for word in nbest[0].words]
    return Segment(texts[0], words, 0.5, start_s, start_s + 5, "silence", nbest)


def test_results_look_as_those_of_vosk():
    assert format_partial("éin") == '{\n  "partial" : "éin"\n}'
    assert format_final([segment("a")], Options()) == (
        '{\n  "result" : [\n    {\n      "conf" : 0.5,\n      "end" : 1.0,\n      "start" : 0.0,\n      "word" : "a"\n'
        '    }\n  ],\n  "text" : "a"\n}'
    )


def test_alternatives_of_several_segments_are_joined_by_rank():
    segments = [segment("a b", "c"), segment(""), segment("d", start_s=10)]
    result = json.loads(format_final(segments, Options(max_alternatives=5)))
    assert [(entry["text"], entry["confidence"]) for entry in result["alternatives"]] == [("a b d", 0), ("c d", -1)]
    assert [word["start"] for word in result["alternatives"][0]["result"]] == [0, 1, 10]
    one = json.loads(format_final(segments, Options(max_alternatives=1, words=False)))
    assert one == {"alternatives": [{"confidence": 0.0, "text": "a b d"}]}


NAMES = ("config", "eof", "reset", "sample_rate", "words", "max_alternatives", "phrase_list")
MESSAGES = st.text() | st.binary() | wrong_objects(*NAMES)


def check_parser(message: str | bytes) -> None:
    """A message is understood or refused by ValueError; what is understood can be used."""
    try:
        command = parse_command(message, Options())
    except ValueError:
        return
    assert isinstance(command, Command)
    if command.options is not None:
        assert 4000 <= command.options.sample_rate <= 192_000
        assert type(command.options.sample_rate) is int
        assert command.options.max_alternatives >= 0


@given(MESSAGES)
@settings(max_examples=1000, deadline=None)
def test_the_parser_understands_or_refuses(message):
    check_parser(message)


@pytest.mark.slow
@given(MESSAGES)
@settings(max_examples=100_000, deadline=None)
def test_the_parser_understands_or_refuses_many(message):
    check_parser(message)


TEST_PY = """
import asyncio, sys, wave
import websockets

async def run_test(uri):
    async with websockets.connect(uri) as websocket:
        wf = wave.open(sys.argv[2], "rb")
        await websocket.send('{ "config" : { "sample_rate" : %d } }' % (wf.getframerate()))
        buffer_size = int(wf.getframerate() * 0.2)
        while True:
            data = wf.readframes(buffer_size)
            if len(data) == 0:
                break
            await websocket.send(data)
            print(repr(await websocket.recv()))
        await websocket.send('{"eof" : 1}')
        print(repr(await websocket.recv()))

asyncio.run(run_test(sys.argv[1]))
"""

TRANSCRIBER = """
import argparse, asyncio, subprocess, sys
from vosk.transcriber.transcriber import Transcriber

async def main():
    transcriber = Transcriber.__new__(Transcriber)  # its constructor loads a model, also to use a server
    transcriber.args = argparse.Namespace(server=sys.argv[1], output_type=sys.argv[3])
    cat = await asyncio.create_subprocess_exec("cat", sys.argv[2], stdout=subprocess.PIPE)  # in place of ffmpeg
    result, _ = await transcriber.recognize_stream_server(cat)
    print(transcriber.format_result(result))
    await cat.wait()

asyncio.run(main())
"""


@pytest.mark.slow
def test_real_clients_of_vosk(address, tmp_path):
    python = install(tmp_path / "venv", "websockets", "vosk")
    url = "ws://{}:{}".format(*address)
    soundfile.write(tmp_path / "a.wav", read_clip(LONG), RATE_HZ)
    command = [python, "-c", TEST_PY, url, str(tmp_path / "a.wav")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100).stdout.splitlines()
    assert len(printed) == len(pieces(read_clip(LONG))) + 1
    assert f'"text" : "{TEXTS[LONG]}"' in printed[-1]

    (tmp_path / "a.raw").write_bytes(np.concatenate([read_clip(SHORT), silence(2), read_clip(LONG)]).tobytes())
    results = {}
    for kind in ("txt", "srt"):
        command = [python, "-c", TRANSCRIBER, url, str(tmp_path / "a.raw"), kind]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr
        results[kind] = done.stdout.split("\n")
    lines = list(filter(None, results["txt"]))
    assert [lines[0], lines[-1]] == [TEXTS[SHORT], TEXTS[LONG]]  # one line a result
    assert TEXTS[SHORT] in results["srt"]
