"""The HTTP side of the server: routes, access, errors."""

import hmac
import logging
import weakref
from pathlib import Path

from aiohttp import hdrs, web

from ds2_jax.serving.files import Files
from ds2_jax.serving.http import FILES, MODEL, SERVICE, SOCKETS, UPLOADS, Uploads, error_response
from ds2_jax.serving.protocols import openai_http, openai_realtime, page_socket, vosk
from ds2_jax.serving.sessions import Overloaded, Service
from ds2_jax.serving.settings import Address, Limits
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
        if request.path in OPEN_ROUTES:
            return await handler(request)
        origin = request.headers.get(hdrs.ORIGIN, "")
        foreign = bool(origin) and origin.partition("://")[2] != request.host
        allowed = foreign and bool(address.origin) and origin == address.origin
        if foreign and not allowed:
            return error_response(403, f"pages of {origin} may not use this server (--origin allows one)")
        if allowed:
            request[ALLOWED] = origin
            if request.method == hdrs.METH_OPTIONS:
                return web.Response(status=204)
        if address.token and not hmac.compare_digest(_token(request).encode(), address.token.encode()):
            if _is_page(request):
                return web.Response(text=TOKEN_PAGE, content_type="text/html", status=401)
            return error_response(401, "the token is missing or wrong: send it as 'Authorization: Bearer TOKEN'")
        response = await handler(request)
        if address.token and _is_page(request):  # for the page's own requests, and when it is loaded again
            response.set_cookie(COOKIE, address.token, httponly=True, samesite="Strict", secure=bool(address.tls_cert))
        return response

    return check


async def _allow_origin(request: web.Request, response: web.StreamResponse) -> None:
    """Tell a browser that a page of another host may read the response."""
    if ALLOWED in request:
        response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = request[ALLOWED]
        response.headers[hdrs.ACCESS_CONTROL_ALLOW_HEADERS] = "authorization, content-type"
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
