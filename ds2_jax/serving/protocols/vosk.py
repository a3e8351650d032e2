"""The WebSocket protocol of vosk-server: each binary message of 16-bit mono audio is answered by one result, partial or final.

Text messages are {"config": {"sample_rate": 16000, "words": true, "max_alternatives": 5}}, which has no answer,
{"reset": 1}, answered by the final result of the audio so far, and {"eof": 1}, after whose final result the server closes.
Sample rate and alternatives are those configured before the first audio. `phrase_list` and `model` are ignored: the server
has one model and one language model.
"""

import asyncio
import dataclasses
import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from aiohttp import WSCloseCode, WSMsgType, web

from decoding.hypothesis import Hypothesis, Word
from decoding.search.beam import CheckedEngine
from ds2_jax.recognition import decode_settings
from ds2_jax.recognition.recogniser import Recogniser
from ds2_jax.recognition.stream import Segment, join_texts
from ds2_jax.serving.http import REASON_BYTES, SERVICE, open_socket, refuse_socket, send_text
from ds2_jax.serving.protocols.messages import parse_object, whole_number
from ds2_jax.serving.sessions import HIGHEST_HZ, LOWEST_HZ, Overloaded, Service, Session

ALTERNATIVES = 20  # at most
BINARY_COMMANDS = (b'{"eof":1}', b'{"reset":1}')  # without spaces: some clients send them as binary messages


@dataclass(frozen=True)
class Options:
    """What a config message sets. words: whether final results list words. max_alternatives: 0 for one result."""

    sample_rate: int = 8000
    words: bool = True
    max_alternatives: int = 0

    def update(self, values: Any) -> "Options":
        """Return the options changed by the values of a config message. Raises ValueError."""
        if not isinstance(values, dict):
            raise ValueError("config is not an object")
        changes: dict[str, Any] = {}
        for name, least, most in (("sample_rate", LOWEST_HZ, HIGHEST_HZ), ("max_alternatives", 0, 1_000_000)):
            if name in values:
                changes[name] = whole_number(values, name, least, most)
        if "words" in values:
            changes["words"] = bool(values["words"])
        return dataclasses.replace(self, **changes)


@dataclass(frozen=True)
class Command:
    """A text message: new options, or the request for a final result, `last` if no audio follows."""

    options: Options | None = None
    last: bool = False


def parse_command(text: str | bytes, options: Options) -> Command:
    """Return what a text message asks for. options: those so far. Raises ValueError saying what is wrong."""
    message = parse_object(text)
    if "config" in message:
        return Command(options.update(message["config"]))
    if message.get("eof"):
        return Command(last=True)
    if message.get("reset"):
        return Command()
    raise ValueError('send audio, {"config" : {...}}, {"reset" : 1} or {"eof" : 1}')


def format_partial(text: str) -> str:
    """Return a partial result."""
    return _dump({"partial": text})


def format_final(segments: Sequence[Segment], options: Options) -> str:
    """Return one final result of the segments that have ended since the last one."""
    if options.max_alternatives:
        return _dump({"alternatives": _alternatives(segments, options)})
    result: dict[str, Any] = {}
    words = [word for segment in segments for word in segment.words]
    if options.words and words:
        result["result"] = [{"conf": round(word.confidence, 6), **_describe(word)} for word in words]
    return _dump(result | {"text": join_texts(segment.text for segment in segments)})


def _alternatives(segments: Sequence[Segment], options: Options) -> list[dict[str, Any]]:
    """Return alternatives, best first; `confidence` is the score of the decoder, a logarithm, as of vosk."""
    spoken = [segment for segment in segments if segment.text]
    if not spoken:
        return [{"confidence": 1.0, "text": ""}]
    alternatives = []
    for rank in range(min(options.max_alternatives, max(len(segment.nbest) for segment in spoken))):
        ranked = [(segment, segment.nbest[min(rank, len(segment.nbest) - 1)]) for segment in spoken]
        entry: dict[str, Any] = {"confidence": round(sum(hypothesis.score for _, hypothesis in ranked), 6)}
        words = [word for segment, hypothesis in ranked for word in _shift(hypothesis, segment.start_s)]
        if options.words and words:
            entry["result"] = [_describe(word) for word in words]
        alternatives.append(entry | {"text": join_texts(hypothesis.text for _, hypothesis in ranked)})
    return alternatives


