"""What browsers load: the browser client, the live page and its files."""

from __future__ import annotations

import gzip
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from quart_trio import QuartTrio

from tests.peers import Response, connect
from tests.transports.conftest import running

CLIENT = Path(__file__).parents[2] / "clients" / "js"
STATIC = Path(__file__).parent.parent.parent / "transports" / "static"
POLICY = "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"


async def get(port: int, target: str, **headers: str) -> Response:
    """One request on a connection of its own."""
    async with connect(port) as raw:
        return await raw.request(
            "GET", target, headers={name.replace("_", "-"): text for name, text in headers.items()}
        )


@pytest.fixture
async def elsewhere() -> AsyncIterator[int]:
    """The port of a server that is not in development."""
    async with running(dev=False) as server:
        yield server.address[1]


async def test_page_is_served_under_a_policy_that_lets_nothing_else_in(port: int) -> None:
    """In development at the root too; it has no script or style between its lines that the policy would stop."""
    for target in ("/", "/admin", "/realtime/admin"):
        page = await get(port, target)
        assert page.status == 200
        assert (page.header("content-type") or "").startswith("text/html")
        assert page.header("content-security-policy") == POLICY
        assert page.header("x-content-type-options") == "nosniff"
        assert page.header("access-control-allow-origin") is None
        assert page.header("server") is None
    assert not re.search(rb"<script(?![^>]*\bsrc=)|<style|\bstyle=|\bon\w+=", page.body)


async def test_everything_that_the_page_loads_is_there(port: int) -> None:
    """Its own files and what these import, and nothing from another host."""
    wanted, seen = ["/admin"], set()
    while wanted:
        target = wanted.pop()
        if target in seen:
            continue
        seen.add(target)
        file = await get(port, target)
        assert file.status == 200, target
        text = file.body.decode()
        assert not re.search(r"(?:src|href|from|import\()\s*=?\s*[\"'](?:https?:)?//", text), target
        folder = target.rpartition("/")[0]
        found = re.findall(r"(?:src=|href=|\bfrom\s|import\()\s*\"(\.?/[^\"]+)\"", text)
        wanted += [f"{folder}{name[1:]}" if name.startswith(".") else name for name in found]
    assert {"/realtime.js", "/realtime/client.js", "/realtime/live.css", "/realtime/live.js"} <= seen
    own = {f"/realtime/{path.name}" for path in STATIC.iterdir() if path.is_file() and path.name != "live.html"}
    assert own <= seen


async def test_no_file_of_the_page_hides_one_of_the_client() -> None:
    """They share a folder of the server's."""
    client = {path.name for path in (CLIENT / "realtime").iterdir()}
    assert not client & {path.name for path in STATIC.iterdir()}


async def test_file_has_its_type_and_is_packed_for_whoever_unpacks(port: int) -> None:
    """The same bytes either way."""
    for name, kind in (("live.js", "javascript"), ("live.css", "text/css"), ("live.svg", "image/svg+xml")):
        plain = await get(port, f"/realtime/{name}")
        packed = await get(port, f"/realtime/{name}", Accept_Encoding="gzip")
        assert kind in (plain.header("content-type") or "")
        assert (plain.header("content-encoding"), packed.header("content-encoding")) == (None, "gzip")
        assert plain.body == gzip.decompress(packed.body) == (STATIC / name).read_bytes()
        assert plain.header("vary") == "Accept-Encoding"


async def test_file_that_a_browser_has_is_not_sent_again(port: int) -> None:
    """It asks each time, by the tag that it got; the packed one has a tag of its own."""
    plain = (await get(port, "/realtime/live.js")).header("etag")
    packed = (await get(port, "/realtime/live.js", Accept_Encoding="gzip")).header("etag")
    assert plain is not None
    assert plain != packed
    again = await get(port, "/realtime/live.js", If_None_Match=plain)
    assert (again.status, again.body) == (304, b"")
    assert again.header("cache-control") == "no-cache"


async def test_client_may_be_loaded_by_pages_from_elsewhere_and_the_page_may_not(port: int) -> None:
    """With its parts. Whether such a page may connect is for the origins."""
    for target in ("/realtime.js", "/realtime/client.js"):
        found = await get(port, target, Origin="https://app.example")
        assert found.header("access-control-allow-origin") == "*"
        assert found.header("cross-origin-resource-policy") == "cross-origin"
    assert (await get(port, "/realtime/live.js", Origin="https://app.example")).header(
        "access-control-allow-origin"
    ) is None


async def test_root_leads_to_the_page_without_dev(elsewhere: int) -> None:
    """The page itself is for anybody: it holds nothing, and what it shows it asks for with a key."""
    root = await get(elsewhere, "/")
    assert (root.status, root.header("location")) == (302, "/admin")
    assert (await get(elsewhere, "/admin")).status == 200
    assert (await get(elsewhere, "/api/v1/stats")).status == 401


async def test_page_that_is_switched_off_is_not_there() -> None:
    """The browser client stays."""
    async with running(admin_page=False) as server:
        port = server.address[1]
        for target in ("/", "/admin", "/realtime/admin"):
            found = await get(port, target)
            assert (found.status, found.json()["type"]) == (404, "error")
        assert (await get(port, "/realtime.js")).status == 200


async def test_page_beside_an_application_leaves_its_paths_alone() -> None:
    """Its root and its `/admin` are the application's; ours are below `/realtime/`."""
    app = QuartTrio(__name__)

    @app.get("/admin")
    async def theirs() -> str:
        return "theirs"

    async with running(app=app) as server:
        port = server.address[1]
        assert (await get(port, "/admin")).body == b"theirs"
        assert (await get(port, "/")).status == 404
        assert (await get(port, "/realtime/admin")).header("content-security-policy") == POLICY
        assert (await get(port, "/realtime/live.js")).status == 200
        assert (await get(port, "/realtime.js")).status == 200
