"""The Quart-Trio application: health, statistics, the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
from quart import Response, request
from quart_trio import QuartTrio

from realtime.engine import Engine
from realtime.errors import CommandError, ErrorCode
from transports.credentials import HeaderMap, has_api_key
from transports.responses import error_body, error_headers, status_of

__all__ = ["make_app"]

_STATIC = Path(__file__).parent.parent / "static"
#: No inline script, nothing from elsewhere, no frames.
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def make_app(engine: Engine) -> QuartTrio:
    """The application for one engine."""
    app = QuartTrio("transports.http", static_folder=str(_STATIC), static_url_path="/static")

    @app.get("/healthz")
    async def healthz() -> dict[str, Any]:
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz() -> tuple[dict[str, Any], int]:
        if engine.draining:
            return {"status": "draining"}, 503
        return {"status": "ready"}, 200

    @app.get("/api/v1/stats")
    async def stats() -> Response | dict[str, Any]:
        if not (engine.settings.dev or has_api_key(engine, HeaderMap(request.headers))):
            error = CommandError(ErrorCode.AUTH_REQUIRED, "the statistics need an API key")
            return Response(
                error_body(error),
                status_of(error),
                content_type="application/json",
                headers=error_headers(error),
            )
        return attrs.asdict(engine.statistics())

    @app.get("/")
    async def page() -> Response:
        return Response((_STATIC / "live.html").read_text(), content_type="text/html; charset=utf-8")

    @app.after_request
    async def secure(response: Response) -> Response:
        for name, value in _PAGE_HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    @app.errorhandler(404)
    async def not_found(_error: Exception) -> tuple[dict[str, str], int]:
        return {"type": "error", "code": ErrorCode.BAD_REQUEST, "message": "there is nothing at this path"}, 404

    @app.errorhandler(405)
    async def wrong_method(_error: Exception) -> tuple[dict[str, str], int]:
        return {"type": "error", "code": ErrorCode.BAD_REQUEST, "message": "this path has other methods"}, 405

    return app
