"""A real browser: the page of the demo, and what a script on it can do. Driven through the DevTools protocol."""

from __future__ import annotations

import json
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from realtime.api_keys import new_key
from realtime.auth import Right
from tests.e2e.chromium import CHROMIUM, Page, browsing
from tests.e2e.processes import ServerProcess, serving
from tests.peers import connect, open_websocket

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")]

CONNECTED = "document.querySelector('#link')?.dataset.state === 'connected'"


class LivePage(Page):
    """The live page, and what people do with it."""

    script = "globalThis._text = (element) => element.textContent"

    async def reload(self) -> None:
        """Load the page anew, until it is connected."""
        await self.open(await self.evaluate("location.href"))
        await self.wait_for(CONNECTED)

    async def click(self, selector: str) -> None:
        """Click an element."""
        await self.evaluate(f"document.querySelector({json.dumps(selector)}).click()")

    async def fill(self, identity: str, text: str) -> None:
        """Write a text into a field."""
        await self.evaluate(
            f"(() => {{ const field = document.getElementById('{identity}'); field.value = {json.dumps(text)};"
            " field.dispatchEvent(new Event('input', { bubbles: true })); })()"
        )

    async def submit(self, identity: str) -> None:
        """Send a form off."""
        await self.evaluate(f"document.getElementById('{identity}').requestSubmit()")

    async def publish(self) -> None:
        """Send a message off, once the form takes one: the last may have been heard before its receipt has come."""
        await self.wait_for("!document.querySelector('#publish-go').disabled")
        await self.submit("publish")

    async def use_key(self, key: str) -> None:
        """Give the page an API key."""
        await self.fill("key", key)
        await self.submit("key-form")

    async def use_good_key(self, key: str) -> None:
        """Give the page an API key, and wait until it is in and an answer has shown that the key is good."""
        await self.evaluate("document.querySelector('#uptime').textContent = ''")
        await self.use_key(key)
        await self.wait_for(f"{CONNECTED} && document.querySelector('#uptime').textContent !== ''")

    async def press(self, key: str, modifiers: int = 0) -> None:
        """Press a key; modifiers as DevTools counts them."""
        code = {"Tab": 9, "Enter": 13, "Escape": 27}[key]
        text = {"text": "\r"} if key == "Enter" else {}
        known: dict[str, Any] = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        await self.call("Input.dispatchKeyEvent", type="keyDown", **known, **text)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **known)

    async def tab_to(self, identity: str) -> None:
        """Press Tab until an element has the focus."""
        for _ in range(100):
            if await self.evaluate("document.activeElement.id") == identity:
                return
            await self.press("Tab")
        pytest.fail(f"no Tab leads to {identity}")


@pytest.fixture
async def browser(tmp_path: Path) -> AsyncIterator[LivePage]:
    """An empty page in a browser of its own."""
    async with browsing(tmp_path / "profile") as started:
        yield await started.open("about:blank", LivePage)


@pytest.fixture
async def page(browser: LivePage, demo: ServerProcess) -> LivePage:
    """The page of the demo."""
    await browser.open(demo.url + "/")
    await browser.wait_for(CONNECTED)
    return browser


async def test_page_of_the_demo_is_alive_at_once(page: LivePage) -> None:
    """Connected, every symbol on the board with values that change, rates that are drawn, and no complaint."""
    await page.wait_for("document.querySelectorAll('#board-rows tr').length === 3")
    await page.wait_for("document.querySelector('#board-rows').textContent.includes('▲')")
    assert await page.evaluate("[...document.querySelectorAll('#board-head th')].slice(1, 3).map(_text)") == [
        "price",
        "volume",
    ]
    await page.wait_for("parseFloat(document.querySelectorAll('.tile .value')[4].textContent) > 5")
    await page.wait_for("document.querySelectorAll('.tile path.line')[4].getAttribute('d').includes('L')")
    await page.wait_for("document.querySelector('#topics').textContent.includes('symbol:')")
    await page.wait_for("document.querySelector('#connections').textContent.includes('this page')")
    await page.wait_for("!document.querySelector('#members').hidden")
    await page.click("#members summary")
    await page.wait_for("document.querySelectorAll('#members-list li').length === 1")
    # An answer that takes longer than the page waits brings a notice, for as long as it takes.
    await page.wait_for("document.querySelector('#notice').hidden")
    assert page.complaints == []


