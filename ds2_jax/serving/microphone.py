"""The microphone of this machine."""

import asyncio
from collections.abc import AsyncIterator

import numpy as np

from ds2_jax.serving.client import PIECE_S

NO_LIBRARY = "the library PortAudio, which reads the microphone, is not installed: apt-get install libportaudio2, or give --file=a.wav"


class Microphone:
    """The default microphone: `with Microphone() as microphone`. Raises ValueError that says why there is none.

    rate_hz: its samples a second.
    """

    def __init__(self):
        try:
            import sounddevice
        except OSError as error:
            raise ValueError(NO_LIBRARY) from error
        self._loop = asyncio.get_running_loop()
        self._pieces: asyncio.Queue[np.ndarray] = asyncio.Queue()
        try:
            device = sounddevice.query_devices(kind="input")
            self.rate_hz = int(device["default_samplerate"])
            self._stream = sounddevice.InputStream(
                samplerate=self.rate_hz,
                blocksize=round(PIECE_S * self.rate_hz),
                channels=1,
                dtype="int16",
                latency="low",
                callback=self._record,
            )
        except (sounddevice.PortAudioError, ValueError) as error:
            raise ValueError(f"no microphone can be used ({error}): connect one, or give --file=a.wav") from error

    def __enter__(self) -> "Microphone":
        """Start recording."""
        self._stream.start()
        return self

    def __exit__(self, *_) -> None:
        """Stop recording."""
        self._stream.close()

    async def pieces(self) -> AsyncIterator[np.ndarray]:
        """Yield what is recorded, in pieces [N] int16."""
        while True:
            yield await self._pieces.get()

    def _record(self, samples: np.ndarray, *_) -> None:
        """Take samples [N, 1], in a thread of PortAudio."""
        self._loop.call_soon_threadsafe(self._pieces.put_nowait, samples[:, 0].copy())
