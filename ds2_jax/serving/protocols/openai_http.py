"""OpenAI's transcriptions over HTTP: POST /v1/audio/transcriptions, GET /v1/models.

`/inference`, the path of whisper.cpp's server, is an alias. Any model name is accepted, and the prompt's words are hot
words; temperature is accepted without effect.
"""

import asyncio
import contextlib
import dataclasses
import json
import math
import time
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiohttp import BodyPartReader, MultipartReader, hdrs, web
from aiohttp.http_exceptions import HttpProcessingError

from decoding.search.beam import CheckedEngine
from ds2_jax.recognition import cues
from ds2_jax.recognition.cues import Cue, CueSettings
from ds2_jax.serving.files import FileResult
from ds2_jax.serving.http import FILES, MODEL, SERVICE, UPLOADS, detect_vanished, error_response
from ds2_jax.serving.protocols.hot_words import HotWords
from ds2_jax.serving.protocols.language import check_language
from ds2_jax.serving.protocols.settled import SettledText
from ds2_jax.serving.tcp import READ_S, writing
from input_pipeline.audio import AudioError
from input_pipeline.text import Vocabulary

HOT_WORDS: web.AppKey[HotWords] = web.AppKey("hot_words", HotWords)
STARTED: web.AppKey[int] = web.AppKey("started", int)
FORMATS = ("json", "text", "srt", "verbose_json", "vtt")
GRANULARITIES = ("word", "segment")
CONTENT_TYPES = {"text": "text/plain", "srt": "application/x-subrip", "vtt": "text/vtt"}
MOST_FIELDS = 64
FIELD_BYTES = 1 << 16
PIECE_BYTES = 1 << 18  # read at a time
TRUTHS = {"true": True, "1": True, "false": False, "0": False, "": False}


class FormError(ValueError):
    """A form that cannot be used; the message says why, for the client."""


@dataclass(frozen=True)
class Form:
    """A form: the content of the file, and the texts of the other fields by name, without the brackets of lists."""

    file: bytes | None
    fields: dict[str, list[str]]


@dataclass(frozen=True)
class Wishes:
    """What a client asks for. prompt: with its keywords. words, segments: which times verbose_json has."""

    response_format: str = "json"
    prompt: str = ""
    words: bool = False
    segments: bool = True
    stream: bool = False


def add_routes(app: web.Application) -> None:
    """Add the routes to an application that has a service, files and a model."""
    warnings.filterwarnings("ignore", module=r"aiohttp\.multipart")  # clients are told what is wrong, not the log
    app[HOT_WORDS], app[STARTED] = HotWords(app[SERVICE].recogniser), int(time.time())
    app.router.add_post("/v1/audio/transcriptions", transcribe)
    app.router.add_post("/inference", transcribe)
    app.router.add_get("/v1/models", list_models)
    app.router.add_get("/v1/models/{id}", describe_model)


async def list_models(request: web.Request) -> web.Response:
    """List the only model."""
    return web.json_response({"object": "list", "data": [_model(request.app)]})


async def describe_model(request: web.Request) -> web.Response:
    """Describe the model, if the name is its own."""
    model, name = request.app[MODEL], request.match_info["id"]
    if name != model:
        return error_response(404, f"there is no model {name[:60]!r}: this server has {model!r}")
    return web.json_response(_model(request.app))


def _model(app: web.Application) -> dict[str, Any]:
    return {"id": app[MODEL], "object": "model", "created": app[STARTED], "owned_by": "ds2-jax"}


async def transcribe(request: web.Request) -> web.StreamResponse:
    """Transcribe a file of a form. Raises Overloaded."""
    _check_length(request)
    detect_vanished(request)
    with request.app[UPLOADS].upload() as take:
        return await _transcribe(request, take)


async def _transcribe(request: web.Request, take: Callable[[int], None]) -> web.StreamResponse:
    own = request.app[SERVICE].recogniser
    try:
        form = await _receive(request, take)
        wishes = read_wishes(form.fields, own.meta.language)
        if form.file is None:
            raise FormError("the field 'file' is missing: send the audio file in it, as curl -F file=@NAME does")
        if not form.file:
            raise FormError("the file is empty: send an audio file")
    except FormError as error:
        return error_response(400, str(error))
    except TimeoutError:
        return error_response(408, f"nothing of the form has arrived for {READ_S:g} s")
    engine = await request.app[HOT_WORDS].engine(wishes.prompt)
    if wishes.stream:
        return await _stream(request, form.file, engine)
    result = await request.app[FILES].transcribe(form.file, engine)
    return _respond(result, wishes, own.vocabulary, own.meta.language)


