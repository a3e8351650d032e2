"""OpenAI's realtime transcription: events and items; aiohttp's client, and the official one (slow)."""

import asyncio
import base64
import contextlib
import io
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from ds2_jax.recognition.stream_settings import EndpointSettings, StreamSettings
from ds2_jax.serving.protocols.openai_events import (
    G711,
    PCM,
    TYPES,
    Configuration,
    Detection,
    EventError,
    decode_samples,
    describe,
    parse_event,
    update,
)
from tests.conftest import CLIPS
from tests.ds2_jax.serving.protocols.test_openai_http import openai_python  # noqa: F401 (a fixture)
from tests.servers import server

HZ = 24_000
TEXTS = {"cen1-fmjc-b": "c e l l i o", "cen1-fjdn-b": "n e l s o n"}
NONE = {"type": "transcription", "audio": {"input": {"turn_detection": None}}}
TRANSCRIPTION = "conversation.item.input_audio_transcription"
BOTH = {f"{TRANSCRIPTION}.completed", "error"}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    flags = ("--config.decode.beam_size=20", "--config.decode.threshold=5")  # with a narrow beam, words settle early
    with server("--config.serve.sessions=4", *flags) as (host, port):
        yield f"http://{host}:{port}/v1/realtime?intent=transcription"


def read(name: str, rate_hz: int = HZ) -> np.ndarray:
    """Return a clip [N] int16."""
    samples, own_rate_hz = soundfile.read(CLIPS / f"{name}.flac", dtype="float32")
    return (soxr.resample(samples, own_rate_hz, rate_hz) * 32767).astype("<i2")


def silence(seconds: float) -> np.ndarray:
    return np.zeros(int(seconds * HZ), "<i2")


