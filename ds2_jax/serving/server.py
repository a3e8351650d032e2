"""Run all protocols of a server until a signal."""

import asyncio
import contextlib
import logging
import signal
import ssl

from aiohttp import WSCloseCode, web
from aiohttp.http_exceptions import HttpProcessingError

from ds2_jax.recognition.recogniser import Recogniser
from ds2_jax.recognition.stream_settings import StreamSettings
from ds2_jax.serving import memory
from ds2_jax.serving.app import make_app
from ds2_jax.serving.files import Files
from ds2_jax.serving.http import SOCKETS, UPLOADS, Uploads
from ds2_jax.serving.protocols import demo, wyoming
from ds2_jax.serving.sessions import Service
from ds2_jax.serving.settings import LOOPBACK, Address, Limits

logger = logging.getLogger("ds2_jax")


def serve(recogniser: Recogniser, model: str, streams: StreamSettings, address: Address, limits: Limits) -> None:
    """Serve until SIGTERM or SIGINT; sessions that are open then may finish for `limits.stop_s` seconds.

    Raises ValueError if an address cannot be used.
    """
    service = Service(recogniser, streams, limits.sessions)
    files = Files(service, limits.longest_file_s)
    service.start()
    memory.ignore_what_stays()
    try:
        asyncio.run(_serve(service, files, model, address, limits))
    finally:
        files.stop()
        service.stop()


async def _serve(service: Service, files: Files, model: str, address: Address, limits: Limits) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    app = make_app(service, files, model, address, limits)
    runner = web.AppRunner(app, logger=_http_logger(), access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
    await runner.setup()
    returning = asyncio.create_task(memory.return_freed())
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(returning.cancel)
        stack.push_async_callback(runner.cleanup)
        with _address_errors(address.host, address.port):
            site = web.TCPSite(runner, address.host, address.port, ssl_context=_tls(address))
            await site.start()
        for start, port in ((wyoming.start, address.wyoming_port), (demo.start, address.demo_port)):
            if port:
                with _address_errors(address.host, port):
                    await stack.enter_async_context(await start(service, model, address.host, port))
        port = runner.addresses[0][1]
        scheme, host = (
            "https" if address.tls_cert else "http",
            address.host if address.host != "0.0.0.0" else "localhost",
        )
        print(f"{model} is served at {scheme}://{host}:{port}/ (stop with Ctrl-C)", flush=True)
        if address.host not in LOOPBACK and not address.token:
            logger.warning("anyone who reaches %s:%d may use this server: --token=... restricts it", address.host, port)
        await stopped.wait()
        await site.stop()  # no new connections
        print("stopping: open sessions and files may finish", flush=True)
        await _wait_for_clients(service, app[UPLOADS], limits.stop_s)
        closing = {"code": WSCloseCode.GOING_AWAY, "message": b"the server stops"}
        await asyncio.gather(*(socket.close(**closing) for socket in app[SOCKETS]), return_exceptions=True)


async def _wait_for_clients(service: Service, uploads: Uploads, limit_s: float) -> None:
    """Wait until no session is open and no file is being received or transcribed, or the time is over."""
    deadline = asyncio.get_running_loop().time() + limit_s
    while (service.active or uploads.active) and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.05)


def _http_logger() -> logging.Logger:
    """Return a logger for exceptions in handlers, but not for what clients do: send what is not HTTP, go while they are answered."""

    def is_ours(record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError | ConnectionError))

    http = logging.getLogger("ds2_jax.http")
    http.filters = [is_ours]
    return http


def _tls(address: Address) -> ssl.SSLContext | None:
    if not address.tls_cert:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(address.tls_cert, address.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise ValueError(
            f"--tls_cert={address.tls_cert} and --tls_key={address.tls_key} cannot be used ({error}): give a certificate and its "
            "key as PEM files"
        ) from error
    return context


@contextlib.contextmanager
def _address_errors(host: str, port: int):
    try:
        yield
    except OSError as error:
        raise ValueError(f"{host}:{port} cannot be used ({error.strerror}): choose another --port or --host") from error