async def test_message_published_on_the_page_shows_in_its_tail_as_text(page: LivePage) -> None:
    """Also one that is made to be taken for markup, in its data, its event and a column of the board."""
    evil = '<img src=x onerror="globalThis.broken=1"><script>globalThis.broken=1</script>'
    await page.fill("publish-data", json.dumps({"<i>": evil}))
    await page.fill("publish-event", "<b>")
    await page.fill("board-topic", "room:lobby")
    await page.submit("board-add")
    await page.submit("publish")
    await page.wait_for("document.querySelectorAll('#tail li').length === 1")
    await page.wait_for("document.querySelector('#publish-check').textContent === 'Published at offset 1.'")
    text = await page.evaluate("document.querySelector('#tail li').textContent")
    assert json.loads("{" + text.split("{", 1)[1]) == {"<i>": evil}
    await page.wait_for("document.querySelector('#board-rows').textContent.includes('<img')")
    assert await page.evaluate("document.querySelectorAll('main img, main script, main b, main i').length") == 0
    assert await page.evaluate("globalThis.broken") is None
    assert page.complaints == []


async def test_data_that_is_not_json_is_told_as_it_is_typed_and_not_sent(page: LivePage) -> None:
    """The form is refused before anything goes out."""
    await page.fill("publish-data", '{"text": ')
    assert await page.evaluate("document.querySelector('#publish').checkValidity()") is False
    await page.wait_for("document.querySelector('#publish-check').textContent.startsWith('Not JSON')")
    await page.fill("publish-data", "1")
    assert await page.evaluate("document.querySelector('#publish').checkValidity()") is True


async def test_number_that_would_be_rounded_is_not_published(page: LivePage) -> None:
    """An order's number of twenty digits, or one that is infinite here; in quotes it may go, as may what is exact."""
    for data in ('{"order": 12345678901234567890}', "[1e400]", "9007199254740993"):
        await page.fill("publish-data", data)
        await page.wait_for("document.querySelector('#publish-check').textContent.includes('would be rounded')")
        assert await page.evaluate("document.querySelector('#publish').checkValidity()") is False
        await page.fill("publish-data", "1")
    for data in ('{"order": "12345678901234567890"}', '["\\"12345678901234567890"]', "[1e21, 0.1, -9007199254740991]"):
        await page.fill("publish-data", data)
        assert await page.evaluate("document.querySelector('#publish').checkValidity()") is True


async def test_key_that_is_held_down_publishes_once(page: LivePage) -> None:
    """Ctrl and Enter in the data, and Enter in the topic."""
    await page.evaluate(
        """(async () => {
          for (const [id, ctrlKey] of [["publish-data", true], ["publish-topic", false]])
            for (let n = 0; n < 8; n++) {
              const more = { key: "Enter", ctrlKey, repeat: n > 0, bubbles: true, cancelable: true };
              const goes = document.getElementById(id).dispatchEvent(new KeyboardEvent("keydown", more));
              if (goes && !ctrlKey) document.getElementById("publish").requestSubmit(); // as browsers do
              await new Promise((resolve) => setTimeout(resolve, 30));
              // The first is let go once its message is out: the form takes no other before.
              while (n === 7 && document.getElementById("publish-go").disabled)
                await new Promise((resolve) => setTimeout(resolve, 30));
            }
        })()"""
    )
    assert await page.evaluate("_text(document.querySelector('#publish-check'))") == "Published at offset 2."
    await page.wait_for("document.querySelectorAll('#tail li').length === 2")


async def test_board_shows_the_smallest_of_numbers_and_no_value_that_is_none(page: LivePage) -> None:
    """1e-7 is not nothing, and no object has a field that all objects inherit."""
    await page.fill("board-fields", "price, constructor")
    await page.submit("board-view")
    await page.fill("board-topic", "room:lobby")
    await page.submit("board-add")
    cells = "[...document.querySelectorAll('#board-rows tr:last-child td')].slice(0, 2).map(_text)"
    for price, shown in (("1.5e-7", "0.00000015"), ("1e-9", "1e-9"), ("0", "0.00000000")):
        await page.fill("publish-data", f'{{"price": {price}}}')
        await page.publish()
        await page.wait_for(f"{cells}[0].endsWith('{shown}')")
    assert await page.evaluate(f"{cells}[1]") == ""


