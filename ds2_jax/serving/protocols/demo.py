"""The protocol of the original's demo client (deploy/demo_client.py): one utterance a connection.

The client sends the number of bytes (signed, 32 bits, big-endian) and the samples: mono, 16 kHz, signed, 32 bits,
little-endian. The server answers with the transcript in UTF-8 and closes.
"""

import asyncio
import contextlib
import logging

import numpy as np

from ds2_jax.recognition.stream import join_texts
from ds2_jax.serving.sessions import Overloaded, Service
from ds2_jax.serving.tcp import READ_S, Connection, listen
from input_pipeline.audio import AudioError

logger = logging.getLogger("ds2_jax")

RATE_HZ = 16_000
SAMPLE_BYTES = 4
HEADER_BYTES = 4
PIECE_BYTES = 1 << 16
LONGEST_S = 600


async def start(service: Service, model: str, host: str, port: int) -> contextlib.AbstractAsyncContextManager[None]:
    """Listen. Raises OSError for an address that cannot be used."""

    async def handle(connection: Connection) -> None:
        try:
            await connection.write((await _recognise(service, connection)).encode())
            await connection.linger()
        except (AudioError, Overloaded, RuntimeError) as error:
            logger.warning("demo client at %s: %s", connection.peer, error)  # the protocol has no errors

    return await listen(handle, 2 * service.limit, host, port)


def parse_header(header: bytes) -> int:
    """Return the number of bytes that follow the header. Raises AudioError."""
    length = int.from_bytes(header, "big", signed=True)
    if not 0 <= length <= LONGEST_S * RATE_HZ * SAMPLE_BYTES:
        raise AudioError(f"{length} bytes of audio are announced: send 0 to {LONGEST_S} s at {RATE_HZ} Hz with 32 bits")
    return length


async def _recognise(service: Service, connection: Connection) -> str:
    async with asyncio.timeout(READ_S):
        length = parse_header(await connection.read(HEADER_BYTES))
    session = service.open(RATE_HZ, "demo")
    try:
        while length > 0:
            async with asyncio.timeout(READ_S):
                piece = await connection.read(min(length, PIECE_BYTES))
            length -= len(piece)
            await session.send(np.frombuffer(piece[: len(piece) // SAMPLE_BYTES * SAMPLE_BYTES], "<i4"))
        session.finish()
        return join_texts([event.final.text async for event in session.events() if event.final is not None])
    finally:
        service.close(session)