def _check_length(request: web.Request) -> None:
    """Raise HTTPRequestEntityTooLarge for a request with a file beyond the limit of the server."""
    size, limit = request.content_length or 0, request.client_max_size
    if size > limit + MOST_FIELDS * FIELD_BYTES:
        raise web.HTTPRequestEntityTooLarge(limit, size)


async def _receive(request: web.Request, take: Callable[[int], None]) -> Form:
    """Read a form in memory. take: called with the size of each piece of it.

    Raises FormError, TimeoutError, and HTTPRequestEntityTooLarge beyond the limit of the server.
    """
    limit = request.client_max_size
    # not request.content_type: parsing the boundary, which it leaves out, takes as long as the rest of a small request
    kind = request.headers.get("Content-Type", "application/octet-stream").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise FormError(f"the content type is {kind[:60]!r}: send a form as multipart/form-data")
    try:
        return await read_form(await request.multipart(), limit, take)
    except FormError:
        raise
    except (ValueError, AssertionError, RuntimeError, HttpProcessingError, web.RequestPayloadError) as error:
        raise FormError(f"the form cannot be read ({str(error)[:200]}): send multipart/form-data") from error


async def read_form(reader: MultipartReader, limit: int, take: Callable[[int], None] = lambda size: None) -> Form:
    """Read a form, with a file of at most `limit` bytes. take: called with the size of each piece of it.

    Raises FormError, HTTPRequestEntityTooLarge for the file, ValueError, RuntimeError or HttpProcessingError for a form that
    is damaged, TimeoutError if nothing arrives for READ_S, and what `take` raises.
    """
    file, count = None, 0
    fields: dict[str, list[str]] = {}
    while (part := await asyncio.wait_for(reader.next(), READ_S)) is not None:
        count += 1
        if count > MOST_FIELDS:
            raise FormError(f"the form has more than {MOST_FIELDS} fields: send fewer")
        if not isinstance(part, BodyPartReader) or not part.name:
            raise FormError("the form has a part without a name: send one named field after another")
        if part.name == "file":
            file = await _read_part(part, limit, take)
            continue
        try:
            content = await _read_part(part, FIELD_BYTES, take)
            fields.setdefault(part.name.removesuffix("[]"), []).append(content.decode())
        except UnicodeDecodeError as error:
            raise FormError(f"the field {part.name[:60]!r} is not UTF-8: send text") from error
        except web.HTTPRequestEntityTooLarge as error:
            raise FormError(f"the field {part.name[:60]!r} has more than {FIELD_BYTES} bytes: shorten it") from error
    return Form(file, fields)


async def _read_part(part: BodyPartReader, limit: int, take: Callable[[int], None]) -> bytes:
    pieces, size = [], 0
    while not part.at_eof():
        async with asyncio.timeout(READ_S):
            pieces.append(await part.read_chunk(PIECE_BYTES))
        take(len(pieces[-1]))
        size += len(pieces[-1])
        if size > limit:
            raise web.HTTPRequestEntityTooLarge(limit, size)
    return b"".join(pieces)


def read_wishes(fields: Mapping[str, Sequence[str]], language: str) -> Wishes:
    """Return what the fields of a form ask for; unknown fields are ignored. language: that of the model. Raises FormError."""

    def last(name: str, default: str = "") -> str:
        return fields[name][-1].strip() if fields.get(name) else default

    response_format = last("response_format") or "json"
    if response_format not in FORMATS:
        raise FormError(f"response_format is {response_format[:60]!r}: use one of {', '.join(FORMATS)}")
    try:
        check_language(last("language"), language)
    except ValueError as error:
        raise FormError(str(error)) from error
    _check_temperature(last("temperature", "0") or "0")
    granularities = {value.strip() for value in fields.get("timestamp_granularities", ())} or {"segment"}
    if unknown := sorted(granularities.difference(GRANULARITIES)):
        raise FormError(f"timestamp_granularities is {unknown[0][:60]!r}: use {' or '.join(GRANULARITIES)}")
    stream = TRUTHS.get(last("stream").lower())
    if stream is None:
        raise FormError(f"stream is {last('stream')[:60]!r}: use true or false")
    if stream and response_format not in ("json", "text"):
        raise FormError(f"stream=true sends events, not {response_format}: use response_format=json, or stream=false")
    prompt = "\n".join([*fields.get("prompt", ()), *fields.get("keywords", ())])
    return Wishes(response_format, prompt, "word" in granularities, "segment" in granularities, stream)


