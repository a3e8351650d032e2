"""OpenAI's transcriptions over HTTP: forms, formats, errors; aiohttp's client, and the official one (slow)."""

import asyncio
import contextlib
import dataclasses
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace

import aiohttp
import numpy as np
import pytest
import soundfile
from aiohttp import MultipartReader, web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.test_utils import TestServer
from hypothesis import given, settings
from hypothesis import strategies as st

from ds2_jax.recognition.recogniser import load
from ds2_jax.recognition.stream import Segment
from ds2_jax.serving import tcp
from ds2_jax.serving.http import FILES, SERVICE, UPLOADS, Uploads
from ds2_jax.serving.protocols import openai_http
from ds2_jax.serving.protocols.hot_words import HotWords, find_words
from ds2_jax.serving.protocols.language import check_language
from ds2_jax.serving.protocols.openai_http import FORMATS, FormError, Wishes, read_form, read_wishes
from ds2_jax.serving.sessions import Event
from input_pipeline.text import Vocabulary
from tests.conftest import CLIPS
from tests.ds2_jax.recognition.doubt import six_or_sax
from tests.servers import MODEL, server

CLIP, TEXT = CLIPS / "cen1-fmjc-b.flac", "c e l l i o"
PATH = "/v1/audio/transcriptions"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    flags = ("--config.decode.beam_size=20", "--config.decode.threshold=5")  # with a narrow beam, words settle early
    with server("--config.serve.sessions=4", "--config.serve.upload_mb=2", *flags) as (host, port):
        yield f"http://{host}:{port}"


def form(*fields: tuple[str, str], file: bytes | None = CLIP.read_bytes()) -> aiohttp.FormData:
    data = aiohttp.FormData(fields, default_to_multipart=True)
    if file is not None:
        data.add_field("file", file, filename="speech.flac")
    return data


def request(method: str, url: str, data: object = None) -> tuple[int, str, str]:
    """Return the status, the content type and the text of a response."""

    async def send() -> tuple[int, str, str]:
        async with aiohttp.ClientSession() as client, client.request(method, url, data=data) as response:
            return response.status, response.content_type, await response.text()

    return asyncio.run(send())


def transcribe(address: str, *fields: tuple[str, str], file: bytes | None = CLIP.read_bytes()) -> tuple[int, str, str]:
    return request("POST", address + PATH, form(*fields, file=file))


def refusal(response: tuple[int, str, str]) -> tuple[int, str]:
    """Return the status and the message of an error in OpenAI's form."""
    status, kind, text = response
    error = json.loads(text)["error"]
    assert kind == "application/json"
    assert set(error) == {"message", "type", "param", "code"}
    return status, error["message"]


def test_json_has_the_text_and_the_duration(address):
    status, kind, text = transcribe(address, ("model", "whisper-1"))
    assert (status, kind) == (200, "application/json")
    assert json.loads(text) == {"text": TEXT, "usage": {"type": "duration", "seconds": 2.9}}


def test_the_path_of_whisper_cpp_is_an_alias(address):
    fields = form(("temperature", "0.0"), ("response_format", "json"), ("language", "auto"))
    assert json.loads(request("POST", f"{address}/inference", fields)[2])["text"] == TEXT


@pytest.mark.parametrize(
    ("response_format", "kind", "pattern"),
    [
        ("text", "text/plain", f"{TEXT}\n"),
        ("srt", "application/x-subrip", rf"1\n00:00:0\d,\d\d\d --> 00:00:0\d,\d\d\d\n{TEXT}\n"),
        ("vtt", "text/vtt", rf"WEBVTT\n\n00:00:0\d\.\d\d\d --> 00:00:0\d\.\d\d\d\n{TEXT}\n"),
    ],
)
def test_formats_of_text(address, response_format, kind, pattern):
    status, own_kind, text = transcribe(address, ("response_format", response_format))
    assert (status, own_kind) == (200, kind)
    assert re.fullmatch(pattern, text)


