"""The Quart-Trio application: the HTTP API, and the page."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from quart import Blueprint, Response, has_request_context, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from realtime.engine import Engine
from realtime.errors import CommandError, ErrorCode
from realtime.routes import Transport
from transports.http.api import API
from transports.http.dispatch import MAX_BODY_BYTES, add_endpoints, end_if_unread, error_answer, failure_answer
from transports.http.endpoints import Access, Endpoint, Endpoints
from transports.http.front_door import FRONT_DOOR
from transports.http.openapi import openapi_document
from transports.http.pages import make_pages
from transports.responses import UPGRADE_HEADERS, UPGRADE_STATUS, upgrade_required

__all__ = ["make_api", "make_app"]

#: What no response needs a right for; a page of ours says more itself.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def make_api(engine: Engine, *, url_prefix: str | None = None) -> Blueprint:
    """The HTTP API as a blueprint, for an application that runs under plain hypercorn."""
    return _api(engine, API, url_prefix)


def make_app(engine: Engine) -> QuartTrio:
    """The application behind the front door."""
    app = QuartTrio("transports.http", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    app.config["BODY_TIMEOUT"] = engine.settings.request_timeout_seconds
    app.register_blueprint(_api(engine, (*API, *FRONT_DOOR), None))

    app.register_blueprint(make_pages(engine.settings))
    app.after_request(end_if_unread)

    @app.after_request
    async def secure(response: Response) -> Response:
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    @app.errorhandler(404)
    async def not_found(_error: Exception) -> Response:
        # Not for a WebSocket that finds nothing here.
        path = request.path if has_request_context() and request.method == "GET" else ""
        if path == "/ws" or engine.routes.find(path, Transport.WEBSOCKET):
            response = error_answer(upgrade_required(), status=UPGRADE_STATUS)
            response.headers.update(UPGRADE_HEADERS)
            return response
        return error_answer(CommandError(ErrorCode.BAD_REQUEST, "there is nothing at this path"), status=404)

    @app.errorhandler(405)
    async def wrong_method(error: MethodNotAllowed) -> Response:
        methods = ", ".join(sorted(error.valid_methods or ()))
        response = error_answer(CommandError(ErrorCode.BAD_REQUEST, f"the methods here are {methods}"), status=405)
        response.headers["Allow"] = methods
        return response

    @app.errorhandler(Exception)
    async def failed(error: Exception) -> Response | HTTPException:
        return error if isinstance(error, HTTPException) else failure_answer(request.path, error)

    return app


def _api(engine: Engine, endpoints: Iterable[Endpoint], url_prefix: str | None) -> Blueprint:
    """These endpoints, and the document that describes them."""
    blueprint = Blueprint("realtime_api", __name__, url_prefix=url_prefix)
    described = Endpoints()

    @described.get("/openapi.json", access=Access.ANYONE)
    async def read_openapi(engine: Engine) -> dict[str, Any]:  # noqa: ARG001
        """Read this document."""
        return document

    every = (*endpoints, *described)
    document = openapi_document(every, server=url_prefix or "/")
    add_endpoints(engine, blueprint, every)
    return blueprint