def _check_temperature(text: str) -> None:
    try:
        temperature = float(text)
    except ValueError:
        temperature = math.nan
    if not 0 <= temperature <= 2:
        raise FormError(f"temperature is {text[:60]!r}: use a number of 0 to 2, which has no effect")


def _respond(result: FileResult, wishes: Wishes, vocabulary: Vocabulary, language: str) -> web.Response:
    joiner = " " if " " in vocabulary.symbols else ""
    subtitles = dataclasses.replace(cues.SUBTITLES, joiner=joiner, language=language)
    usage = {"type": "duration", "seconds": round(result.duration_s, 3)}
    match wishes.response_format:
        case "json":
            return web.json_response({"text": result.text, "usage": usage})
        case "verbose_json":
            values = describe_result(result, wishes, vocabulary, joiner)
            return web.json_response({"task": "transcribe", "language": language, **values, "usage": usage})
        case "text":
            text = f"{result.text}\n"
        case "srt":
            text = cues.format_srt(_split(result, subtitles, joiner), subtitles)
        case _:
            text = cues.format_vtt(_split(result, subtitles, joiner), subtitles)
    return web.Response(text=text, content_type=CONTENT_TYPES[wishes.response_format], charset="utf-8")


def describe_result(result: FileResult, wishes: Wishes, vocabulary: Vocabulary, joiner: str) -> dict[str, Any]:
    """Return duration, text, and the words and segments that verbose_json is to have."""
    values: dict[str, Any] = {"duration": round(result.duration_s, 3), "text": result.text}
    if wishes.segments:
        segments = _split(result, cues.SEGMENTS, joiner)
        values["segments"] = [_segment(number, cue, vocabulary) for number, cue in enumerate(segments)]
    if wishes.words:
        values["words"] = [
            {"word": word.text, "start": round(word.start_s, 3), "end": round(word.end_s, 3)} for word in result.words
        ]
    return values


def _split(result: FileResult, settings: CueSettings, joiner: str) -> list[Cue]:
    return cues.split(result.words, dataclasses.replace(settings, joiner=joiner))


def _segment(number: int, cue: Cue, vocabulary: Vocabulary) -> dict[str, Any]:
    """Describe a segment as Whisper does. tokens: symbols of the network; avg_logprob: from the confidences of the words."""
    text = cue.text.encode()
    symbols = sum(len(word.text) for word in cue.words)
    return {
        "id": number,
        "seek": 0,
        "start": round(cue.start_s, 3),
        "end": round(cue.end_s, 3),
        "text": cue.text,
        "tokens": vocabulary.encode(cue.text).tolist(),
        "temperature": 0.0,
        "avg_logprob": sum(len(w.text) * math.log(max(w.confidence, 1e-10)) for w in cue.words) / symbols,
        "compression_ratio": len(text) / len(zlib.compress(text)),
        "no_speech_prob": 0.0,
    }


async def _stream(request: web.Request, content: bytes, engine: CheckedEngine | None) -> web.StreamResponse:
    """Send the text as server-sent events while the file is recognised: only what will not change."""
    files, transport = request.app[FILES], request.transport
    if transport is None:
        raise ConnectionResetError("the client has gone")
    text, response = SettledText(), web.StreamResponse()
    response.headers[hdrs.CONTENT_TYPE] = "text/event-stream; charset=utf-8"
    response.headers[hdrs.CACHE_CONTROL] = "no-cache"

    async def send(message: dict[str, Any]) -> None:
        if not response.prepared:
            await response.prepare(request)
        async with writing(transport):
            await response.write(f"event: {message['type']}\ndata: {json.dumps(message)}\n\n".encode())

    try:
        async with contextlib.aclosing(files.stream(content, engine)) as events:
            async for event in events:
                piece = ""
                if event.partial is not None:
                    piece = text.add_partial(event.partial)
                elif event.final is not None:
                    piece = text.add_final(event.final)
                if piece:
                    await send({"type": "transcript.text.delta", "delta": piece})
        await send({"type": "transcript.text.done", "text": text.text})
    except AudioError as error:
        if not response.prepared:
            raise
        await send({"type": "error", "error": {"message": str(error), "type": "invalid_request_error"}})
    await response.write_eof()
    return response
