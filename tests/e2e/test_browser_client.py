"""The browser client in a browser, whose networks, servers, tabs and clocks fail it."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import AsyncIterator, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from realtime import CommandError, ErrorCode, Identity
from realtime.server import Server
from tests.e2e.chromium import CHROMIUM, Browser, Page, browsing
from tests.e2e.processes import output_of, serving
from tests.e2e.proxies import proxy_to
from tests.peers import eventually
from tests.transports.conftest import running

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")]

CLIENT = Path(__file__).parents[2] / "clients" / "js"
#: ``room`` keeps all that is published here, ``short`` does not.
KINDS = {"room": {"join": "anyone", "history_messages": 5000}, "short": {"join": "anyone", "history_messages": 2}}
#: A client that does not wait long. ``heard`` is what came, in order, and ``states`` what the client went through.
FOLLOW = """
(async () => {
  const { connect } = await import("%s");
  globalThis.client = connect("%s", { minDelay: 50, maxDelay: 200, ...%s });
  globalThis.states = [];
  globalThis.heard = {};
  client.on("state", ({ state, transport }) => states.push(state === "connected" ? transport : state));
  for (const topic of %s) {
    heard[topic] = [];
    const sub = client.subscribe(topic);
    sub.on("message", ({ data }) => heard[topic].push(data));
    sub.on("gap", ({ from, to, count, reason }) => heard[topic].push({ from, to, count, reason }));
    await sub.ready;
  }
})()
"""
#: A client that comes back by itself only after the test.
PATIENT = "{ minDelay: 60_000 }"
#: What tabs cannot have of a browser, by the way in which they share a connection then.
WAYS = {
    "worker that never starts": "globalThis.SharedWorker = class { port = new MessageChannel().port1; }; 0",
    "leader": "delete globalThis.SharedWorker",
}


async def site(files: dict[str, bytes], scope: Any, receive: Any, send: Any) -> None:
    """An application beside the server: scripts, and else empty pages, one of which trusts nothing from elsewhere."""
    if scope["type"] == "lifespan":
        for step in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{step}.complete"})
        return
    path = scope["path"]
    script = files.get(path)
    headers = [(b"content-type", b"text/html" if script is None else b"text/javascript")]
    if path == "/strict":
        headers.append((b"content-security-policy", b"default-src 'self'"))
    status = 404 if script is None and path.endswith(".js") else 200
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": script or b"<!doctype html><link rel=icon href=/icon>"})


@pytest.fixture
async def browser(tmp_path: Path) -> AsyncIterator[Browser]:
    """A browser of the test's own."""
    async with browsing(tmp_path) as started:
        yield started


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """A server beside an application. Peers are to hear of it every second."""
    async with running(app=partial(site, {}), kinds=KINDS, ping_interval_seconds=1.0) as started:
        yield started


async def follow(page: Page, *topics: str, server: str = "", options: str = "{}", script: str = "/realtime.js") -> None:
    """Have a client on the page that is subscribed to these topics."""
    await page.evaluate(FOLLOW % (script, server, options, json.dumps(topics)))


async def publish(server: Server, topic: str, numbers: Iterable[int]) -> None:
    """Publish these numbers, at a pace at which they come one by one."""
    for number in numbers:
        await server.publish(topic, number)
        await trio.sleep(0.002)


async def set_offline(page: Page, *, offline: bool) -> None:
    """Have the browser find itself cut off; connections that are there it leaves alone."""
    await page.call("Network.enable")
    await page.call(
        "Network.emulateNetworkConditions", offline=offline, latency=0, downloadThroughput=-1, uploadThroughput=-1
    )


async def test_transports_blocked_in_turn_lose_nothing(browser: Browser, server: Server) -> None:
    """Upgrades are refused, then event streams held back, while a thousand messages come: each once, in order."""
    numbers = iter(range(1, 1001))

    async def publish_next(count: int) -> None:
        await publish(server, "room:a", (next(numbers) for _ in range(count)))

    async with proxy_to(server.address[1]) as proxy:
        page = await browser.open(f"{proxy.url}/page")
        # Long enough for any transport that is not blocked: one that is slow once is left for the next.
        await follow(page, "room:a", options="{ connectTimeout: 8000 }")
        await publish_next(250)
        for block, transport in (("refuses_upgrades", "sse"), ("buffers_streams", "poll")):
            setattr(proxy, block, True)
            proxy.cut()
            await publish_next(200)
            await page.wait_for(f"states.at(-1) === '{transport}'")
            await publish_next(175)
        await page.wait_for("heard['room:a'].length >= 1000")
        assert await page.evaluate("heard['room:a']") == list(range(1, 1001))
        used = [state for state in await page.evaluate("states") if state != "reconnecting"]
        assert used == ["websocket", "sse", "poll"]