async def test_row_that_is_refused_says_so_itself(page: LivePage) -> None:
    """The others have the new view, and nothing is said of the board."""
    await page.wait_for("document.querySelectorAll('#board-rows tr').length === 3")
    await page.fill("board-topic", "nothing:here")
    await page.submit("board-add")
    await page.wait_for("_text(document.querySelector('#board-rows tr:last-child .why')).startsWith('INVALID_TOPIC')")
    await page.fill("board-fields", "price")
    await page.submit("board-view")
    await page.wait_for("document.querySelectorAll('#board-head th').length === 5")
    await trio.sleep(0.5)
    assert await page.evaluate("_text(document.querySelector('#board-said'))") == ""
    why = "[...document.querySelectorAll('#board-rows .why')].map(_text).map((text) => text.split(':')[0])"
    assert await page.evaluate(why) == ["", "", "", "INVALID_TOPIC"]
    # What all are refused is said once.
    await page.fill("board-fields", "a" * 600)
    await page.submit("board-view")
    await page.wait_for("_text(document.querySelector('#board-said')) !== ''")
    assert await page.evaluate(why) == ["", "", "", "INVALID_TOPIC"]


async def test_value_with_something_missing_behind_it_is_grey_until_the_next(
    page: LivePage, demo: ServerProcess
) -> None:
    """As after a restart: what the new server has not said is old."""
    await page.fill("board-topic", "room:lobby")
    await page.submit("board-add")
    await page.fill("publish-data", '{"n": 1}')
    await page.submit("publish")
    last = "document.querySelector('#board-rows tr:last-child')"
    await page.wait_for(f"_text({last}).includes('1')")
    assert not await page.evaluate(f"{last}.hasAttribute('data-old')")
    # What is not confirmed yet would go out again, to the new server.
    await page.wait_for("document.querySelector('#publish-check').textContent === 'Published at offset 1.'")
    demo.signal(signal.SIGKILL)
    await demo.wait()
    # Before there is a server to which the page comes back by itself.
    await page.wait_for("document.querySelector('#link').dataset.state === 'reconnecting'")
    async with serving("demo", "--port", str(demo.port)):
        await page.click("#link-again")
        await page.wait_for(CONNECTED)
        await page.wait_for(f"{last}.hasAttribute('data-old')")
        await page.publish()
        await page.wait_for(f"!{last}.hasAttribute('data-old')")


async def test_board_asks_for_the_fields_that_were_chosen_and_remembers_itself(page: LivePage) -> None:
    """One column for each field; the server leaves out the rest; a row that was removed stays away."""
    await page.wait_for("document.querySelectorAll('#board-rows tr').length === 3")
    await page.fill("board-fields", "price")
    await page.submit("board-view")
    await page.wait_for("document.querySelectorAll('#board-head th').length === 5")
    await page.click("#board-rows .remove")
    await page.wait_for("document.querySelectorAll('#board-rows tr').length === 2")
    await page.reload()
    await page.wait_for("document.querySelectorAll('#board-rows tr').length === 2")
    await page.wait_for("document.querySelectorAll('#board-head th').length === 5")
    await page.wait_for("document.querySelector('#board-rows .sign').textContent !== ''")
    await page.wait_for("document.querySelector('#connections button')")
    await page.click("#connections button")
    await page.wait_for("document.querySelector('#details-subscriptions').textContent.includes('latest, 5/s, price')")
    assert page.complaints == []


async def test_tail_goes_where_a_busy_topic_is_clicked_and_can_be_paused(page: LivePage) -> None:
    """The board has another view of the same topic; what comes during a pause is kept for its end."""
    await page.wait_for("document.querySelector('#board-rows').textContent.includes('600519')")
    await page.evaluate(
        "[...document.querySelectorAll('#board-rows .name')].find((each) => _text(each) === 'symbol:600519').click()"
    )
    await page.wait_for("document.querySelectorAll('#tail li').length > 3")
    await page.click("#tail-pause")
    await page.wait_for("/[1-9]\\d* wait/.test(document.querySelector('#tail-count').textContent)")
    before = await page.evaluate("document.querySelectorAll('#tail li').length")
    await page.click("#tail-pause")
    await page.wait_for(f"document.querySelectorAll('#tail li').length > {before}")
    offsets = await page.evaluate(
        "[...document.querySelectorAll('#tail .offset')].map((each) => +_text(each).slice(1))"
    )
    assert offsets == list(range(offsets[0], offsets[0] + len(offsets)))
    await page.wait_for("document.querySelectorAll('#connections .mark:not(:empty)').length === 2")