def _shift(hypothesis: Hypothesis, start_s: float) -> list[Word]:
    return [
        dataclasses.replace(word, start_s=word.start_s + start_s, end_s=word.end_s + start_s)
        for word in hypothesis.words
    ]


def _describe(word: Word) -> dict[str, Any]:
    return {"end": round(word.end_s, 6), "start": round(word.start_s, 6), "word": word.text}


def _dump(value: dict[str, Any]) -> str:
    """Return JSON with the spacing of vosk, which some clients search as text."""
    return json.dumps(value, ensure_ascii=False, indent=2, separators=(",", " : "))


class Exchange:
    """The audio of a connection, and the results that answer its messages. The session opens with the first audio."""

    def __init__(self, service: Service):
        self.options = Options()
        self._service = service
        self._session: Session | None = None
        self._partial = ""
        self._ended = False

    async def answer_audio(self, data: bytes) -> str:
        """Return the result of 16-bit samples: final if a segment has ended. Raises Overloaded, AudioError, RuntimeError."""
        if self._session is None:
            self._session = self._service.open(self.options.sample_rate, "vosk", engine=await self._engine())
        await self._session.send(np.frombuffer(data[: len(data) // 2 * 2], "<i2"))
        await self._session.flush()
        segments = await self._collect()
        return format_final(segments, self.options) if segments else format_partial(self._partial)

    async def answer_end(self, *, last: bool) -> str:
        """Return the final result of the audio so far. last: no audio follows. Raises RuntimeError."""
        if self._session is None:
            return format_final([], self.options)
        if last:
            self._session.finish()
        else:
            await self._session.commit()
        return format_final(await self._collect(committed=True), self.options)

    def close(self) -> None:
        """Free the session."""
        if self._session is not None:
            self._service.close(self._session)

    async def _engine(self) -> CheckedEngine | None:
        if self.options.max_alternatives <= 1:
            return None
        return await asyncio.to_thread(_nbest_engine, self._service.recogniser)

    async def _collect(self, *, committed: bool = False) -> list[Segment]:
        """Return the segments that end until the answer to a flush, or to a commit or finish."""
        assert self._session is not None
        segments = []
        while True:
            event = await self._session.next_event()
            if event.error:
                raise RuntimeError(event.error)
            if event.final is not None:
                segments.append(event.final)
                self._partial = ""
                if committed and event.final.reason == "commit" and not self._session.finished:
                    return segments
            elif event.partial is not None:
                self._partial = event.partial.text
            else:
                return segments


@functools.cache
def _nbest_engine(recogniser: Recogniser) -> CheckedEngine | None:
    """Return the recogniser's decoder with more hypotheses; None if it has only one."""
    settings = recogniser.settings
    if recogniser.engine.name == "greedy":
        return None
    count = max(settings.nbest, min(ALTERNATIVES, settings.beam_size))
    return decode_settings.make_engine(dataclasses.replace(settings, nbest=count), recogniser.meta)


async def handle(request: web.Request) -> web.WebSocketResponse:
    """Serve a client of vosk-server. Errors close the connection with a reason: there are no messages for them."""
    socket = await open_socket(request)
    exchange = Exchange(request.app[SERVICE])
    try:
        async for message in socket:
            if message.type == WSMsgType.ERROR:
                break  # a message that is too long, or breaks the rules; the socket is closed
            if message.type == WSMsgType.TEXT or message.data.replace(b" ", b"") in BINARY_COMMANDS:
                command = parse_command(message.data, exchange.options)
                if command.options is not None:
                    exchange.options = command.options
                    continue
                await send_text(socket, await exchange.answer_end(last=command.last))
                if command.last:
                    break
            else:
                await send_text(socket, await exchange.answer_audio(message.data))
    except Overloaded as error:
        return await refuse_socket(socket, str(error))
    except ValueError as error:
        await socket.close(code=WSCloseCode.UNSUPPORTED_DATA, message=_reason(error))
    except RuntimeError as error:
        await socket.close(code=WSCloseCode.INTERNAL_ERROR, message=_reason(error))
    except ConnectionError:
        pass  # the client has gone
    finally:
        exchange.close()
    await socket.close()
    return socket


def _reason(error: Exception) -> bytes:
    return str(error).encode("ascii", "backslashreplace")[:REASON_BYTES]
