"""Events that clients of OpenAI's realtime transcription send, and the configuration of a session.

Both forms of a session are read and written: that of `session.update` (audio.input...), and the older, flat one of
`transcription_session.update` (input_audio_format...).
"""

import base64
import binascii
import dataclasses
import io
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import soundfile

from ds2_jax.recognition.stream_settings import StreamSettings
from ds2_jax.serving.protocols.language import check_language
from ds2_jax.serving.protocols.messages import parse_object

APPEND, COMMIT, CLEAR = "input_audio_buffer.append", "input_audio_buffer.commit", "input_audio_buffer.clear"
UPDATE, FLAT_UPDATE = "session.update", "transcription_session.update"
TYPES = (UPDATE, FLAT_UPDATE, APPEND, COMMIT, CLEAR)
PCM, MU_LAW, A_LAW = "audio/pcm", "audio/pcmu", "audio/pcma"
FLAT_FORMATS = {"pcm16": PCM, "g711_ulaw": MU_LAW, "g711_alaw": A_LAW}
G711 = {MU_LAW: "ULAW", A_LAW: "ALAW"}  # names of libsndfile
PCM_HZ, G711_HZ = 24_000, 8_000
RATES_HZ = (8_000, 48_000)
PROMPT_CHARACTERS = 10_000


class EventError(ValueError):
    """An event that cannot be used. code, param, event_id: as in OpenAI's `error` events."""

    def __init__(self, message: str, param: str | None = None, code: str = "invalid_value"):
        self.param, self.code = param, code
        self.event_id: str | None = None
        super().__init__(message)


@dataclass(frozen=True)
class ClientEvent:
    """An event. audio: bytes of `append`. session: the object of an update."""

    type: str
    event_id: str | None = None
    audio: bytes = field(default=b"", repr=False)
    session: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Detection:
    """Server VAD: when an item starts and ends; None for the server's own settings.

    threshold: probability from which audio counts as voice. padding_ms: by which items start before the first word.
    """

    threshold: float | None = None
    padding_ms: int = 300
    silence_ms: int | None = None


@dataclass(frozen=True)
class Configuration:
    """What a client may set.

    model: any name, without effect. detection: None if only commits end an item. prompt: its words are hot words.
    """

    encoding: str = PCM
    rate_hz: int = PCM_HZ
    model: str = ""
    language: str = ""
    prompt: str = ""
    detection: Detection | None = field(default_factory=Detection)

    def stream_settings(self, own: StreamSettings) -> StreamSettings:
        """Return the settings of a stream, completed by those of the server."""
        detection = self.detection or Detection()
        if detection.threshold is not None:
            own = dataclasses.replace(own, voice=detection.threshold)
        if detection.silence_ms is not None:
            rules = dataclasses.replace(own.endpoint, after_text_s=detection.silence_ms / 1000, early_s=0.0)
            own = dataclasses.replace(own, endpoint=rules)
        return own


def parse_event(text: str) -> ClientEvent:
    """Return the event in a message. Raises EventError."""
    try:
        values = parse_object(text)
    except ValueError as error:
        raise EventError(str(error), code="invalid_json") from error
    event_id = values.get("event_id")
    event_id = event_id if isinstance(event_id, str) else None
    try:
        return _parse(values, event_id)
    except EventError as error:
        error.event_id = event_id
        raise


def _parse(values: dict[str, Any], event_id: str | None) -> ClientEvent:
    kind = values.get("type")
    if not isinstance(kind, str) or kind not in TYPES:
        raise EventError(f"type is {_show(kind)}: this server transcribes, and takes {', '.join(TYPES)}", "type")
    if kind == APPEND:
        return ClientEvent(kind, event_id, audio=_decode(values.get("audio")))
    if kind in (UPDATE, FLAT_UPDATE):
        return ClientEvent(kind, event_id, session=_object(values.get("session"), "session"))
    return ClientEvent(kind, event_id)


def _decode(audio: Any) -> bytes:
    """Return the bytes of base64."""
    try:
        return base64.b64decode(audio.encode("ascii"), validate=True)
    except (AttributeError, UnicodeEncodeError, binascii.Error) as error:
        raise EventError(f"audio is not base64 ({error}): encode the bytes of the samples", "audio") from error


def decode_samples(audio: bytes, encoding: str) -> np.ndarray:
    """Return the samples [N] int16 of a piece of audio; PCM has two bytes a sample, little-endian."""
    if encoding == PCM:
        return np.frombuffer(audio, "<i2")
    if not audio:
        return np.zeros(0, np.int16)
    raw = {"samplerate": G711_HZ, "channels": 1, "format": "RAW", "subtype": G711[encoding]}
    return soundfile.read(io.BytesIO(audio), dtype="int16", **raw)[0]


def update(configuration: Configuration, session: dict[str, Any], language: str) -> Configuration:
    """Return a configuration with the values of an update, in either form. Raises EventError.

    language: that of the model.
    """
    if session.get("type", "transcription") != "transcription":
        raise EventError(
            f"session.type is {_show(session['type'])}: this server transcribes, use 'transcription'", "session.type"
        )
    values = _flatten(session)
    if "format" in values:
        configuration = _set_format(configuration, values["format"])
    if values.get("transcription") is not None:
        configuration = _set_transcription(configuration, _object(values["transcription"], "transcription"), language)
    if "turn_detection" in values:
        configuration = dataclasses.replace(configuration, detection=_detection(values["turn_detection"]))
    return configuration


