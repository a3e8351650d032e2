"""From the results of a stream to the events of OpenAI's realtime transcription: items that start, grow and end."""

import collections
import secrets
from typing import Any

from ds2_jax.recognition.stream import Partial, Segment
from ds2_jax.serving.protocols.openai_events import Detection
from ds2_jax.serving.protocols.settled import SettledText
from ds2_jax.serving.sessions import Event

COMMIT, CLEAR, RESTART = "commit", "clear", "restart"
BUFFER, TRANSCRIPTION = "input_audio_buffer", "conversation.item.input_audio_transcription"

Message = dict[str, Any]


def new_id(kind: str) -> str:
    """Return an identifier such as item_0123456789abcdef."""
    return f"{kind}_{secrets.token_hex(8)}"


class Items:
    """The items of a connection, one after another.

    detection: with server VAD, the end of a segment of the stream ends an item; else (None) only a commit does. offset_s:
    time of the connection at which the current stream started. pending: why the utterances that the client has ended,
    and whose final results have not come, were ended.
    """

    def __init__(self, detection: Detection | None):
        self.detection, self.offset_s = detection, 0.0
        self.pending: collections.deque[str] = collections.deque()
        self._previous: str | None = None
        self._end_s = 0.0  # of the previous item
        self._begin()

    def _begin(self) -> None:
        self._id, self._text, self._started = new_id("item"), SettledText(), False

    def messages(self, event: Event) -> list[Message]:
        """Return what a client is told about an event, without the identifiers of the events."""
        if event.partial is not None:
            return self._grow(event.partial)
        return [] if event.final is None else self._end_segment(event.final)

    def _grow(self, partial: Partial) -> list[Message]:
        if not partial.text or self._is_cleared:
            return []
        return [*self._start(partial), *self._delta(self._text.add_partial(partial))]

    @property
    def _is_cleared(self) -> bool:
        """Whether the client has cleared the audio to which the current results belong."""
        return bool(self.pending) and self.pending[0] == CLEAR

    def _end_segment(self, segment: Segment) -> list[Message]:
        cleared = self._is_cleared
        reason = self.pending.popleft() if segment.reason == "commit" and self.pending else segment.reason
        if cleared:
            if reason == CLEAR:
                self._end_s = self.offset_s + segment.end_s
                self._begin()
            return []
        messages = self._start(segment) if segment.text else []
        rest = self._delta(self._text.add_final(segment))
        ends = reason == COMMIT or (self.detection is not None and bool(self._text.text))
        return [*messages, *(self._complete(segment, rest) if ends else rest)]

    def _start(self, result: Partial | Segment) -> list[Message]:
        """Report the start of speech, once for each item, if it is to be detected."""
        if self._started or self.detection is None:
            return []
        self._started = True
        speech_s = result.words[0].start_s if result.words else result.start_s
        start_s = max(self._end_s, self.offset_s + speech_s - self.detection.padding_ms / 1000)
        return [{"type": f"{BUFFER}.speech_started", "audio_start_ms": round(start_s * 1000), "item_id": self._id}]

    def _delta(self, text: str) -> list[Message]:
        return [{"type": f"{TRANSCRIPTION}.delta", **self._content, "delta": text}] if text else []

    @property
    def _content(self) -> Message:
        return {"item_id": self._id, "content_index": 0}

    def _complete(self, segment: Segment, rest: list[Message]) -> list[Message]:
        end_s = self.offset_s + segment.end_s
        messages: list[Message] = []
        if self._started:
            messages.append(
                {"type": f"{BUFFER}.speech_stopped", "audio_end_ms": round(end_s * 1000), "item_id": self._id}
            )
        messages.append({"type": f"{BUFFER}.committed", "item_id": self._id, "previous_item_id": self._previous})
        usage = {"type": "duration", "seconds": round(end_s - self._end_s, 3)}
        done = {"type": f"{TRANSCRIPTION}.completed", **self._content, "transcript": self._text.text, "usage": usage}
        self._previous, self._end_s = self._id, end_s
        self._begin()
        return [*messages, *rest, done]