async def test_tail_shows_what_is_missing_and_keeps_no_more_than_it_may(page: LivePage, demo: ServerProcess) -> None:
    """A filter leaves things out unsaid; five hundred lines are kept, of whatever length."""
    await page.fill("tail-topic", "room:long")
    await page.fill("tail-filter", '{">": ["n", 0]}')
    await page.submit("tail-form")
    await page.wait_for("document.querySelector('#tail-count').textContent === 'Nothing yet.'")
    async with connect(demo.port) as raw:
        for start in (0, 300):
            messages = [{"topic": "room:long", "data": {"n": start + n, "pad": "x" * 1000}} for n in range(300)]
            answer = await raw.request(
                "POST",
                "/api/v1/batch",
                headers={"X-Api-Key": demo.api_key},
                body=json.dumps(messages).encode(),
            )
            assert answer.status == 200, answer.body
    await page.wait_for("_text(document.querySelector('#tail li:last-child')).includes('\"n\":599')")
    assert await page.evaluate("document.querySelectorAll('#tail li').length") == 500
    await page.click("#tail li:last-child summary")
    await page.wait_for("document.querySelector('#tail li:last-child pre').textContent.includes('\"n\": 599')")
    await page.evaluate("document.querySelector('#tail-topic').value = 'room:' + 'x'.repeat(251)")
    await page.submit("tail-form")
    await page.wait_for("document.querySelector('#tail-said').textContent.startsWith('INVALID_TOPIC')")


async def test_gap_that_somebody_was_told_is_counted_by_its_reason(page: LivePage, demo: ServerProcess) -> None:
    """Here of one who comes back to a history that has gone."""
    await page.wait_for("document.body.textContent.includes('gaps told')")
    async with connect(demo.port) as raw:
        answer = await raw.request("GET", "/poll?topic=room:a&cursor=room:a!gone!3&timeout=0")
        assert answer.json()["topics"][0]["why"] == "epoch_changed"
    await page.wait_for("document.body.textContent.includes('gaps told: epoch changed')")


async def test_connection_is_closed_with_a_key_and_a_confirmation_only(page: LivePage, demo: ServerProcess) -> None:
    """Without a key the button is dead; with one it asks, and then the peer is told to go for good."""
    async with open_websocket(demo.port) as peer:
        identity = peer.welcome["connection"]
        find = f"[...document.querySelectorAll('#connections button')].find((each) => _text(each) === '{identity}')"
        await page.wait_for(find)
        await page.evaluate(f"{find}.click()")
        await page.wait_for("document.querySelector('#details-facts').textContent.includes('websocket')")
        assert await page.evaluate("document.querySelector('#disconnect').disabled") is True
        await page.click("#details-close")
        await page.use_key(demo.api_key)
        await page.evaluate(f"{find}.click()")
        await page.click("#disconnect")
        assert await page.evaluate("document.activeElement.id") == "disconnect-no"
        await page.click("#disconnect-no")
        await page.click("#disconnect")
        await page.click("#disconnect-yes")
        assert (await peer.receive_type("disconnect"))["code"] == 4003
        await page.wait_for("document.querySelector('#details-said').textContent === 'Disconnected.'")
        await page.wait_for(f"!{find}")
    # The page, which asks once a second, may ask for it between its end and the answer that tells of that.
    assert [complaint for complaint in page.complaints if f"/api/v1/connections/{identity}" not in complaint] == []


async def test_wrong_key_is_told_and_another_one_makes_it_good(page: LivePage, demo: ServerProcess) -> None:
    """The page's own peer cannot come in with it; it does with the right one, or with none here."""
    await page.use_key("wrong")
    await page.wait_for("document.querySelector('#link').dataset.state === 'failed'")
    await page.wait_for("document.querySelector('#key-said').textContent === 'The server does not know this key.'")
    await page.use_key(demo.api_key)
    await page.wait_for(CONNECTED)
    await page.click("#key-toggle")
    await page.click("#key-forget")
    await page.wait_for(CONNECTED)
    assert await page.evaluate("sessionStorage.length") == 0


