"""What browsers load from here: the browser client, and the page for people who look. Files, read once.

::

    /realtime.js             the browser client
    /realtime/<name>         its parts, and those of the page
    /, /admin                the page; /realtime/admin beside an application of one's own, whose / and /admin are
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from mimetypes import guess_type
from pathlib import Path

from quart import Blueprint, Response, request
from werkzeug.exceptions import NotFound
from werkzeug.utils import redirect
from werkzeug.wrappers import Response as Redirection

from realtime.config import Settings

__all__ = ["make_pages"]

_STATIC = Path(__file__).parent.parent / "static"
#: In a wheel the client lies among the files of the page, in a checkout where it is written.
_CLIENT = next(path for path in (_STATIC / "client", _STATIC.parents[1] / "clients" / "js") if path.is_dir())
_ENTRY = "realtime.js"
_PAGE = "live.html"
#: No inline script, nothing from elsewhere, no frames.
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
}
#: A page of another origin may load the client; whether it may also connect is for `origins`. The policy is the one
#: under which its `SharedWorker` connects.
_CLIENT_HEADERS = {
    "Access-Control-Allow-Origin": "*",
    "Cross-Origin-Resource-Policy": "cross-origin",
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'",
}


class _File:
    """A file as it is answered."""

    def __init__(self, path: Path, headers: dict[str, str]) -> None:
        self._plain = path.read_bytes()
        self._zipped = gzip.compress(self._plain, mtime=0)
        self._headers = {"Cache-Control": "no-cache", "Vary": "Accept-Encoding", **headers}
        self._type = guess_type(path.name)[0] or "application/octet-stream"

    async def answer(self) -> Response:
        """For the request that is being served."""
        zipped = request.accept_encodings.quality("gzip") > 0
        response = Response(self._zipped if zipped else self._plain, mimetype=self._type, headers=self._headers)
        if zipped:
            response.headers["Content-Encoding"] = "gzip"
        await response.add_etag()
        return await response.make_conditional(request)


def make_pages(settings: Settings) -> Blueprint:
    """The pages of a server."""
    blueprint = Blueprint("realtime_pages", __name__)
    page = _File(_STATIC / _PAGE, _PAGE_HEADERS)
    client = _File(_CLIENT / _ENTRY, _CLIENT_HEADERS)
    parts = dict(_parts())

    @blueprint.get(f"/{_ENTRY}")
    async def read_client() -> Response:
        return await client.answer()

    @blueprint.get("/realtime/<name>")
    async def read_part(name: str) -> Response:
        if name not in parts:
            raise NotFound
        return await parts[name].answer()

    if settings.admin_page:

        @blueprint.get("/admin")
        @blueprint.get("/realtime/admin")
        async def read_page() -> Response:
            return await page.answer()

        @blueprint.get("/")
        async def read_root() -> Response | Redirection:
            return await page.answer() if settings.dev else redirect("/admin")

    return blueprint


def _parts() -> Iterator[tuple[str, _File]]:
    for path in (_CLIENT / "realtime").iterdir():
        yield path.name, _File(path, _CLIENT_HEADERS)
    for path in _STATIC.iterdir():
        if path.is_file() and path.name != _PAGE:
            yield path.name, _File(path, {})
