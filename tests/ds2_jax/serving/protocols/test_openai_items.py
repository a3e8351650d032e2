from decoding.hypothesis import Word
from ds2_jax.recognition.stream import Partial, Segment
from ds2_jax.serving.protocols.openai_events import Detection
from ds2_jax.serving.protocols.openai_items import CLEAR, COMMIT, RESTART, Items
from ds2_jax.serving.sessions import Event


def partial(text: str, settled: int, start_s: float) -> Event:
    return Event(partial=Partial(text, words(text, start_s), settled, start_s))


def final(text: str, start_s: float, end_s: float, reason: str = "commit") -> Event:
    return Event(final=Segment(text, words(text, start_s), 1.0, start_s, end_s, reason, []))


def words(text: str, start_s: float) -> list[Word]:
    return [Word(word, start_s + i, start_s + i + 0.5, 1.0) for i, word in enumerate(text.split())]


def short(messages: list[dict]) -> list[tuple]:
    """Return the last part of each type, and the value that matters."""
    names = ("audio_start_ms", "audio_end_ms", "delta", "transcript")
    return [
        (message["type"].rpartition(".")[2], *(message[name] for name in names if name in message))
        for message in messages
    ]


def test_a_segment_is_an_item_of_server_vad():
    items = Items(Detection(padding_ms=200))
    assert short(items.messages(partial("one t", 1, 1.0))) == [("speech_started", 800), ("delta", "one")]
    assert short(items.messages(final("one two", 1.0, 4.0, "silence"))) == [
        ("speech_stopped", 4000),
        ("committed",),
        ("delta", " two"),
        ("completed", "one two"),
    ]


def test_an_item_does_not_start_before_the_end_of_the_last_one():
    items = Items(Detection(padding_ms=1000))
    items.messages(final("one", 1.0, 4.0, "length"))
    assert short(items.messages(partial("two", 0, 4.5))) == [("speech_started", 4000)]


def test_times_go_on_when_the_stream_is_another_one():
    items = Items(Detection(padding_ms=0))
    items.offset_s = 10.0
    assert short(items.messages(partial("one", 0, 0.5))) == [("speech_started", 10_500)]


def test_without_detection_segments_are_parts_of_an_item_until_a_commit():
    items = Items(None)
    items.pending.append(COMMIT)
    assert short(items.messages(final("one", 0.0, 2.0, "silence"))) == [("delta", "one")]
    assert short(items.messages(final("two", 2.0, 4.0))) == [
        ("committed",),
        ("delta", " two"),
        ("completed", "one two"),
    ]


def test_a_commit_of_silence_is_an_item_without_text():
    items = Items(Detection())
    items.pending.append(COMMIT)
    messages = items.messages(final("", 0.0, 1.0))
    assert short(messages) == [("committed",), ("completed", "")]
    assert messages[-1]["usage"]["seconds"] == 1.0


def test_audio_before_a_clear_gives_nothing_but_what_was_committed_before_does():
    items = Items(None)
    items.pending.extend([COMMIT, CLEAR, COMMIT])
    assert short(items.messages(final("one", 0.0, 1.0)))[-1] == ("completed", "one")
    assert items.messages(partial("two", 1, 1.0)) == []
    assert items.messages(final("two", 1.0, 2.0, "silence")) == []
    assert items.messages(final("three", 2.0, 3.0)) == []
    messages = items.messages(final("four", 3.0, 4.0))
    assert short(messages)[-1] == ("completed", "four")
    assert messages[-1]["usage"]["seconds"] == 1.0


def test_a_change_of_settings_ends_an_item_only_with_detection():
    items = Items(Detection())
    items.pending.append(RESTART)
    assert short(items.messages(final("one", 0.0, 1.0)))[-1] == ("completed", "one")
    items.pending.append(RESTART)
    assert items.messages(final("", 1.0, 1.0)) == []
    items.detection = None
    items.pending.append(RESTART)
    assert short(items.messages(final("two", 1.0, 2.0))) == [("delta", "two")]
    items.pending.append(COMMIT)
    assert short(items.messages(final("three", 2.0, 3.0)))[-1] == ("completed", "two three")