async def test_server_that_asks_for_keys_shows_nothing_without_one(browser: LivePage, tmp_path: Path) -> None:
    """A stranger is told so; a key opens what it has the right for, and where it has none the page says so."""
    reader, reader_line = new_key("looker", [Right.READ])
    writer, writer_line = new_key("writer", [Right.PUBLISH])
    file = tmp_path / "realtime.toml"
    file.write_text(f"api_keys = [{json.dumps(reader_line)}, {json.dumps(writer_line)}]\n")
    async with serving("serve", "--port", "0", "--config", str(file)) as server:
        await browser.open(f"{server.url}/admin")
        await browser.wait_for("document.querySelector('#notice').textContent.includes('you need an API key')")
        assert await browser.evaluate("document.querySelector('#key-panel').hidden") is False
        await browser.use_key("wrong")
        await browser.wait_for("document.querySelector('#notice').textContent.includes('does not know this key')")
        await browser.use_key(reader)
        await browser.wait_for(CONNECTED)
        await browser.wait_for("document.querySelector('#notice').hidden")
        assert await browser.evaluate("location.href") == f"{server.url}/admin"
        # A reload keeps it, and it may tail what no rule opens. It may not publish, and not disconnect.
        await browser.reload()
        await browser.submit("publish")
        await browser.wait_for("document.querySelector('#publish-check').textContent.startsWith('PERMISSION_DENIED')")
        await browser.wait_for("document.querySelector('#connections button')")
        await browser.click("#connections button")
        await browser.click("#disconnect")
        await browser.click("#disconnect-yes")
        await browser.wait_for("document.querySelector('#disconnect-why').textContent.includes('not the right admin')")
        assert await browser.evaluate("document.querySelector('#disconnect').disabled") is True
        await browser.click("#details-close")
        # One that may only publish says what stays empty.
        await browser.use_key(writer)
        await browser.wait_for("document.querySelector('#notice').textContent.includes('not the right read')")
        await browser.wait_for("document.querySelector('#tail-said').textContent.startsWith('PERMISSION_DENIED')")
        await browser.submit("publish")
        await browser.wait_for("document.querySelector('#publish-check').textContent.startsWith('Published')")


async def test_page_keeps_what_it_knows_until_its_server_is_back(page: LivePage, demo: ServerProcess) -> None:
    """Killed, the last values stay in grey; a server that comes back at the same place is found by itself."""
    await page.wait_for("document.querySelectorAll('#board-rows tr').length === 3")
    await page.submit("publish")
    await page.wait_for("document.querySelectorAll('#tail li').length === 1")
    demo.signal(signal.SIGKILL)
    await demo.wait()
    await page.wait_for("document.querySelector('#notice').textContent.startsWith('The server does not answer')")
    await page.wait_for("document.querySelector('#link').dataset.state === 'reconnecting'")
    await page.wait_for("document.querySelector('#link-wait').textContent.includes('back in')")
    assert await page.evaluate("document.body.hasAttribute('data-stale')")
    assert await page.evaluate("document.querySelectorAll('#board-rows tr').length") == 3
    async with serving("demo", "--port", str(demo.port)):
        await page.wait_for("document.querySelector('#notice').hidden")
        await page.click("#link-again")
        await page.wait_for(CONNECTED)
        before = await page.evaluate("_text(document.querySelector('#board-rows'))")
        await page.wait_for(f"_text(document.querySelector('#board-rows')) !== {json.dumps(before)}")
        # The history has gone with the server, and that is told in its place.
        await page.wait_for("document.querySelector('#tail li + li.gap')?.textContent.includes('epoch changed')")
        assert not await page.evaluate("document.body.hasAttribute('data-stale')")


