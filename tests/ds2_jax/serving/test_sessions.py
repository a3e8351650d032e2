"""Sessions without a network connection."""

import asyncio
import contextlib

import numpy as np
import pytest

from ds2_jax.recognition.recogniser import load
from ds2_jax.recognition.stream_settings import StreamSettings
from ds2_jax.recognition.stream_step import StreamStep
from ds2_jax.serving.sessions import EVENTS, INBOX_ITEMS, Service
from tests.servers import MODEL


def test_a_closed_session_holds_no_memory_although_something_refers_to_it():
    service = Service(load(MODEL), StreamSettings(), 1)
    service.start()

    async def talk_and_close() -> None:
        session = service.open(8000, "test")
        await session.send(np.zeros(8000, np.int16))
        service.close(session)
        while service._closed or hasattr(session.stream, "_decoder"):
            await asyncio.sleep(0.01)
        held = [name for name in ("_utterance", "_decoder", "_resampler") if hasattr(session.stream, name)]
        assert held == []
        assert session.stream._gate is None
        assert session.stream.received_s >= session.stream.processed_s >= 0

    try:
        asyncio.run(asyncio.wait_for(talk_and_close(), 60))
    finally:
        service.stop()


def test_a_turn_takes_little_of_what_a_client_sends_at_once():
    service = Service(load(MODEL), StreamSettings(), 1)

    async def send() -> None:
        session = service.open(8000, "test")
        await session.send(np.random.default_rng(0).integers(-1000, 1000, 8000 * 20, np.int16))
        assert session.take_inbox(0.01)
        assert 0 < session.stream.received_s < 10

    asyncio.run(send())


def test_commits_without_a_reader_wait():
    service = Service(load(MODEL), StreamSettings(), 1)
    service.start()

    async def flood() -> None:
        session = service.open(8000, "test")
        count = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2):
                while count < 2 * (EVENTS + INBOX_ITEMS):
                    await session.commit()
                    count += 1
        assert EVENTS <= count < 2 * (EVENTS + INBOX_ITEMS)
        service.close(session)

    try:
        asyncio.run(flood())
    finally:
        service.stop()


def test_an_error_of_the_network_ends_its_sessions_and_no_others(caplog, monkeypatch):
    service = Service(load(MODEL), StreamSettings(), 2)
    service.start()

    def fail(step: StreamStep, chunks: list) -> None:
        raise MemoryError

    async def talk(samples: np.ndarray) -> list[str]:
        session = service.open(8000, "test")
        await session.send(samples)
        session.finish()
        try:
            return [event.final.text async for event in session.events() if event.final]
        finally:
            service.close(session)

    async def check() -> None:
        monkeypatch.setattr(StreamStep, "__call__", fail)
        with pytest.raises(RuntimeError, match="MemoryError"):
            await talk(np.zeros(16000, np.int16))
        monkeypatch.undo()
        assert await talk(np.zeros(16000, np.int16)) == [""]

    try:
        asyncio.run(asyncio.wait_for(check(), 60))
    finally:
        service.stop()
    assert "MemoryError" in caplog.text