def _flatten(session: dict[str, Any]) -> dict[str, Any]:
    """Return format, transcription and turn_detection, as far as they are given."""
    values = {
        name: session[old]
        for name, old in (("transcription", "input_audio_transcription"), ("turn_detection", "turn_detection"))
        if old in session
    }
    if session.get("input_audio_format") is not None:
        old = session["input_audio_format"]
        values["format"] = {"type": FLAT_FORMATS.get(old, old) if isinstance(old, str) else old}
    audio = _object(session.get("audio") or {}, "session.audio")
    given = _object(audio.get("input") or {}, "session.audio.input")
    values |= {name: given[name] for name in ("transcription", "turn_detection") if name in given}
    if given.get("format") is not None:
        values["format"] = given["format"]
    return values


def _set_format(configuration: Configuration, value: Any) -> Configuration:
    audio = _object(value, "format")
    kind = audio.get("type", PCM)
    if kind not in (PCM, *G711):
        allowed = ", ".join((*FLAT_FORMATS.values(), *FLAT_FORMATS))
        raise EventError(f"the format is {_show(kind)}: use one of {allowed}", "format")
    if kind != PCM:
        return dataclasses.replace(configuration, encoding=kind, rate_hz=G711_HZ)
    rate_hz = _number(audio, "rate", RATES_HZ)
    return dataclasses.replace(configuration, encoding=kind, rate_hz=PCM_HZ if rate_hz is None else round(rate_hz))


def _set_transcription(configuration: Configuration, values: dict[str, Any], own: str) -> Configuration:
    model, language = _text(values, "model"), _text(values, "language")
    if model is not None:
        configuration = dataclasses.replace(configuration, model=model)
    if language is not None:
        try:
            check_language(language, own)
        except ValueError as error:
            raise EventError(str(error), "language") from error
        configuration = dataclasses.replace(configuration, language=language)
    prompt = _text(values, "prompt")
    if prompt is not None or values.get("keywords") is not None:
        keywords = values.get("keywords") or []
        if not isinstance(keywords, list) or not all(isinstance(word, str) for word in keywords):
            raise EventError("keywords are not a list of texts", "keywords")
        prompt = "\n".join([*([prompt] if prompt else []), *keywords])
        if len(prompt) > PROMPT_CHARACTERS:
            raise EventError(f"the prompt has {len(prompt)} characters: use at most {PROMPT_CHARACTERS}", "prompt")
        configuration = dataclasses.replace(configuration, prompt=prompt)
    return configuration


def _detection(value: Any) -> Detection | None:
    if value is None:
        return None
    values = _object(value, "turn_detection")
    kind = values.get("type", "server_vad")
    if kind != "server_vad":
        raise EventError(f"turn_detection is {_show(kind)}: use 'server_vad', or null", "turn_detection")
    threshold = _number(values, "threshold", (0, 1))
    padding_ms = _number(values, "prefix_padding_ms", (0, 10_000))
    silence_ms = _number(values, "silence_duration_ms", (50, 60_000))
    return Detection(
        threshold,
        Detection.padding_ms if padding_ms is None else round(padding_ms),
        None if silence_ms is None else round(silence_ms),
    )


def describe(configuration: Configuration, own: StreamSettings, *, flat: bool) -> dict[str, Any]:
    """Return the configuration as clients read it, with the values that apply. own: the settings of the server."""
    turns = None
    if configuration.detection is not None:
        settings = configuration.stream_settings(own)
        turns = {
            "type": "server_vad",
            "threshold": settings.voice,
            "prefix_padding_ms": configuration.detection.padding_ms,
            "silence_duration_ms": round(settings.endpoint.after_text_s * 1000),
        }
    transcription = {
        "model": configuration.model or None,
        "language": configuration.language or None,
        "prompt": configuration.prompt,
    }
    if flat:
        names = {kind: name for name, kind in FLAT_FORMATS.items()}
        return {
            "modalities": ["text"],
            "input_audio_format": names[configuration.encoding],
            "input_audio_transcription": transcription,
            "input_audio_noise_reduction": None,
            "turn_detection": turns,
            "include": None,
        }
    audio: dict[str, Any] = {"type": configuration.encoding}
    if configuration.encoding == PCM:
        audio["rate"] = configuration.rate_hz
    given = {"format": audio, "transcription": transcription, "noise_reduction": None, "turn_detection": turns}
    return {"type": "transcription", "audio": {"input": given}, "include": None}


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise EventError(f"{name} is {_show(value)}: it must be a JSON object", name)
    return value


def _text(values: dict[str, Any], name: str) -> str | None:
    value = values.get(name)
    if value is not None and not isinstance(value, str):
        raise EventError(f"{name} is {_show(value)}: it must be a text", name)
    return value


def _number(values: dict[str, Any], name: str, limits: tuple[float, float]) -> float | None:
    """Return a number within limits; None if it is not given."""
    value = values.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not limits[0] <= value <= limits[1]:
        raise EventError(f"{name} is {_show(value)}: use {limits[0]} to {limits[1]}", name)
    return value


def _show(value: Any) -> str:
    return repr(value)[:60]