async def test_key_of_a_server_that_was_started_anew_is_forgotten(page: LivePage, demo: ServerProcess) -> None:
    """The demo makes up another one each time, and shows itself without; a page that is loaded anew knows it too."""
    # One that never was good is not forgotten.
    await page.use_good_key(demo.api_key)
    await page.wait_for("_text(document.querySelector('#key-toggle')) === 'API key: set'")
    demo.signal(signal.SIGKILL)
    await demo.wait()
    forgotten = "_text(document.querySelector('#key-said')).includes('It is forgotten')"
    async with serving("demo", "--port", str(demo.port)) as second:
        await page.wait_for(forgotten)
        await page.wait_for(f"document.querySelector('#notice').hidden && {CONNECTED}")
        await page.wait_for("document.querySelectorAll('#topics tr').length > 0")
        await page.use_key(second.api_key)
        await page.wait_for(CONNECTED)
        # A page that stays here meets the next server by itself, perhaps before it is loaded anew.
        await page.open("about:blank")
        second.signal(signal.SIGKILL)
        await second.wait()
    async with serving("demo", "--port", str(demo.port)):
        await page.open(demo.url + "/")
        await page.wait_for(forgotten)
        await page.wait_for("document.querySelector('#notice').hidden && sessionStorage.length === 0")


@pytest.mark.parametrize("transport", ["sse", "poll"])
async def test_other_transport_is_used_once_it_is_chosen(page: LivePage, transport: str) -> None:
    """The board goes on where it was."""
    await page.wait_for("document.querySelectorAll('#board-rows tr').length === 3")
    await page.evaluate(
        f"document.querySelector('#transport').value = '{transport}';"
        " document.querySelector('#transport').dispatchEvent(new Event('change'))"
    )
    await page.wait_for(f"document.querySelector('#link-state').textContent === 'connected by {transport}'")
    before = await page.evaluate("_text(document.querySelector('#board-rows'))")
    await page.wait_for(f"_text(document.querySelector('#board-rows')) !== {json.dumps(before)}")
    # No poll keeps a room alive, so the page may look for one that has gone.
    assert [complaint for complaint in page.complaints if "/api/v1/topics/room" not in complaint] == []


async def test_keyboard_alone_reaches_what_a_pointer_does(page: LivePage) -> None:
    """Tab, Enter and Escape: add a topic, publish there, open a connection and leave it."""
    await page.tab_to("board-topic")
    await page.call("Input.insertText", text="room:keys")
    await page.press("Enter")
    await page.wait_for("document.querySelector('#board-rows').textContent.includes('room:keys')")
    await page.tab_to("publish-topic")
    await page.evaluate("document.activeElement.select()")
    await page.call("Input.insertText", text="room:keys")
    await page.tab_to("publish-data")
    await page.evaluate("document.activeElement.select()")
    await page.call("Input.insertText", text='{"word": "typed"}')
    await page.press("Enter", modifiers=2)
    await page.wait_for("document.querySelector('#board-rows').textContent.includes('typed')")
    await page.tab_to("connections-most")
    await page.wait_for("document.querySelector('#connections button')")
    await page.press("Tab")
    await page.press("Tab")
    assert await page.evaluate("document.activeElement.closest('#connections') !== null")
    await page.press("Enter")
    await page.wait_for("document.querySelector('#details').open")
    await page.press("Escape")
    await page.wait_for("!document.querySelector('#details').open")
    assert await page.evaluate("document.activeElement.closest('#connections') !== null")


@pytest.mark.parametrize("width", [360, 390, 860, 1280])
async def test_page_fits_its_window(page: LivePage, width: int) -> None:
    """Also with the longest of names and a large payload: what is wide scrolls by itself."""
    await page.call(
        "Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 500
    )
    await page.fill("board-topic", "room:" + "w" * 64)
    await page.submit("board-add")
    await page.fill("tail-topic", "room:" + "w" * 64)
    await page.submit("tail-form")
    await page.fill("publish-data", json.dumps({"text": "y" * 60_000, "z" * 200: 1}))
    await page.submit("publish")
    await page.wait_for("document.querySelector('#tail details')")
    await page.click("#tail summary")
    await page.wait_for("document.querySelector('#board-rows').textContent.includes('yyy')")
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")


async def test_board_of_few_columns_has_no_scroll_bar(page: LivePage) -> None:
    """Nor one for what is only heard."""
    await page.call("Emulation.setDeviceMetricsOverride", width=1280, height=800, deviceScaleFactor=1, mobile=False)
    await page.wait_for("document.querySelectorAll('#board-head th').length === 6")
    board = "document.querySelector('#board').parentElement"
    assert await page.evaluate(f"[{board}.scrollWidth - {board}.clientWidth]") == [0]