async def test_transport_that_worked_is_remembered(browser: Browser, server: Server) -> None:
    """Where WebSockets failed twice, a page that is loaded anew does not try one."""
    async with proxy_to(server.address[1]) as proxy:
        proxy.refuses_upgrades = True
        page = await browser.open(f"{proxy.url}/page")
        await follow(page, "room:a")
        proxy.cut()
        await page.wait_for("states.length === 3")
        assert proxy.requests["/ws"] == 2
        await page.open(f"{proxy.url}/anew")
        await follow(page, "room:a")
        assert await page.evaluate("states") == ["sse"]
        assert proxy.requests["/ws"] == 2


async def test_killed_server_is_waited_for_and_what_it_took_along_is_told(browser: Browser, server: Server) -> None:
    """SIGKILL, and another one on its port: the page comes back by itself, to a gap and what is new."""
    page = await browser.open(f"{server.url}/page")
    async with serving("serve", "--dev", "--port", "0", REALTIME_ORIGINS=server.url) as first:
        await follow(page, "room:a", server=first.url)
        await first.publish("room:a", "1")
        await page.wait_for("heard['room:a'].length === 1")
        first.signal(signal.SIGKILL)
        await first.wait()
    await page.wait_for("client.state === 'reconnecting'")
    async with serving("serve", "--dev", "--port", str(first.port), REALTIME_ORIGINS=server.url) as second:
        await page.wait_for("heard['room:a'].length === 2")
        await second.publish("room:a", "2")
        await page.wait_for("heard['room:a'].length === 3")
        gap = {"from": 1, "to": 0, "count": None, "reason": "epoch_changed"}
        assert await page.evaluate("heard['room:a']") == [1, gap, 2]


async def test_silent_network_is_noticed_and_left(browser: Browser, server: Server) -> None:
    """A router forgets its connections and closes none, for 20 seconds: what is kept comes, what is not is told."""
    async with proxy_to(server.address[1]) as proxy:
        page = await browser.open(f"{proxy.url}/page")
        # One transport: a slow start would make it a poll, which notices a silence later.
        await follow(page, "room:a", "short:a", options="{ connectTimeout: 1000, transports: ['websocket'] }")
        await publish(server, "room:a", [1])
        await publish(server, "short:a", [1])
        await page.wait_for("heard['short:a'].length === 1")
        proxy.swallow()
        await publish(server, "room:a", range(2, 7))
        await publish(server, "short:a", range(2, 7))
        await trio.sleep(20)
        await page.wait_for("client.state === 'reconnecting'")
        proxy.recover()
        await page.wait_for("client.state === 'connected' && heard['short:a'].length === 2")
        await publish(server, "room:a", [7])
        await publish(server, "short:a", [7])
        await page.wait_for("heard['room:a'].length >= 7 && heard['short:a'].length >= 3")
        assert await page.evaluate("heard['room:a']") == [1, 2, 3, 4, 5, 6, 7]
        gap = {"from": 2, "to": 6, "count": 5, "reason": "too_old"}
        assert await page.evaluate("heard['short:a']") == [1, gap, 7]


@pytest.mark.parametrize("transport", ["websocket", "sse"])
async def test_network_that_is_back_is_used_at_once(browser: Browser, server: Server, transport: str) -> None:
    """The browser says when it is offline and when not: nobody waits for the next try."""
    async with proxy_to(server.address[1]) as proxy:
        page = await browser.open(f"{proxy.url}/page")
        await follow(page, "room:a", "short:a", options=f"{{ ...{PATIENT}, transports: ['{transport}'] }}")
        await set_offline(page, offline=True)
        proxy.cut()
        await page.wait_for("client.state === 'reconnecting'")
        await publish(server, "room:a", range(1, 6))
        await publish(server, "short:a", range(1, 6))
        await set_offline(page, offline=False)
        await page.wait_for("heard['room:a'].length >= 5 && heard['short:a'].length >= 1")
        assert await page.evaluate("heard['room:a']") == [1, 2, 3, 4, 5]
        gap = {"from": 1, "to": 5, "count": 5, "reason": "too_old"}
        assert await page.evaluate("heard['short:a']") == [gap]


