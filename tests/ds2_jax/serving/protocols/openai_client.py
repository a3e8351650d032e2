"""OpenAI's official client against a server; run in an environment that has the package openai.

    python openai_client.py http PORT FILE       transcripts in all forms
    python openai_client.py realtime PORT FILE   events of a realtime transcription, with and without turn detection

Prints JSON. FILE is WAV, for `realtime` mono with 16 bits at 24 kHz.
"""

import asyncio
import base64
import json
import sys
import wave
from pathlib import Path

import openai
from pydantic import TypeAdapter

CHUNK = 4800  # bytes: 100 ms
SILENCE = bytes(2 * 24_000 * 3)


def transcribe(port: str, path: str) -> dict:
    """Transcribe a file in all forms, and describe the models."""
    with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="any", max_retries=0) as client:

        def create(**options):
            return client.audio.transcriptions.create(file=Path(path), model="whisper-1", **options)

        verbose = create(response_format="verbose_json", timestamp_granularities=["word", "segment"], prompt="hello")
        TypeAdapter(type(verbose)).validate_python(verbose.model_dump(), strict=True)
        events = list(create(stream=True))
        for event in events:
            TypeAdapter(type(event)).validate_python(event.model_dump(), strict=True)
        try:
            create(language="de")
        except openai.BadRequestError as error:
            refusal = error.body["message"]
        [model] = client.models.list().data
        return {
            "version": openai.VERSION,
            "json": create().text,
            "text": create(response_format="text"),
            "srt": create(response_format="srt"),
            "vtt": create(response_format="vtt"),
            "verbose_json": verbose.model_dump(),
            "events": [event.model_dump(exclude_none=True) for event in events],
            "refusal": refusal,
            "model": client.models.retrieve(model.id).model_dump(),
        }


async def listen(port: str, path: str) -> dict:
    """Send a file as realtime audio; return the server's events with server VAD, and without turn detection.

    Also those of the older form of sessions, if the client still has it.
    """
    with wave.open(path) as file:
        audio = file.readframes(file.getnframes())
    address = f"127.0.0.1:{port}/v1"
    async with openai.AsyncOpenAI(
        base_url=f"http://{address}", websocket_base_url=f"ws://{address}", api_key="any"
    ) as client:
        detection = {"type": "server_vad", "silence_duration_ms": 900}
        results = {
            "server_vad": await _converse(client, audio + SILENCE, detection),
            "none": await _converse(client, audio, None),
        }
        if hasattr(client.beta, "realtime"):
            results["older"] = await _converse_older(client, audio + SILENCE, detection)
        return results


async def _converse(client: openai.AsyncOpenAI, audio: bytes, detection: dict | None) -> list[dict]:
    async with client.realtime.connect(model="any", extra_query={"intent": "transcription"}) as connection:
        given = {"turn_detection": detection, "transcription": {"model": "whisper-1", "language": "en"}}
        await connection.session.update(session={"type": "transcription", "audio": {"input": given}})
        await _send(connection, audio)
        if detection is None:
            await connection.input_audio_buffer.commit()
        return await _receive(connection)


async def _converse_older(client: openai.AsyncOpenAI, audio: bytes, detection: dict) -> list[dict]:
    async with client.beta.realtime.connect(model="any", extra_query={"intent": "transcription"}) as connection:
        transcription = {"model": "whisper-1", "language": "en"}
        given = {"input_audio_format": "pcm16", "input_audio_transcription": transcription, "turn_detection": detection}
        await connection.transcription_session.update(session=given)
        await _send(connection, audio)
        return await _receive(connection)


async def _send(connection, audio: bytes) -> None:
    for start in range(0, len(audio), CHUNK):
        await connection.input_audio_buffer.append(audio=base64.b64encode(audio[start : start + CHUNK]).decode())


async def _receive(connection) -> list[dict]:
    """Return the events up to a transcript. Raises ValidationError for an event that does not have its type's fields."""
    events = []
    async for event in connection:
        if not event.type.startswith("transcription_session."):  # of these, the client types another form
            TypeAdapter(type(event)).validate_python(event.model_dump(warnings=False))
        events.append(event.model_dump(mode="json", exclude_unset=True, warnings=False))
        if event.type.endswith(("transcription.completed", "error")):
            break
    return events


if __name__ == "__main__":
    kind, *arguments = sys.argv[1:]
    print(json.dumps(transcribe(*arguments) if kind == "http" else asyncio.run(listen(*arguments))))