@pytest.mark.parametrize("response_format", FORMATS)
def test_silence_has_an_empty_transcript_in_all_formats(address, response_format, tmp_path):
    noise = np.random.default_rng(0).normal(0, 1, 16000).astype(np.int16)
    soundfile.write(tmp_path / "silence.wav", noise, 16000)
    status, _, text = transcribe(
        address, ("response_format", response_format), file=(tmp_path / "silence.wav").read_bytes()
    )
    assert status == 200
    assert "json" not in response_format or json.loads(text)["text"] == ""


@pytest.mark.parametrize("granularities", [(), ("word",), ("segment",), ("word", "segment")])
def test_verbose_json_has_the_times_that_are_asked_for(address, granularities):
    fields = [("timestamp_granularities[]", value) for value in granularities]
    values = json.loads(transcribe(address, ("response_format", "verbose_json"), *fields)[2])
    assert (values["text"], values["duration"], values["language"], values["task"]) == (TEXT, 2.9, "en", "transcribe")
    assert ("words" in values, "segments" in values) == ("word" in granularities, granularities != ("word",))
    if "words" in values:
        assert " ".join(word["word"] for word in values["words"]) == TEXT
        times = [time_s for word in values["words"] for time_s in (word["start"], word["end"])]
        assert times == sorted(times)
        assert 0 < times[0] < times[-1] < 2.9
    for segment in values.get("segments", ()):
        assert segment["text"] == TEXT
        assert {"id", "seek", "start", "end", "tokens", "temperature", "no_speech_prob"} <= set(segment)
        assert -1 < segment["avg_logprob"] <= 0 < segment["compression_ratio"]


def test_a_stream_sends_the_text_in_pieces_that_do_not_change(address, tmp_path):
    speech = np.concatenate([soundfile.read(clip, dtype="int16")[0] for clip in sorted(CLIPS.glob("cen1-m*.flac"))])
    soundfile.write(tmp_path / "speech.flac", speech, 16000)
    content = (tmp_path / "speech.flac").read_bytes()
    status, kind, text = transcribe(address, ("stream", "true"), file=content)
    assert (status, kind) == (200, "text/event-stream")
    events = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]
    *deltas, done = events
    assert {event["type"] for event in deltas} == {"transcript.text.delta"}
    assert done["type"] == "transcript.text.done"
    assert "".join(event["delta"] for event in deltas) == done["text"]
    assert len(deltas) > 5
    assert "g o t t i e r" in done["text"]


def test_clients_that_drop_a_file_while_it_is_read_do_no_harm(address, tmp_path):
    """Blocks of 8 channels at 192 kHz take long to decode, so most clients go in the middle of one."""
    noise = np.random.default_rng(0).integers(-1, 2, (10 * 192_000, 8), np.int16)
    noise[:, 1:] = 0
    soundfile.write(tmp_path / "wide.flac", noise, 192_000)
    content = (tmp_path / "wide.flac").read_bytes()

    async def drop(after_s: float) -> None:
        async with aiohttp.ClientSession() as client:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(
                    client.post(address + PATH, data=form(("stream", "true"), file=content)), after_s
                )

    for number in range(12):
        asyncio.run(drop(0.05 + 0.02 * number))
    assert json.loads(transcribe(address)[2])["text"] == TEXT


def test_a_channel_that_is_inverted_does_not_silence_the_other(address, tmp_path):
    mono = soundfile.read(CLIP, dtype="int16")[0]
    soundfile.write(tmp_path / "inverted.wav", np.stack([mono, -mono], 1), 16000)
    content = (tmp_path / "inverted.wav").read_bytes()
    assert f'"text": "{TEXT}"' in transcribe(address, ("stream", "true"), file=content)[2]


def test_uploads_that_send_nothing_do_not_keep_others_out(address):
    host, port = address.removeprefix("http://").split(":")
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    with contextlib.ExitStack() as stack:
        for length in ("Transfer-Encoding: chunked", f"Content-Length: {2 << 20}"):
            for _ in range(3):
                idle = stack.enter_context(socket.create_connection((host, int(port))))
                idle.sendall(f"{head}{length}\r\n\r\n".encode())
        time.sleep(0.2)
        assert transcribe(address)[0] == 200