async def test_page_that_is_looked_at_again_connects_at_once(browser: Browser, server: Server) -> None:
    """While it is hidden it waits as long as it was told."""
    async with proxy_to(server.address[1]) as proxy:
        page = await browser.open(f"{proxy.url}/page")
        await follow(page, "room:a", options=PATIENT)
        await browser.open(f"{proxy.url}/other")
        await page.wait_for("document.hidden")
        proxy.cut()
        await page.wait_for("client.state === 'reconnecting'")
        await publish(server, "room:a", [1])
        await page.call("Page.bringToFront")
        await page.wait_for("heard['room:a'].length === 1")


async def test_tab_that_was_frozen_goes_on_when_it_is_looked_at(browser: Browser, server: Server) -> None:
    """Its timers and its connection stood still; what came meanwhile comes now, once."""
    page = await browser.open(f"{server.url}/page")
    await follow(page, "room:a", options=PATIENT)
    await publish(server, "room:a", [1])
    await page.wait_for("heard['room:a'].length === 1")
    await browser.open(f"{server.url}/other")
    await page.call("Page.setWebLifecycleState", state="frozen")
    await publish(server, "room:a", [2, 3])
    await page.call("Page.setWebLifecycleState", state="active")
    await page.call("Page.bringToFront")
    await page.wait_for("heard['room:a'].length >= 3")
    await publish(server, "room:a", [4])
    await page.wait_for("heard['room:a'].length >= 4")
    assert await page.evaluate("heard['room:a']") == [1, 2, 3, 4]


async def test_computer_that_slept_goes_on_at_once(browser: Browser, server: Server) -> None:
    """An hour has passed that no timer has seen, and nobody has closed the connection: it is not trusted."""
    async with proxy_to(server.address[1]) as proxy:
        page = await browser.open(f"{proxy.url}/page")
        await page.evaluate("(() => { const now = Date.now; globalThis.slept = 0; Date.now = () => now() + slept; })()")
        await follow(page, "room:a", options=PATIENT)
        await set_offline(page, offline=True)
        proxy.swallow()
        proxy.recover()
        await page.evaluate("slept = 3_600_000")
        await publish(server, "room:a", range(1, 4))
        await set_offline(page, offline=False)
        await page.wait_for("heard['room:a'].length >= 3")
        assert await page.evaluate("heard['room:a']") == [1, 2, 3]


@pytest.mark.parametrize("way", ["worker", "worker that dies", "worker that never starts", "leader"])
async def test_tabs_share_a_connection_and_lose_nothing_with_the_one_that_held_it(
    browser: Browser, server: Server, way: str
) -> None:
    """Three tabs, one connection; what the others hear does not depend on who is there."""
    options = f"{{ shared: 'tabs', connectTimeout: {1000 if way in WAYS else 10_000} }}"
    pages = []
    for _ in range(3):
        page = await browser.open(f"{server.url}/page")
        await page.evaluate(WAYS.get(way, "0"))
        await follow(page, "room:a", options=options)
        pages.append(page)
    assert len(await browser.targets("shared_worker")) == (way not in WAYS)
    (connection,) = {await page.evaluate("client.connection") for page in pages}
    assert server.statistics().connections == 1
    async with trio.open_nursery() as nursery:
        nursery.start_soon(publish, server, "room:a", range(1, 501))
        await pages[-1].wait_for("heard['room:a'].length >= 100")
        if way == "worker that dies":
            await browser.close(*await browser.targets("shared_worker"))
        else:
            await pages.pop(0).call("Page.close")
    for page in pages:
        await page.wait_for("heard['room:a'].length >= 500")
        assert await page.evaluate("heard['room:a']") == list(range(1, 501))
        # Where all had come before the end of the one that held it, the page may not have noticed that yet.
        await page.wait_for(f"(client.connection === {json.dumps(connection)}) === {json.dumps(way == 'worker')}")
    assert len({await page.evaluate("client.connection") for page in pages}) == 1
    await eventually(lambda: server.statistics().connections == 1)


