"""The Wyoming protocol of Home Assistant: events over TCP, each a line of JSON, and as many bytes as it announces.

The client sends transcribe, audio-start, audio-chunk (several) and audio-stop; the server answers with transcript-start,
transcript-chunk (several, each with words that will not change), transcript and transcript-stop. describe is answered by
info, ping by pong. Other events are ignored, as the protocol demands.
"""

import asyncio
import contextlib
import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ds2_jax.serving.protocols.language import check_language
from ds2_jax.serving.protocols.messages import parse_object, whole_number
from ds2_jax.serving.protocols.settled import SettledText
from ds2_jax.serving.sessions import HIGHEST_HZ, LOWEST_HZ, Overloaded, Service, Session
from ds2_jax.serving.tcp import READ_S, Connection, listen

DATA_BYTES = 1 << 20
PAYLOAD_BYTES = 1 << 22
CHANNELS = 16  # at most
PROJECT = {"name": "DS2-JAX", "url": "https://arxiv.org/abs/1512.02595"}


@dataclass(frozen=True)
class Header:
    """The line that begins an event. data: its values, to which those in `data_length` bytes are added."""

    kind: str
    data: dict[str, Any] = field(default_factory=dict)
    data_length: int = 0
    payload_length: int = 0


@dataclass(frozen=True)
class AudioFormat:
    """PCM: samples a second, bytes a sample (signed, little-endian), channels."""

    rate: int
    width: int
    channels: int


def parse_header(line: bytes) -> Header:
    """Return the header of an event. Raises ValueError saying what is wrong."""
    values = parse_object(line)
    kind, data = values.get("type"), values.get("data") or {}
    if not isinstance(kind, str) or not isinstance(data, dict):
        raise ValueError("an event has a type, which is text, and data, which is an object")
    lengths = []
    for name, most in (("data_length", DATA_BYTES), ("payload_length", PAYLOAD_BYTES)):
        lengths.append(0 if values.get(name) is None else whole_number(values, name, 0, most))
    return Header(kind, data, *lengths)


def parse_format(data: dict[str, Any]) -> AudioFormat:
    """Return the format of audio-start or audio-chunk. Raises ValueError saying what is wrong."""
    missing = [name for name in ("rate", "width", "channels") if name not in data]
    if missing:
        raise ValueError(f"{missing[0]} of the audio is missing")
    return AudioFormat(
        whole_number(data, "rate", LOWEST_HZ, HIGHEST_HZ),
        whole_number(data, "width", 1, 4),
        whole_number(data, "channels", 1, CHANNELS),
    )