async def test_theme_is_chosen_and_remembered(page: LivePage) -> None:
    """Before the first paint, by a script of its own."""
    await page.click("#theme")
    await page.click("#theme")
    assert await page.evaluate("document.documentElement.dataset.theme") == "dark"
    dark = await page.evaluate("getComputedStyle(document.body).backgroundColor")
    await page.reload()
    assert await page.evaluate("getComputedStyle(document.body).backgroundColor") == dark


async def test_script_on_the_page_gets_ticks_by_both_transports(page: LivePage) -> None:
    """`EventSource` and `WebSocket` of the browser hear the same feed."""
    ticks = await page.evaluate(
        """
        Promise.all([
          new Promise((resolve) => {
            const events = new EventSource("/sse?topic=symbol:600519");
            const heard = [];
            events.onmessage = ({ data, lastEventId }) => {
              heard.push([JSON.parse(data).offset, lastEventId]);
              if (heard.length === 3) { events.close(); resolve(heard); }
            };
          }),
          new Promise((resolve) => {
            const socket = new WebSocket(`ws://${location.host}/ws`);
            const heard = [];
            socket.onopen = () => socket.send(JSON.stringify({ type: "subscribe", id: 1, topic: "symbol:600519" }));
            socket.onmessage = ({ data }) => {
              const push = JSON.parse(data);
              if (push.type === "message") heard.push(push.offset);
              if (heard.length === 3) socket.close(1000);
            };
            socket.onclose = ({ code, wasClean }) => resolve([heard, code, wasClean]);
          }),
        ])
        """
    )
    events, (socket, code, clean) = ticks
    offsets = [offset for offset, _ in events]
    assert offsets == list(range(offsets[0], offsets[0] + 3))
    assert all(identity.endswith(f"!{offset}") for offset, identity in events)
    assert socket == list(range(socket[0], socket[0] + 3))
    assert (code, clean) == (1000, True)


class Proxy:
    """A proxy that drops its connections on demand, as they do after a deployment of theirs."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._scopes: set[trio.CancelScope] = set()

    async def serve(self, task_status: trio.TaskStatus[int]) -> None:
        """Serve until cancelled; started with its port."""
        async with trio.open_nursery() as nursery:
            (listener,) = await nursery.start(partial(trio.serve_tcp, self._pass_on, 0, host="127.0.0.1"))
            task_status.started(listener.socket.getsockname()[1])

    async def _pass_on(self, here: trio.SocketStream) -> None:
        there = await trio.open_tcp_stream("127.0.0.1", self._to)
        with trio.CancelScope() as scope, suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            self._scopes.add(scope)
            async with there, trio.open_nursery() as nursery:
                for source, sink in ((here, there), (there, here)):
                    nursery.start_soon(_copy, source, sink, scope)
        self._scopes.discard(scope)

    def cut(self) -> None:
        """Drop every connection."""
        for scope in self._scopes:
            scope.cancel()


async def _copy(source: trio.SocketStream, sink: trio.SocketStream, scope: trio.CancelScope) -> None:
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        async for data in source:
            await sink.send_all(data)
    scope.cancel()


async def test_event_source_of_the_browser_resumes_by_itself(page: LivePage, demo: ServerProcess) -> None:
    """After a stream broke off, the browser comes back with the last id: no message is lost or repeated."""
    proxy = Proxy(demo.port)
    async with trio.open_nursery() as nursery:
        await page.open(f"http://127.0.0.1:{await nursery.start(proxy.serve)}/")
        await page.evaluate(
            """
            globalThis.heard = [];
            globalThis.opens = 0;
            globalThis.source = new EventSource("/sse?topic=room:resumed");
            source.onopen = () => { opens += 1; };
            source.onmessage = ({ data }) => heard.push(JSON.parse(data).data);
            """
        )
        await page.wait_for("opens === 1")
        await demo.publish("room:resumed", "1")
        await page.wait_for("heard.length === 1")
        proxy.cut()
        await demo.publish("room:resumed", "2")
        await page.wait_for("opens === 2")
        await demo.publish("room:resumed", "3")
        await page.wait_for("heard.length >= 3")
        assert await page.evaluate("heard") == [1, 2, 3]
        nursery.cancel_scope.cancel()