@pytest.mark.parametrize("transport", ["websocket", "sse"])
async def test_login_is_renewed_under_way_and_nobody_notices(browser: Browser, transport: str) -> None:
    """A token for ten seconds, asked for anew well before its end, twice."""
    # The warning comes after the half of it: what is left is for a slow machine.
    settings = {"authenticate": lambda token: Identity(token, expires_in=10.0)}
    async with running(app=partial(site, {}), kinds=KINDS, **settings) as server:
        page = await browser.open(f"{server.url}/page")
        token = "({ reason }) => { (globalThis.reasons ??= []).push(reason); return 'ada'; }"
        await follow(page, "room:a", options=f"{{ transports: ['{transport}'], token: {token} }}")
        connection = await page.evaluate("client.connection")
        count = 0
        while len(reasons := await page.evaluate("reasons")) < 3:
            await publish(server, "room:a", range(count + 1, count + 11))
            count += 10
        assert reasons == ["connect", *["expiring"] * (len(reasons) - 1)]
        await page.wait_for(f"heard['room:a'].length >= {count}")
        assert await page.evaluate("heard['room:a']") == list(range(1, count + 1))
        assert await page.evaluate("states") == [transport]
        assert await page.evaluate("[client.user, client.connection]") == ["ada", connection]


async def test_page_of_another_origin_is_known_by_its_cookie(browser: Browser, server: Server) -> None:
    """Where WebSockets are blocked too: the event stream and what is sent beside it bring the cookie along."""

    def authenticate(token: str) -> Identity:
        if token != "k3J9vT":
            raise CommandError(ErrorCode.AUTH_FAILED, "no such session")
        return Identity("ada")

    settings = {"dev": False, "kinds": {"room": {"join": "authenticated", "publish": "authenticated"}}}
    async with (
        running(authenticate=authenticate, cookie_name="session", origins=[server.url], **settings) as other,
        proxy_to(other.address[1]) as proxy,
    ):
        proxy.refuses_upgrades = True
        page = await browser.open(f"{server.url}/page")
        await page.evaluate("document.cookie = 'session=k3J9vT'")
        await follow(page, "room:a", server=proxy.url)
        assert (await page.evaluate("client.publish('room:a', 'hello')"))["offset"] == 1
        await page.wait_for("heard['room:a'].length === 1")
        assert await page.evaluate("[client.user, states]") == ["ada", ["sse"]]


@pytest.mark.parametrize("options", ["{}", "{ transports: ['sse'] }", "{ shared: 'tabs' }"])
async def test_strict_page_has_to_allow_nothing(browser: Browser, server: Server, options: str) -> None:
    """``default-src 'self'`` does."""
    page = await browser.open(f"{server.url}/strict")
    await follow(page, "room:a", options=options)
    await publish(server, "room:a", [1])
    await page.wait_for("heard['room:a'].length === 1")
    assert page.complaints == []


@pytest.mark.node
@pytest.mark.skipif(shutil.which("npx") is None, reason="needs npm")
async def test_bundled_client_works(browser: Browser, tmp_path: Path) -> None:
    """A bundler takes the package as it is; tabs, whose worker no bundler finds, elect one that leads."""
    esbuild = ("npx", "-y", "esbuild")
    if (await output_of(*esbuild, "--version", seconds=60.0, npm_config_fetch_retries="0"))[0]:
        pytest.skip("esbuild cannot be had")
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules" / "trio-realtime").symlink_to(CLIENT)
    (tmp_path / "entry.js").write_text('export { connect } from "trio-realtime";\n')
    bundle = tmp_path / "bundle.js"
    options = ("--bundle", "--format=esm", f"--outfile={bundle}")
    code, _, said = await output_of(*esbuild, str(tmp_path / "entry.js"), *options)
    assert code == 0, said
    files = {"/bundle.js": bundle.read_bytes()}
    async with running(app=partial(site, files), kinds=KINDS) as server:
        for options in ("{}", "{ shared: 'tabs' }"):
            page = await browser.open(f"{server.url}/page")
            await follow(page, "room:a", options=options, script="/bundle.js")
            await publish(server, "room:a", [1])
            await page.wait_for("heard['room:a'].length === 1")
