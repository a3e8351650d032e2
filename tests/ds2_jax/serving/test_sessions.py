"""Sessions without a network connection."""

import asyncio

import numpy as np

from ds2_jax.recognition.recogniser import load
from ds2_jax.recognition.stream_settings import StreamSettings
from ds2_jax.serving.sessions import Service
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
