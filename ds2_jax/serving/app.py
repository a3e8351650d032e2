"""The HTTP side of the server: routes, access, errors."""

import hmac
import logging
import re
import weakref
from pathlib import Path

from aiohttp import hdrs, web

from ds2_jax.serving.files import Files
from ds2_jax.serving.http import FILES, MODEL, SERVICE, SOCKETS, UPLOADS, Uploads, error_response
from ds2_jax.serving.protocols import openai_http, openai_realtime, page_socket, vosk
from ds2_jax.serving.sessions import Overloaded, Service
from ds2_jax.serving.settings import LOOPBACK, Address, Limits
from input_pipeline.audio import AudioError

logger = logging.getLogger("ds2_jax")

PAGE = Path(__file__).with_name("page.html")
TOKEN_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark"><title>Token</title>
<form style="font: 16px system-ui; max-width: 24em; margin: 20vh auto; padding: 0 1em">
<label for="token">This server needs its token.</label><p>
<input id="token" name="token" type="password" required autofocus autocomplete="current-password"> <button>Open</button></form>
"""
COOKIE = "ds2_token"
ALLOWED = "allowed_origin"  # key of a request from a page of another host that may use the server
TOGETHER = 2  # largest files that may be in memory at the same time
OPEN_ROUTES = ("/healthz",)
PORT = re.compile(r":\d*$")  # of a host
INSECURE_KEY = "openai-insecure-api-key."  # subprotocol with which browsers send OpenAI's key


def make_app(service: Service, files: Files, model: str, address: Address, limits: Limits) -> web.Application:
    """Return the application with all routes. model: the name by which clients know the model."""
    app = web.Application(
        middlewares=[_errors, _access(address)], client_max_size=limits.upload_mb << 20, logger=logger
    )
    app[SERVICE], app[FILES], app[MODEL], app[SOCKETS] = service, files, model, weakref.WeakSet()
    app[UPLOADS] = Uploads(TOGETHER * limits.upload_mb << 20)
    app.on_response_prepare.append(_allow_origin)

    async def root(request: web.Request) -> web.StreamResponse:
        if _is_page(request):
            return web.FileResponse(PAGE, headers={"Cache-Control": "no-cache"})
        return await vosk.handle(request)

    app.router.add_get("/", root)
    app.router.add_get("/healthz", _healthz)
    app.router.add_get("/metrics", _metrics)
    app.router.add_get("/stream", page_socket.handle)
    openai_http.add_routes(app)
    app.router.add_get("/v1/realtime", openai_realtime.handle)
    return app


async def _healthz(request: web.Request) -> web.Response:
    return web.json_response({"status": "ok", "model": request.app[MODEL]})


async def _metrics(request: web.Request) -> web.Response:
    service = request.app[SERVICE]
    text = service.metrics.format(service.active)
    return web.Response(text=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


@web.middleware
async def _errors(request: web.Request, handler) -> web.StreamResponse:
    """Turn errors into responses with a reason."""
    try:
        return await handler(request)
    except AudioError as error:
        return error_response(400, str(error))
    except Overloaded as error:
        return error_response(503, str(error), "overloaded")
    except web.HTTPRequestEntityTooLarge:
        return error_response(413, "the upload is too large for this server")
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return error_response(error.status, f"{request.method} {request.path}: {error.reason}")


def _access(address: Address):
    """Return a middleware that asks for the token, and refuses pages of other hosts."""

    @web.middleware
    async def check(request: web.Request, handler) -> web.StreamResponse:
        origin = request.headers.get(hdrs.ORIGIN, "")
        foreign = bool(origin) and origin.partition("://")[2] != request.host
        if foreign and origin == address.origin:
            request[ALLOWED] = origin
        if request.path in OPEN_ROUTES:
            return await handler(request)
        if not _is_own_name(request, address):
            return error_response(403, f"this server is not {request.host}: use localhost, --origin or --token")
        if foreign and ALLOWED not in request:
            return error_response(403, f"pages of {origin} may not use this server (--origin allows one)")
        if ALLOWED in request and request.method == hdrs.METH_OPTIONS:
            return web.Response(status=204)
        if address.token and not hmac.compare_digest(_as_bytes(_token(request)), _as_bytes(address.token)):
            if _is_page(request):
                return web.Response(text=TOKEN_PAGE, content_type="text/html", status=401)
            return error_response(401, "the token is missing or wrong: send it as 'Authorization: Bearer TOKEN'")
        response = await handler(request)
        if address.token and _is_page(request):  # for the page's own requests, and when it is loaded again
            response.set_cookie(COOKIE, address.token, httponly=True, samesite="Strict", secure=bool(address.tls_cert))
        return response

    return check


def _is_own_name(request: web.Request, address: Address) -> bool:
    """Return whether the host that a client names may be this server.

    A page of another host may give its own name the address 127.0.0.1, and is then no page of another host to a browser. So
    without a token, a server for this machine alone answers to its names alone, and that of the page it allows, which may
    reach it through a proxy.
    """
    named = request.headers.get(hdrs.HOST)
    if address.token or address.host not in LOOPBACK or named is None:
        return True
    name = PORT.sub("", named).strip("[]").lower()
    return name in LOOPBACK or (bool(address.origin) and named == address.origin.partition("://")[2])


def _as_bytes(token: str) -> bytes:
    """Return a token as it was sent or given, whatever its encoding."""
    return token.encode(errors="surrogateescape")


async def _allow_origin(request: web.Request, response: web.StreamResponse) -> None:
    """Tell a browser that a page of another host may read the response."""
    if ALLOWED in request:
        response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = request[ALLOWED]
        wanted = request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS)
        if wanted:  # clients such as OpenAI's send many of their own
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_HEADERS] = wanted
        response.headers[hdrs.VARY] = hdrs.ORIGIN


def _token(request: web.Request) -> str:
    """Return the token that a client sends: header, parameter of the address, subprotocol of a WebSocket, or cookie."""
    kind, _, token = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    if kind.lower() == "bearer":
        return token.strip()
    for protocol in request.headers.get(hdrs.SEC_WEBSOCKET_PROTOCOL, "").split(","):
        if protocol.strip().startswith(INSECURE_KEY):
            return protocol.strip().removeprefix(INSECURE_KEY)
    return request.query.get("token", "") or request.cookies.get(COOKIE, "")


def _is_page(request: web.Request) -> bool:
    """Return whether a request is for the page; / is also vosk's WebSocket."""
    return request.path == "/" and request.headers.get(hdrs.UPGRADE, "").lower() != "websocket"
