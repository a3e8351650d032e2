"""A client of the server's WebSocket /stream: sends audio, receives results, measures their delays. Loads no JAX."""

import asyncio
import bisect
import json
import os
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import numpy as np

PIECE_S = 0.02  # audio in a message
CONNECT_S = 10.0
SENDINGS_S = 30.0  # of audio whose times of sending are kept: the server reads no further ahead
HEARTBEAT_S = 10.0  # a server that does not answer for so long is lost
TRY_AGAIN_LATER, GOING_AWAY = 1013, 1001  # codes with which the server closes a WebSocket
QUANTILE = 0.98


class ServerError(ValueError):
    """The server cannot be used, or has ended the stream; the message says why, and what to do."""


@dataclass(frozen=True)
class Server:
    """Address of a server. token: '' for none. certificate: a PEM file that is trusted beside the system's; implies TLS."""

    host: str = "127.0.0.1"
    port: int = 8086
    token: str = ""
    tls: bool = False
    certificate: str = ""

    @property
    def name(self) -> str:
        """HOST:PORT as in an address."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_secure(self) -> bool:
        """Whether the connection uses TLS."""
        return self.tls or bool(self.certificate)

    def tls_context(self) -> ssl.SSLContext | bool:
        """Return what aiohttp takes as `ssl`. Raises ServerError for a certificate that cannot be read."""
        if not self.certificate:
            return True
        context = ssl.create_default_context()
        try:
            context.load_verify_locations(self.certificate)
        except (OSError, ssl.SSLError) as error:
            raise ServerError(
                f"--tls_cert={self.certificate} cannot be used ({error}): give the server's certificate as a PEM file"
            ) from error
        return context


@dataclass(frozen=True)
class Result:
    """A partial or final result. settled: number of words that will not change. delay_s: None if it is unknown.

    The delay is the time since the newest audio that the result needed was sent; for a committed one, since the commit.
    """

    text: str
    words: list[dict[str, Any]]
    is_final: bool
    settled: int
    delay_s: float | None


@dataclass
class Delays:
    """Delays of results [s]."""

    partial: list[float] = field(default_factory=list)
    final: list[float] = field(default_factory=list)

    def add(self, result: Result) -> None:
        """Add the delay of a result with text."""
        if result.delay_s is not None and result.text:
            (self.final if result.is_final else self.partial).append(result.delay_s)

    def format(self) -> str:
        """Return median and 98th percentile of both kinds in one line."""
        return "delay: " + "; ".join(
            f"{name} {_format_delays(values)}"
            for name, values in (("partial results", self.partial), ("final results", self.final))
        )


def _format_delays(values: list[float]) -> str:
    if not values:
        return "none"
    median, high = np.quantile(values, (0.5, QUANTILE)) * 1000
    return f"median {median:.0f} ms, {QUANTILE:.0%} within {high:.0f} ms (of {len(values)})"


class Connection:
    """A stream to a server: `async with Connection(server, 16000) as stream`. Raises ServerError.

    rate_hz: samples a second of the audio that is sent.
    """

    def __init__(self, server: Server, rate_hz: int):
        self._server, self._rate_hz = server, rate_hz
        self._sent_s: list[float] = []  # audio sent after each message that the server may not have processed,
        self._clocks: list[float] = []  # and when
        self._commits: list[float] = []  # clock
        self._samples = 0

    async def __aenter__(self) -> "Connection":
        """Connect and wait until the server is ready."""
        self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_S))
        try:
            await self._connect()
        except BaseException:
            await self._http.close()
            raise
        return self

    async def __aexit__(self, *_) -> None:
        """Disconnect."""
        await self._socket.close()
        await self._http.close()

    async def send(self, samples: np.ndarray) -> None:
        """Send samples [N] int16."""
        self._samples += len(samples)
        self._sent_s.append(self._samples / self._rate_hz)
        self._clocks.append(time.monotonic())
        self._forget(before_s=self._sent_s[-1] - SENDINGS_S)  # without speech there are no results
        await self._transmit(samples.astype("<i2").tobytes())

    async def commit(self) -> None:
        """End the utterance: a final result follows, which may be empty."""
        self._commits.append(time.monotonic())
        await self._transmit('{"commit": true}')

    async def end(self) -> None:
        """Commit and end the stream; `results` ends after the last result."""
        self._commits.append(time.monotonic())
        await self._transmit('{"end": true}')

    async def results(self) -> AsyncIterator[Result]:
        """Yield results until the stream has ended. Raises ServerError if it ends early."""
        while (message := await self._receive())["type"] != "end":
            yield self._read(message)

    async def _connect(self) -> None:
        server = self._server
        address = f"{'wss' if server.is_secure else 'ws'}://{server.name}/stream?rate={self._rate_hz}&format=int16"
        headers = {"Authorization": f"Bearer {server.token}"} if server.token else {}
        try:
            self._socket = await self._http.ws_connect(
                address, headers=headers, heartbeat=HEARTBEAT_S, ssl=server.tls_context()
            )
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ServerError(_explain(server, error)) from error
        await self._receive()

    async def _transmit(self, data: str | bytes) -> None:
        """Send a message; on a connection that has closed do nothing, because `results` reports it."""
        try:
            await (self._socket.send_str(data) if isinstance(data, str) else self._socket.send_bytes(data))
        except aiohttp.ClientConnectionResetError:
            return

    async def _receive(self) -> dict[str, Any]:
        message = await self._socket.receive()
        if message.type == aiohttp.WSMsgType.TEXT:
            content = json.loads(message.data)
            if content["type"] == "error":
                raise ServerError(f"the server has ended the stream: {content['message']}")
            return content
        code, reason = self._socket.close_code, message.extra
        if code == TRY_AGAIN_LATER:
            raise ServerError(f"the server is busy: {reason or 'try again later'}")
        if code == GOING_AWAY:
            raise ServerError("the server has stopped: start it again")
        raise ServerError(
            f"the connection to {self._server.name} was lost (code {code}): check the network and the server"
        )

    def _forget(self, before_s: float) -> None:
        """Forget when the audio before a time was sent."""
        count = bisect.bisect_left(self._sent_s, before_s)
        del self._sent_s[:count], self._clocks[:count]

    def _read(self, message: dict[str, Any]) -> Result:
        is_final, now = message["type"] == "final", time.monotonic()
        self._forget(before_s=message["processed_s"] - 1e-4)
        since = self._clocks[0] if self._clocks else None
        if is_final and message["reason"] == "commit" and self._commits:
            since = self._commits.pop(0)
        words = message["words"]
        return Result(
            message["text"], words, is_final, message.get("settled", len(words)), None if since is None else now - since
        )


def _explain(server: Server, error: Exception) -> str:
    """Return why no connection came about, and what to do."""
    if isinstance(error, aiohttp.WSServerHandshakeError):
        if error.status == 401:
            problem = "does not accept this token: give another one" if server.token else "requires a token: give it"
            return f"{server.name} {problem} as --token=... or in DS2_TOKEN"
        return (
            f"{server.name} is no server of --mode=serve, or refuses this client (status {error.status}): check --port"
        )
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return (
            f"the certificate of {server.name} is not trusted ({error.certificate_error}): give it as --tls_cert=FILE, and "
            "a --host for which it is valid"
        )
    if isinstance(error, aiohttp.ClientSSLError):
        return f"{server.name} does not use TLS: leave out --tls and --tls_cert"
    if isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError) and not isinstance(
        error, aiohttp.ClientConnectorError
    ):
        return f"{server.name} ended the connection: if it uses TLS, add --tls"
    reason = "no answer"
    if isinstance(error, aiohttp.ClientConnectorError):
        number = error.os_error.errno or 0  # those of names that cannot be resolved are negative
        reason = os.strerror(number) if number > 0 else str(error.os_error.strerror)
    return f"no server answers at {server.name} ({reason}): start one with --mode=serve, or correct --host and --port"


async def at_speaking_pace(samples: np.ndarray, rate_hz: int) -> AsyncIterator[np.ndarray]:
    """Yield pieces of samples [N], each when a microphone would have recorded it."""
    size, loop = round(PIECE_S * rate_hz), asyncio.get_running_loop()
    start = loop.time()
    for offset in range(0, len(samples), size):
        piece = samples[offset : offset + size]
        await asyncio.sleep(start + (offset + len(piece)) / rate_hz - loop.time())
        yield piece