def to_samples(payload: bytes, audio: AudioFormat) -> np.ndarray:
    """Return integers [N, channels] of the complete frames in a payload."""
    size = audio.width * audio.channels
    payload = payload[: len(payload) // size * size]
    if audio.width == 3:
        wide = np.zeros((len(payload) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(payload, np.uint8).reshape(-1, 3)  # [N * channels, 3]
        return wide.view("<i4").reshape(-1, audio.channels)
    return np.frombuffer(payload, f"<i{audio.width}").reshape(-1, audio.channels)


def format_event(kind: str, **data: Any) -> bytes:
    """Return an event without payload."""
    values = json.dumps(data).encode() if data else b""
    header: dict[str, Any] = {"type": kind}
    if values:
        header["data_length"] = len(values)
    return json.dumps(header).encode() + b"\n" + values


async def start(service: Service, model: str, host: str, port: int) -> contextlib.AbstractAsyncContextManager[None]:
    """Listen. Raises OSError for an address that cannot be used."""

    async def handle(connection: Connection) -> None:
        client = _Client(service, model, connection)
        try:
            await client.run()
        except TimeoutError:
            await _send_error(connection, f"no complete event has arrived for {READ_S:g} s", "timeout")
        except ValueError as error:
            await _send_error(connection, str(error), "invalid")
        except Overloaded as error:
            await _send_error(connection, str(error), "overloaded")
        except RuntimeError as error:
            await _send_error(connection, str(error), "internal")
        finally:
            client.close()

    return await listen(handle, 2 * service.limit, host, port)


async def _send_error(connection: Connection, text: str, code: str) -> None:
    await connection.write(format_event("error", text=text, code=code))
    await connection.linger()


class _Client:
    """A connection, for one utterance after the other."""

    def __init__(self, service: Service, model: str, connection: Connection):
        self._service, self._model, self._connection = service, model, connection
        self._format: AudioFormat | None = None
        self._session: Session | None = None
        self._sending: asyncio.Task | None = None

    async def run(self) -> None:
        """Answer events until the client closes. Raises ValueError, Overloaded, RuntimeError for the client."""
        while True:
            async with asyncio.timeout(READ_S):
                line = await self._connection.read_line()
                if not line:
                    return
                header = parse_header(line)
                data = header.data
                if header.data_length:
                    data = data | parse_object(await self._connection.read(header.data_length))
                payload = await self._connection.read(header.payload_length)
            await self._handle(header.kind, data, payload)

    def close(self) -> None:
        """Free the session."""
        if self._sending is not None:
            self._sending.cancel()
        if self._session is not None:
            self._service.close(self._session)
        self._session = self._sending = self._format = None

    async def _handle(self, kind: str, data: dict[str, Any], payload: bytes) -> None:
        match kind:
            case "describe":
                language = self._service.recogniser.meta.language
                await self._connection.write(format_event("info", **describe(self._model, language)))
            case "ping":
                await self._connection.write(format_event("pong", text=data.get("text")))
            case "transcribe":
                check_language(str(data.get("language") or ""), self._service.recogniser.meta.language)
            case "audio-start":
                self.close()
                self._open(parse_format(data))
            case "audio-chunk":
                await self._take_audio(parse_format(data), payload)
            case "audio-stop":
                await self._finish()

    def _open(self, audio: AudioFormat) -> None:
        self._session = self._service.open(audio.rate, "wyoming")
        self._format = audio
        self._sending = asyncio.create_task(self._send_transcript(self._session))
        self._sending.add_done_callback(lambda task: task.cancelled() or task.exception())  # or it would be logged

    async def _take_audio(self, audio: AudioFormat, payload: bytes) -> None:
        if self._session is None or self._format is None:
            self._open(audio)
        elif audio.rate != self._format.rate:
            raise ValueError(f"the rate changes from {self._format.rate} to {audio.rate} Hz: send audio-stop first")
        assert self._session is not None
        assert self._sending is not None
        if self._sending.done():
            await self._sending  # raises why it ended
        await self._session.send(to_samples(payload, audio))

    async def _finish(self) -> None:
        if self._session is None or self._sending is None:
            await self._connection.write(format_event("transcript-start") + _final_events(""))
            return
        self._session.finish()
        await self._sending
        self.close()

    async def _send_transcript(self, session: Session) -> None:
        """Send words when they are settled, and the transcript at the end."""
        await self._connection.write(format_event("transcript-start"))
        settled = SettledText()
        async for event in session.events():
            if event.partial is not None:
                text = settled.add_partial(event.partial)
            else:
                assert event.final is not None
                text = settled.add_final(event.final)
            if text:
                await self._connection.write(format_event("transcript-chunk", text=text))
        await self._connection.write(_final_events(settled.text))


def _final_events(text: str) -> bytes:
    return format_event("transcript", text=text) + format_event("transcript-stop")


def describe(model: str, language: str) -> dict[str, Any]:
    """Return the data of an info event. model: its name. language: its code, such as en."""
    artifact = {"attribution": PROJECT, "installed": True, "version": None}
    models = [{"name": model, "languages": [language or "en"], "description": f"DeepSpeech2 {model}", **artifact}]
    program = {
        "name": "ds2-jax",
        "description": "DeepSpeech2 in JAX",
        "models": models,
        "supports_transcript_streaming": True,
        "requires_external_vad": True,
        "prefers_auto_gain_enabled": False,
        "prefers_noise_reduction_enabled": False,
        **artifact,
    }
    return {"asr": [program]}