class Client:
    """A connection; events that were received are kept."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse):
        self.socket, self.events = socket, list[dict]()

    async def send(self, kind: str, **values) -> None:
        await self.socket.send_json({"type": kind, **values})

    async def append(self, *audio: np.ndarray | bytes, size: int = 4_800) -> None:
        content = b"".join(bytes(piece) for piece in audio)
        for start in range(0, len(content), size):
            piece = content[start : start + size]
            await self.send("input_audio_buffer.append", audio=base64.b64encode(piece).decode())

    async def until(self, *kinds: str) -> dict:
        """Return the next event of these types."""
        async with asyncio.timeout(60):
            while True:
                event = await self.socket.receive_json()
                self.events.append(event)
                if event["type"] in kinds:
                    return event

    async def item(self) -> str:
        """Return the transcript of the next item."""
        return (await self.until(*BOTH))["transcript"]

    async def error(self) -> dict:
        return (await self.until(*BOTH))["error"]


def converse(url: str, talk, **options):
    """Run a coroutine with a connection; return its result."""

    async def run():
        async with aiohttp.ClientSession() as client, client.ws_connect(url, **options) as socket:
            return await talk(Client(socket))

    return asyncio.run(run())


def test_speech_becomes_an_item_with_its_events_in_order(url):
    async def talk(client: Client):
        await client.append(silence(0.5), read("cen1-fmjc-b"), silence(3))
        assert await client.item() == TEXTS["cen1-fmjc-b"]
        return client.events

    created, *events = converse(url, talk)
    assert created["type"] == "session.created"
    assert created["session"]["type"] == "transcription"
    assert created["session"]["audio"]["input"]["format"] == {"type": "audio/pcm", "rate": 24000}
    kinds = [event["type"] for event in events]
    assert kinds[0] == "input_audio_buffer.speech_started"
    assert kinds[-1] == f"{TRANSCRIPTION}.completed"
    others = [kind for kind in kinds[1:-1] if kind != f"{TRANSCRIPTION}.delta"]
    assert others == ["input_audio_buffer.speech_stopped", "input_audio_buffer.committed"]
    assert len({event["item_id"] for event in events}) == 1
    assert len({event["event_id"] for event in [created, *events]}) == len(events) + 1
    deltas = [event["delta"] for event in events if event["type"] == f"{TRANSCRIPTION}.delta"]
    assert "".join(deltas) == TEXTS["cen1-fmjc-b"]
    assert len(deltas) > 2
    [stopped] = [event for event in events if event["type"].endswith("stopped")]
    assert 300 <= events[0]["audio_start_ms"] <= 1000  # speech starts at 1 s; 300 ms before belong to the item
    assert 3000 <= stopped["audio_end_ms"] <= 5500
    assert events[-1]["usage"] == {"type": "duration", "seconds": stopped["audio_end_ms"] / 1000}


def test_a_second_item_follows_the_first(url):
    async def talk(client: Client):
        await client.append(read("cen1-fmjc-b"), silence(3), read("cen1-fjdn-b"), silence(3))
        texts = [await client.item(), await client.item()]
        committed = [event for event in client.events if event["type"].endswith("committed")]
        started = [event for event in client.events if event["type"].endswith("speech_started")]
        return texts, committed, started

    texts, (first, second), started = converse(url, talk)
    assert texts == list(TEXTS.values())
    assert first["previous_item_id"] is None
    assert second["previous_item_id"] == first["item_id"] != second["item_id"]
    assert [event["item_id"] for event in started] == [first["item_id"], second["item_id"]]
    assert 4500 < started[1]["audio_start_ms"] < 7000


def test_without_turn_detection_only_a_commit_ends_an_item(url):
    async def talk(client: Client):
        await client.send("session.update", session=NONE)
        await client.append(read("cen1-fmjc-b"), silence(3), read("cen1-fjdn-b"), silence(3))
        await client.send("input_audio_buffer.commit")
        await client.append(read("cen1-fjdn-b"))
        await client.send("input_audio_buffer.commit")
        return [await client.item(), await client.item()], client.events

    texts, events = converse(url, talk)
    assert texts == [" ".join(TEXTS.values()), TEXTS["cen1-fjdn-b"]]
    updated = next(event for event in events if event["type"] == "session.updated")
    assert updated["session"]["audio"]["input"]["turn_detection"] is None
    assert not [event for event in events if "speech_" in event["type"]]
    for text, item in zip(texts, dict.fromkeys(e["item_id"] for e in events if "item_id" in e), strict=True):
        mine = [event for event in events if event.get("item_id") == item]
        assert "".join(event.get("delta", "") for event in mine) == text
        assert [event["type"] for event in mine if "delta" not in event][-2:] == [
            "input_audio_buffer.committed",
            f"{TRANSCRIPTION}.completed",
        ]


def test_a_commit_ends_an_item_with_turn_detection_too(url):
    async def talk(client: Client):
        await client.append(read("cen1-fmjc-b"))
        await client.send("input_audio_buffer.commit")
        return await client.item(), [event["type"] for event in client.events]

    text, kinds = converse(url, talk)
    assert text == TEXTS["cen1-fmjc-b"]
    assert kinds.count("input_audio_buffer.speech_stopped") == 1


def test_cleared_audio_gives_nothing(url):
    async def talk(client: Client):
        await client.send("session.update", session=NONE)
        await client.append(read("cen1-fmjc-b"))
        await client.send("input_audio_buffer.clear")
        await client.until("input_audio_buffer.cleared")
        before = len(client.events)
        await client.append(read("cen1-fjdn-b"))
        await client.send("input_audio_buffer.commit")
        text = await client.item()
        return text, "".join(event.get("delta", "") for event in client.events[before:])

    assert converse(url, talk) == (TEXTS["cen1-fjdn-b"], TEXTS["cen1-fjdn-b"])


def test_a_commit_needs_a_tenth_of_a_second_and_its_refusal_says_how_much_there_is(url):
    async def talk(client: Client):
        await client.append(np.zeros(1_333, "<i2"))  # 55.54 ms
        await client.send("input_audio_buffer.commit")
        error = await client.error()
        await client.append(np.zeros(2_400 - 1_333, "<i2"))
        await client.send("input_audio_buffer.commit")
        return error["message"], await client.item()

    message = "the buffer has 56 ms of audio: append at least 100 ms before a commit"
    assert converse(url, talk) == (message, "")


def test_pieces_may_end_within_a_sample(url):
    async def talk(client: Client):
        await client.append(read("cen1-fmjc-b"), size=3_333)
        await client.send("input_audio_buffer.commit")
        return await client.item()

    assert converse(url, talk) == TEXTS["cen1-fmjc-b"]


def test_audio_of_telephones_is_understood_as_pcm_of_this_rate(url):
    samples = read("cen1-mbmg-b", 8000)

    def talk(kind: str, content: bytes):
        async def run(client: Client):
            given = {"format": {"type": kind, "rate": 8000}, "turn_detection": None}
            await client.send("session.update", session={"audio": {"input": given}})
            await client.append(content)
            await client.send("input_audio_buffer.commit")
            done = await client.until(*BOTH)
            return done["transcript"], round(done["usage"]["seconds"], 1)

        return run

    results = {converse(url, talk("audio/pcm", samples.tobytes()))}
    for kind, subtype in G711.items():
        file = io.BytesIO()
        soundfile.write(file, samples, 8000, format="RAW", subtype=subtype)
        results.add(converse(url, talk(kind, file.getvalue())))
    [(text, seconds)] = results
    assert text.endswith("i e r")  # other letters need higher frequencies
    assert seconds == pytest.approx(len(samples) / 8000, abs=0.1)


def test_the_older_form_of_sessions(url):
    given = {
        "input_audio_format": "pcm16",
        "input_audio_transcription": {"model": "whisper-1", "language": "en", "prompt": "cellio"},
        "turn_detection": {"type": "server_vad", "threshold": 0.4, "silence_duration_ms": 700, "prefix_padding_ms": 0},
    }

    async def talk(client: Client):
        await client.send("transcription_session.update", session=given)
        await client.append(read("cen1-fmjc-b"), silence(3))
        return await client.item(), client.events

    text, (created, updated, *_) = converse(url, talk, headers={"OpenAI-Beta": "realtime=v1"})
    assert text == TEXTS["cen1-fmjc-b"]
    assert (created["type"], updated["type"]) == ("transcription_session.created", "transcription_session.updated")
    assert {name: updated["session"][name] for name in given} == given


def test_browsers_name_subprotocols(url):
    async def talk(client: Client):
        return client.socket.protocol, await client.until("session.created")

    assert converse(url, talk, protocols=("realtime", "openai-insecure-api-key.x"))[0] == "realtime"


def test_settings_may_change_between_items(url):
    """Times go on, and what was said before is an item of its own."""

    async def talk(client: Client):
        await client.append(read("cen1-fmjc-b"))
        prompt = {"input": {"transcription": {"prompt": "nelson"}, "turn_detection": {"silence_duration_ms": 800}}}
        await client.send("session.update", session={"audio": prompt})
        first = await client.item()
        updated = await client.until("session.updated")
        await client.append(silence(1), read("cen1-fjdn-b"), silence(2))
        started = await client.until("input_audio_buffer.speech_started")
        return [first, await client.item()], updated, started

    texts, updated, started = converse(url, talk)
    assert texts == list(TEXTS.values())
    assert updated["session"]["audio"]["input"]["turn_detection"]["silence_duration_ms"] == 800
    assert 3400 < started["audio_start_ms"] < 4500


@pytest.mark.parametrize(
    ("message", "code", "text"),
    [
        ("{", "invalid_json", "not JSON"),
        ("[1]", "invalid_json", "not a JSON object"),
        ("[" * 100_000, "invalid_json", "nested too deeply"),
        ("{}", "invalid_value", "type is None"),
        ('{"type": "response.create", "event_id": "e1"}', "invalid_value", "this server transcribes"),
        ('{"type": "input_audio_buffer.append"}', "invalid_value", "audio is not base64"),
        ('{"type": "input_audio_buffer.append", "audio": "a$=="}', "invalid_value", "audio is not base64"),
        ('{"type": "input_audio_buffer.append", "audio": "日本"}', "invalid_value", "audio is not base64"),
        ('{"type": "input_audio_buffer.commit", "event_id": "e1"}', "input_audio_buffer_commit_empty", "0 ms of audio"),
        ('{"type": "session.update"}', "invalid_value", "session is None"),
        ('{"type": "session.update", "session": {"type": "realtime"}}', "invalid_value", "use 'transcription'"),
        ('{"type": "session.update", "session": {"turn_detection": {"type": "x"}}}', "invalid_value", "'server_vad', or null"),
        ('{"type": "session.update", "session": {"turn_detection": {"threshold": 2}}}', "invalid_value", "use 0 to 1"),
        ('{"type": "session.update", "session": {"turn_detection": {"threshold": NaN}}}', "invalid_value", "use 0 to 1"),
        ('{"type": "session.update", "session": {"input_audio_format": "opus"}}', "invalid_value", "the format is 'opus'"),
        ('{"type": "session.update", "session": {"audio": {"input": {"format": {"rate": 5}}}}}', "invalid_value", "rate is 5"),
        ('{"type": "session.update", "session": {"input_audio_transcription": {"language": "de"}}}', "invalid_value", "'en'"),
        (b"\x00\x01", "invalid_value", "binary messages"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_answered_by_an_error_and_the_session_goes_on(url, message, code, text):
    async def talk(client: Client):
        await (client.socket.send_bytes if isinstance(message, bytes) else client.socket.send_str)(message)
        error = await client.error()
        await client.append(read("cen1-fmjc-b"))
        await client.send("input_audio_buffer.commit")
        assert await client.item() == TEXTS["cen1-fmjc-b"]
        return error

    error = converse(url, talk)
    assert (error["type"], error["code"]) == ("invalid_request_error", code)
    assert text in error["message"]
    assert len(error["message"]) < 400
    assert error["event_id"] == ("e1" if '"e1"' in str(message) else None)


def test_a_gigantic_message_closes_the_connection_with_the_reason(url):
    async def talk(client: Client):
        await client.until("session.created")
        with contextlib.suppress(ConnectionError):
            await client.socket.send_str("x" * (17 << 20))
        message = await client.socket.receive()
        return message.type, message.data

    assert converse(url, talk) == (aiohttp.WSMsgType.CLOSE, 1009)


def test_one_message_may_have_much_audio(url):
    """A mebibyte would be 16 s."""

    async def talk(client: Client):
        await client.send("session.update", session=NONE)
        await client.append(silence(20), read("cen1-fmjc-b"), size=1 << 30)
        await client.send("input_audio_buffer.commit")
        return await client.item()

    assert converse(url, talk) == TEXTS["cen1-fmjc-b"]


def test_a_session_too_many_is_refused_with_the_reason(url):
    async def run():
        async with aiohttp.ClientSession() as client, contextlib.AsyncExitStack() as stack:
            for _ in range(4):
                socket = await stack.enter_async_context(client.ws_connect(url))
                assert (await socket.receive_json())["type"] == "session.created"
            socket = await stack.enter_async_context(client.ws_connect(url))
            error = await socket.receive_json()
            message = await socket.receive()
            return error["error"]["message"], message.type, message.data, message.extra

    text = "all 4 sessions are in use: try again later"
    assert asyncio.run(run()) == (text, aiohttp.WSMsgType.CLOSE, 1013, text)


def test_a_client_that_does_not_read_delays_no_other(url):
    """Its messages are answered by errors, until its buffers are full."""
    host, port = url.removeprefix("http://").partition("/")[0].split(":")
    handshake = (
        "GET /v1/realtime HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )

    async def flood(writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"\x81\x81\0\0\0\0x" * 10_000)  # a text message of one letter
            await asyncio.wait_for(writer.drain(), 1)

    async def run():
        _, writer = await asyncio.open_connection(host, int(port), limit=1024)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(handshake.encode())
        with pytest.raises(TimeoutError):
            await flood(writer)
        async with aiohttp.ClientSession() as client, client.ws_connect(url) as socket:
            other = Client(socket)
            await other.append(read("cen1-fmjc-b"))
            await other.send("input_audio_buffer.commit")
            text = await other.item()
        writer.transport.abort()
        return text

    assert asyncio.run(run()) == TEXTS["cen1-fmjc-b"]


def test_another_intent_is_refused(url):
    async def run():
        async with (
            aiohttp.ClientSession() as client,
            client.get(url.replace("=transcription", "=translation")) as response,
        ):
            return response.status, (await response.json())["error"]["message"]

    status, message = asyncio.run(run())
    assert status == 400
    assert "intent=transcription" in message


OWN = StreamSettings(voice=0.3, endpoint=EndpointSettings(after_text_s=1.1, early_s=0.6))


def test_what_a_client_does_not_set_is_the_servers():
    assert Configuration().stream_settings(OWN) == OWN
    assert describe(Configuration(), OWN, flat=True)["turn_detection"] == {
        "type": "server_vad",
        "threshold": 0.3,
        "prefix_padding_ms": 300,
        "silence_duration_ms": 1100,
    }


def test_the_silence_that_a_client_sets_is_the_only_rule_after_text():
    stream = Configuration(detection=Detection(threshold=0.7, silence_ms=2000)).stream_settings(OWN)
    assert (stream.voice, stream.endpoint.after_text_s, stream.endpoint.early_s) == (0.7, 2.0, 0.0)
    assert stream.endpoint.silence_s == OWN.endpoint.silence_s


def test_keywords_are_part_of_the_prompt():
    given = {"audio": {"input": {"transcription": {"prompt": "a b", "keywords": ["c", "d"]}}}}
    assert update(Configuration(), given, "en").prompt == "a b\nc\nd"


def test_an_update_leaves_what_it_does_not_name():
    configuration = Configuration(language="en", prompt="x", detection=None, rate_hz=16_000)
    assert update(configuration, {"audio": {"input": {"transcription": {"model": "m"}}}}, "en") == Configuration(
        model="m", language="en", prompt="x", detection=None, rate_hz=16_000
    )


@pytest.mark.parametrize("rate_hz", [7_999, 8_000, 48_000, 48_001])
def test_rates_from_8_to_48_khz_are_taken(rate_hz):
    given = {"audio": {"input": {"format": {"type": PCM, "rate": rate_hz}}}}
    if 8_000 <= rate_hz <= 48_000:
        assert update(Configuration(), given, "en").rate_hz == rate_hz
    else:
        with pytest.raises(EventError, match=f"rate is {rate_hz}"):
            update(Configuration(), given, "en")


ODD: st.SearchStrategy = st.sampled_from(
    [None, True, 0, -1, 10**400, 1e308, float("nan"), "", "日本", "\ud800", [], [[1]], {}, {"type": {}}, ["a", 1]]
)


def any_of(**fields: st.SearchStrategy) -> st.SearchStrategy:
    """Return objects with some of the fields, each of them as it should be, or something else."""
    return st.one_of(st.fixed_dictionaries({}, optional={name: s | ODD for name, s in fields.items()}), ODD)


TEXT = st.sampled_from(["en", "de", "", "whisper-1", "word"])
TRANSCRIPTIONS = any_of(model=TEXT, language=TEXT, prompt=TEXT, keywords=st.lists(TEXT, max_size=2))
DETECTIONS = st.one_of(
    st.none(),
    any_of(
        type=st.sampled_from(["server_vad", "semantic_vad"]),
        threshold=st.floats(0, 1),
        prefix_padding_ms=st.integers(0, 2000),
        silence_duration_ms=st.integers(0, 70_000),
    ),
)
FORMAT = any_of(
    type=st.sampled_from(["audio/pcm", "audio/pcmu", "audio/pcma", "audio/opus"]), rate=st.integers(7_000, 50_000)
)
SESSIONS = any_of(
    type=st.sampled_from(["transcription", "realtime"]),
    input_audio_format=st.sampled_from(["pcm16", "g711_ulaw", "g711_alaw"]),
    input_audio_transcription=TRANSCRIPTIONS,
    turn_detection=DETECTIONS,
    audio=any_of(input=any_of(format=FORMAT, transcription=TRANSCRIPTIONS, turn_detection=DETECTIONS)),
)
EVENTS = any_of(
    type=st.sampled_from([*TYPES, "response.create"]),
    event_id=st.text(max_size=5),
    audio=st.binary(max_size=9).map(lambda audio: base64.b64encode(audio).decode()),
    session=SESSIONS,
)
MESSAGES = st.one_of(EVENTS.map(json.dumps), st.text('{}[]":,\\etypn1 ', max_size=20))


def check_message(message: str) -> None:
    try:
        event = parse_event(message)
        configuration = update(Configuration(), event.session, "en")
    except EventError as error:
        assert len(str(error)) < 400  # noqa: PT017
        return
    assert event.type in TYPES
    settings_of_stream = configuration.stream_settings(OWN)
    assert 0.05 <= settings_of_stream.endpoint.after_text_s <= 60
    assert 8_000 <= configuration.rate_hz <= 48_000
    for flat in (True, False):
        described = json.loads(json.dumps(describe(configuration, OWN, flat=flat), allow_nan=False))
        again = update(Configuration(), described, "en")
        assert again.stream_settings(OWN).voice == settings_of_stream.voice
        assert again.encoding == configuration.encoding
    if configuration.encoding != PCM or len(event.audio) % 2 == 0:
        assert len(decode_samples(event.audio, configuration.encoding)) in (len(event.audio), len(event.audio) // 2)


@settings(max_examples=2_000, deadline=None)
@given(MESSAGES)
def test_any_message_is_understood_or_refused(message):
    check_message(message)


@pytest.mark.slow
@settings(max_examples=100_000, deadline=None)
@given(MESSAGES)
def test_any_of_many_messages_is_understood_or_refused(message):
    check_message(message)


@pytest.mark.slow
def test_the_official_client_transcribes_in_real_time(url, openai_python, tmp_path):  # noqa: F811
    soundfile.write(tmp_path / "speech.wav", read("cen1-fmjc-b"), HZ, subtype="PCM_16")
    port = url.partition("/v1/")[0].rpartition(":")[2]
    command = [openai_python, str(Path(__file__).with_name("openai_client.py")), "realtime", port]
    output = subprocess.run([*command, str(tmp_path / "speech.wav")], check=True, stdout=subprocess.PIPE, timeout=200)
    results = json.loads(output.stdout)
    assert set(results) >= {"server_vad", "none"}
    for kind, events in results.items():
        kinds = [event["type"] for event in events]
        prefix = "transcription_session" if kind == "older" else "session"
        assert kinds[:2] == [f"{prefix}.created", f"{prefix}.updated"]
        assert ("input_audio_buffer.speech_started" in kinds) == (kind != "none")
        assert "".join(event.get("delta", "") for event in events) == events[-1]["transcript"] == TEXTS["cen1-fmjc-b"]