@pytest.mark.parametrize("start", [b"", b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\nRI'])
def test_an_upload_that_stalls_is_refused(start, monkeypatch):
    monkeypatch.setattr(openai_http, "READ_S", 0.1)
    service = SimpleNamespace(recogniser=load(MODEL))

    async def send() -> bytes:
        app = web.Application()
        app[SERVICE], app[UPLOADS] = service, Uploads(100)  # type: ignore[misc]
        app.router.add_post("/", openai_http.transcribe)
        async with TestServer(app) as server:
            reader, writer = await asyncio.open_connection(server.host, server.port)
            head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\nContent-Length: 99\r\n\r\n"
            writer.write(head + start)
            status = await reader.readline()
            writer.close()
            return status

    assert asyncio.run(asyncio.wait_for(send(), 10)) == b"HTTP/1.1 408 Request Timeout\r\n"


def test_a_stream_ends_if_its_client_does_not_read(monkeypatch):
    """The handler and its connection are real; the file has no end."""
    monkeypatch.setattr(tcp, "WRITE_S", 0.3)

    class Endless:
        open = 0

        async def stream(self, content: bytes, engine: None) -> AsyncIterator[Event]:
            self.open += 1
            try:
                while True:
                    await asyncio.sleep(0)
                    yield Event(final=Segment("word " * 1000, [], 1.0, 0.0, 1.0, "silence", []))
            finally:
                self.open -= 1

    async def handle(request: web.Request) -> web.StreamResponse:
        return await openai_http._stream(request, b"", None)

    async def connect() -> None:
        app, files = web.Application(), Endless()
        app[FILES] = files  # type: ignore[misc]
        app.router.add_get("/", handle)
        async with TestServer(app) as server:
            reader, writer = await asyncio.open_connection(server.host, server.port, limit=1024)
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await reader.readline()
            assert files.open == 1
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            while files.open:
                await asyncio.sleep(0.05)
            writer.transport.abort()

    asyncio.run(asyncio.wait_for(connect(), 10))


def test_the_models_are_listed(address):
    models = json.loads(request("GET", f"{address}/v1/models")[2])
    assert models["object"] == "list"
    [model] = models["data"]
    assert (model["id"], model["object"]) == ("an4", "model")
    assert abs(model["created"] - time.time()) < 1000
    assert json.loads(request("GET", f"{address}/v1/models/an4")[2]) == model
    assert refusal(request("GET", f"{address}/v1/models/x")) == (404, "there is no model 'x': this server has 'an4'")


@pytest.mark.parametrize(
    ("fields", "file", "message"),
    [
        ([], None, "the field 'file' is missing"),
        ([], b"", "the file is empty"),
        ([], b"this is text", "libsndfile"),
        ([], CLIP.read_bytes()[:5000], "truncated"),
        ([("response_format", "xml")], b"x", "response_format is 'xml': use one of json, text, srt, verbose_json, vtt"),
        ([("language", "de")], b"x", "language is 'de', but this model transcribes 'en'"),
        ([("temperature", "hot")], b"x", "temperature is 'hot'"),
        ([("temperature", "nan")], b"x", "temperature is 'nan'"),
        ([("stream", "perhaps")], b"x", "stream is 'perhaps'"),
        ([("stream", "true"), ("response_format", "srt")], b"x", "stream=true sends events, not srt"),
        ([("timestamp_granularities[]", "letter")], b"x", "timestamp_granularities is 'letter'"),
        ([("prompt", "x" * 70_000)], b"x", "the field 'prompt' has more than 65536 bytes"),
        ([("field", "x")] * 65, b"x", "more than 64 fields"),
    ],
)
def test_what_cannot_be_transcribed_is_refused_with_the_reason(address, fields, file, message):
    status, reason = refusal(transcribe(address, *fields, file=file))
    assert status == 400
    assert message in reason


def test_a_stream_of_what_is_no_audio_is_refused_before_it_starts(address):
    assert refusal(transcribe(address, ("stream", "true"), file=b"this is text"))[0] == 400


@pytest.mark.parametrize(
    "data",
    [b"garbage", {"file": "x"}, aiohttp.MultipartWriter("mixed")],
)
def test_a_body_that_is_no_form_is_refused(address, data):
    status, message = refusal(request("POST", address + PATH, data))
    assert status == 400
    assert "multipart/form-data" in message


def test_a_damaged_form_is_refused(address):
    async def send(body: bytes) -> tuple[int, str, str]:
        headers = {"Content-Type": "multipart/form-data; boundary=xyz"}
        async with (
            aiohttp.ClientSession() as client,
            client.post(address + PATH, data=body, headers=headers) as response,
        ):
            return response.status, response.content_type, await response.text()

    for body in (
        b"",
        b"--xyz",
        b"--xyz\r\n\r\nabc",
        b'--xyz\r\nContent-Disposition: form-data; name="file"\r\n\r\nabc',
    ):
        assert refusal(asyncio.run(send(body)))[0] == 400


@pytest.mark.parametrize("chunked", [False, True])
def test_a_file_that_is_too_large_is_refused(address, chunked):
    async def pieces():
        yield b'--xyz\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
        for _ in range(120):
            yield bytes(1 << 16)
        yield b"\r\n--xyz--\r\n"

    async def send() -> tuple[int, str, str]:
        body = pieces() if chunked else b"".join([piece async for piece in pieces()])
        headers = {"Content-Type": "multipart/form-data; boundary=xyz"}
        async with (
            aiohttp.ClientSession() as client,
            client.post(address + PATH, data=body, headers=headers) as response,
        ):
            return response.status, response.content_type, await response.text()

    assert refusal(asyncio.run(send())) == (413, "the upload is too large for this server")


def test_a_long_file_that_is_truncated_is_refused(address, tmp_path):
    """It is read piece by piece, and only decoding shows where it ends."""
    speech = np.tile(soundfile.read(CLIP, dtype="int16")[0], 22)
    soundfile.write(tmp_path / "long.flac", speech, 16000)
    content = (tmp_path / "long.flac").read_bytes()
    assert len(speech) > 60 * 16000
    status, message = refusal(transcribe(address, file=content[: len(content) // 12]))
    assert status == 400
    assert "ends early" in message


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")
def test_a_long_file_in_a_container_of_ffmpeg_is_transcribed(address, tmp_path):
    speech = np.tile(soundfile.read(CLIP, dtype="int16")[0], 22)
    soundfile.write(tmp_path / "long.wav", speech, 16000)
    command = ["ffmpeg", "-v", "error", "-i", tmp_path / "long.wav", "-b:a", "64k", tmp_path / "long.m4a"]
    subprocess.run(command, check=True)
    status, _, text = transcribe(address, file=(tmp_path / "long.m4a").read_bytes())
    assert status == 200, text
    assert json.loads(text)["text"].startswith(TEXT[:5])


def test_an_upload_is_never_written_to_disk(address):
    """While it arrives, the server has no file open for writing that is not its log."""
    port = address.rpartition(":")[2]

    async def pieces(opened: set[str]):
        yield b'--xyz\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
        for _ in range(24):  # more than web frameworks keep in memory
            yield bytes(1 << 16)
        await asyncio.sleep(0.3)
        opened |= files_of_server(port)
        yield b"\r\n--xyz--\r\n"

    async def send() -> set[str]:
        before, opened = files_of_server(port), set[str]()
        headers = {"Content-Type": "multipart/form-data; boundary=xyz"}
        async with (
            aiohttp.ClientSession() as client,
            client.post(address + PATH, data=pieces(opened), headers=headers) as response,
        ):
            assert response.status == 400
        assert opened
        return opened - before

    assert asyncio.run(send()) == set()


def files_of_server(port: str) -> set[str]:
    """Return the files on disk that the server with this port has open."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"--port={port}".encode() in (process / "cmdline").read_bytes().split(b"\0"):
                links = [os.readlink(link) for link in (process / "fd").iterdir()]
                return {link for link in links if link.startswith("/") and not link.startswith("/dev/")}
    pytest.skip("needs /proc")


def test_a_session_too_many_is_refused_with_503(address):
    async def send() -> tuple[int, str, str]:
        async with aiohttp.ClientSession() as client, contextlib.AsyncExitStack() as stack:
            for _ in range(4):
                socket = await stack.enter_async_context(client.ws_connect(f"{address}/v1/realtime"))
                assert (await socket.receive_json())["type"] == "session.created"
            async with client.post(address + PATH, data=form(("stream", "true"))) as response:
                return response.status, response.content_type, await response.text()

    assert refusal(asyncio.run(send())) == (503, "all 4 sessions are in use: try again later")


def test_a_prompt_is_accepted_with_any_words(address):
    assert json.loads(transcribe(address, ("prompt", "Zürich, 42: rubout; ,:\n"))[2])["text"] == TEXT


def test_the_words_of_a_prompt_that_the_network_can_spell_become_hot_words():
    meta = load(MODEL).meta

    def found(prompt: str, symbols: str, language: str = "en") -> list[str]:
        other = dataclasses.replace(meta, vocabulary=Vocabulary(tuple(symbols)), language=language)
        return find_words(prompt, other)

    letters = " abcdefghijklmnopqrstuvwxyz"
    assert found("Rubout, Zürich x-ray 42 rubout (yes): it's", letters) == ["rubout", "yes"]
    assert found("NO no Maybe", "NO") == ["NO"]
    assert found("Anna", letters, "none") == ["anna"]
    assert found("IŞIK İki", " ışikI", "tr") == ["ışık", "iki"]


@pytest.mark.parametrize(("prompt", "text"), [("", "six"), ("Sax!", "sax"), ("日本", "six")])
def test_a_prompt_makes_its_words_more_probable(prompt, text):
    model = load(MODEL)
    hot_words = HotWords(model)
    engine = asyncio.run(hot_words.engine(prompt)) or model.engine
    assert engine.decode_batch([six_or_sax(model.vocabulary)])[0][0].text == text
    assert engine is (asyncio.run(hot_words.engine(f"{prompt} {prompt}")) or model.engine)  # kept


def test_greedy_decoding_ignores_prompts():
    assert asyncio.run(HotWords(load(MODEL, engine="greedy")).engine("yes")) is None


def test_a_prompt_corrects_a_real_recording(address, speech):
    content = (speech / "an4" / "audio" / "fvap" / "an428-fvap-b.flac").read_bytes()
    texts = [
        json.loads(transcribe(address, ("prompt", prompt), file=content)[2])["text"] for prompt in ("", "Thirteen")
    ]
    assert texts[0] != texts[1] == "enter eight thirteen"


@pytest.mark.parametrize(
    ("language", "own"), [("", "en"), ("auto", "en"), ("EN-gb", "en"), ("zh_CN", "zh"), ("fr", "none")]
)
def test_a_language_that_fits_is_accepted(language, own):
    check_language(language, own)


@pytest.mark.parametrize(("language", "own"), [("de", "en"), ("english", "en"), ("en", "zh"), ("-", "en")])
def test_another_language_is_refused(language, own):
    with pytest.raises(ValueError, match="leave the language out"):
        check_language(language, own)


VALUES = st.one_of(st.sampled_from([*FORMATS, "true", "word", "en", "0.5", "1e999", "日本"]), st.text(max_size=9))
NAMES = (
    "response_format",
    "language",
    "temperature",
    "stream",
    "timestamp_granularities",
    "prompt",
    "keywords",
    "model",
)
FIELDS = st.fixed_dictionaries({}, optional=dict.fromkeys(NAMES, st.lists(VALUES, max_size=2)))


def check_wishes(fields: dict[str, list[str]]) -> None:
    try:
        wishes = read_wishes(fields, "en")
    except FormError:
        return
    assert wishes.response_format in FORMATS
    assert not wishes.stream or wishes.response_format in ("json", "text")
    assert wishes.words or wishes.segments


@settings(max_examples=2_000, deadline=None)
@given(FIELDS)
def test_any_fields_are_understood_or_refused(fields):
    check_wishes(fields)


@pytest.mark.slow
@settings(max_examples=100_000, deadline=None)
@given(FIELDS)
def test_any_of_many_fields_are_understood_or_refused(fields):
    check_wishes(fields)


def test_wishes_have_defaults():
    assert read_wishes({}, "en") == Wishes("json", "", False, True, False)
    assert read_wishes({"prompt": ["a b"], "keywords": ["c", "d"]}, "en").prompt == "a b\nc\nd"


BODY = (
    b'--xyz\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n'
    b'--xyz\r\nContent-Disposition: form-data; name="file"; filename="a"\r\nContent-Type: audio/wav\r\n\r\nRIFFabc\r\n--xyz--\r\n'
)


def parse(body: bytes, limit: int = 100):
    async def read():
        loop = asyncio.get_running_loop()
        stream = aiohttp.StreamReader(BaseProtocol(loop), 1 << 16, loop=loop)
        stream.feed_data(body)
        stream.feed_eof()
        return await read_form(MultipartReader({"Content-Type": "multipart/form-data; boundary=xyz"}, stream), limit)

    return asyncio.run(asyncio.wait_for(read(), 10))


def test_a_form_has_its_file_and_fields():
    parsed = parse(BODY)
    assert parsed.file == b"RIFFabc"
    assert parsed.fields == {"model": ["whisper-1"]}
    with pytest.raises(web.HTTPRequestEntityTooLarge):
        parse(BODY, limit=6)


PIECES = st.lists(
    st.one_of(
        st.binary(max_size=30),
        st.sampled_from(
            [b"--xyz", b"--xyz--", b"\r\n", b"\n", b'Content-Disposition: form-data; name="a"', BODY, b"--"]
        ),
        st.sampled_from([b"Content-Type: multipart/mixed; boundary=q\r\n\r\n--q", b"Content-Length: 9", b"name="]),
    ),
    max_size=12,
)


FORMS = PIECES, st.integers(0, len(BODY))
headers_may_be_damaged = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def check_form(pieces: list[bytes], cut: int) -> None:
    for body in (b"".join(pieces), BODY[:cut] + b"".join(pieces) + BODY[cut:]):
        with contextlib.suppress(
            ValueError, AssertionError, RuntimeError, HttpProcessingError, web.HTTPRequestEntityTooLarge
        ):
            parsed = parse(body)
            assert len(parsed.file or b"") <= 100


@headers_may_be_damaged
@settings(max_examples=1_000, deadline=None)
@given(*FORMS)
def test_any_bytes_are_a_form_or_refused(pieces, cut):
    check_form(pieces, cut)


@pytest.mark.slow
@headers_may_be_damaged
@settings(max_examples=100_000, deadline=None)
@given(*FORMS)
def test_any_of_many_bytes_are_a_form_or_refused(pieces, cut):
    check_form(pieces, cut)


CLIENTS = ("openai", "openai==1.109.1")


@pytest.fixture(scope="session", params=CLIENTS)
def openai_python(request, tmp_path_factory) -> str:
    """Python of an environment that has OpenAI's client."""
    folder = tmp_path_factory.mktemp("openai")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = str(folder / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "-q", request.param, "websockets<16"], check=True)
    return python


@pytest.mark.slow
def test_the_official_client_reads_all_formats(address, openai_python):
    script = Path(__file__).with_name("openai_client.py")
    command = [openai_python, str(script), "http", address.rpartition(":")[2], str(CLIP)]
    values = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=200).stdout)
    assert (values["json"], values["text"], values["verbose_json"]["text"]) == (TEXT, f"{TEXT}\n", TEXT)
    assert [word["word"] for word in values["verbose_json"]["words"]] == TEXT.split()
    assert values["srt"].startswith("1\n00:00:0")
    assert values["vtt"].startswith("WEBVTT")
    assert values["events"][-1] == {"type": "transcript.text.done", "text": TEXT}
    assert "language is 'de'" in values["refusal"]
    assert values["model"]["id"] == "an4"
