"""Other words for the same pushes."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import structlog
import trio
from attrs import frozen

from realtime import Identity, Settings, Since, open_engine
from realtime.dialect import DialectFraming
from realtime.routes import Binding, Route
from realtime.views import View
from realtime.wishes import Subscribe
from tests.tools import LINES, ONE_TOPIC, SEVERAL, attached, settle, total

TOPIC = "room:a"


def envelope(event: str | None, data: bytes, time: int, topic: str) -> bytes:
    """A message in words of its own."""
    return b'{"type":"told","what":%b}' % data


@frozen
class Shouting:
    """A dialect that knows two pushes, and hears one word."""

    word: str = "hello"

    @property
    def envelope(self):
        """See `Dialect`."""
        return envelope

    def push(self, kind: str, push: dict[str, Any], topic: str, now_ms: int) -> bytes | None:
        """See `Dialect`."""
        if kind not in ("welcome", "disconnect", "ping"):
            return None
        return msgspec.json.encode({"type": kind.upper(), "topic": topic, "at": now_ms, "code": push.get("code")})

    def hear(self, text: bytes | memoryview) -> bytes | None:
        """See `Dialect`."""
        return b'{"type":"YES"}' if bytes(text) == self.word.encode() else None


def framing(inner=LINES, **options) -> DialectFraming:
    """The words on some wire."""
    return DialectFraming(inner, options.pop("dialect", Shouting()), TOPIC, lambda: 42, **options)


def test_push_is_said_in_words_of_the_dialect():
    """With the topic of the route and the time; for those that it has no word for there are no bytes."""
    text = b'{"type":"disconnect","code":4003}'
    assert framing().push("disconnect", text) == b'{"type":"DISCONNECT","topic":"room:a","at":42,"code":4003}\n'
    assert framing().push("gap", b'{"type":"gap"}') == b""


def test_wire_frames_what_the_dialect_says():
    """Cursors and all; messages come as their view has written them."""
    line = framing(ONE_TOPIC).push("ping", b'{"type":"ping"}', "here")
    assert line.endswith(b'{"type":"cursor","cursor":"here"}\n')
    assert framing(ONE_TOPIC).message(b"x", TOPIC, "e1", 7) == ONE_TOPIC.message(b"x", TOPIC, "e1", 7)
    assert framing(SEVERAL).stamp("here") == SEVERAL.stamp("here")
    assert (framing(SEVERAL).cursors, framing(SEVERAL).stamped, framing().cursors) == (True, True, False)
    only = framing(ONE_TOPIC)
    assert only.several is only


def test_equal_dialects_on_equal_wires_share_their_bytes():
    """Whatever clock they have."""
    assert framing() == framing()
    assert hash(framing()) == hash(framing())
    assert framing() != framing(dialect=Shouting("other"))
    assert framing() != framing(ONE_TOPIC)


# -- a connection that came by a route ---------------------------------------------------------------------------


def binding(**options) -> Binding:
    """A route to the topic, which speaks the dialect."""
    return Binding(Route(path="/x", topic=TOPIC, transport="websocket", dialect=Shouting(), **options), TOPIC)


WISH = Subscribe(TOPIC, View.of(envelope=envelope))


async def test_whole_conversation_is_in_the_dialect(autojump_clock):
    """From the welcome to the goodbye; what it has no word for is left out."""
    from realtime import closing

    async with (
        open_engine(Settings(dev=True), now_ms=lambda: 42) as engine,
        attached(engine, subscribe=[WISH], binding=binding()) as (connection, peer),
    ):
        await engine.publish(TOPIC, 1)
        await settle()
        peer.send_raw(b"nonsense")
        peer.send_raw(b"hello")
        peer.send_raw(b'{"type":"subscribe","id":1,"topic":"room:b"}')
        await settle()
        connection.close(closing.FORBIDDEN)
        await peer.wait_closed()
        await settle()
        assert [push["type"] for push in peer.received] == ["WELCOME", "told", "YES", "DISCONNECT"]
        assert peer.received[-1]["code"] == 4003
        assert connection.commands == 3


async def test_connections_of_one_route_share_a_group(autojump_clock):
    """What is encoded for one is encoded for all."""
    async with (
        open_engine(Settings(dev=True)) as engine,
        attached(engine, subscribe=[WISH], binding=binding()),
        attached(engine, subscribe=[WISH], binding=binding()),
        attached(engine, subscribe=[Subscribe(TOPIC)]),
    ):
        assert sorted(len(group.members) for group in engine.hub._audiences[TOPIC].groups.values()) == [1, 2]


async def test_peer_that_came_by_a_route_is_placed_in_no_other_topic(autojump_clock):
    """Its login brings it nowhere."""
    async with (
        open_engine(Settings(dev=True)) as engine,
        attached(engine, subscribe=[WISH], binding=binding(), identity=Identity("7")) as (connection, _),
    ):
        await trio.sleep(1)
        assert list(connection.session.subscriptions) == [TOPIC]


# -- words that fail ---------------------------------------------------------------------------------------------


def failing(event: str | None, data: bytes, time: int, topic: str) -> bytes:
    """An envelope with a bug."""
    if data == b"2":
        raise RuntimeError("a bug in the envelope")
    return envelope(event, data, time, topic)


@pytest.mark.parametrize("way", ["live", "paced", "replay"])
async def test_envelope_that_fails_leaves_its_message_out(way, autojump_clock):
    """It counts as filtered; the messages around it come, and those after it."""
    wish = Subscribe(
        TOPIC,
        View.of(envelope=failing),
        since=Since(last=3) if way == "replay" else None,
        max_rate=1.0 if way == "paced" else None,
    )
    with structlog.testing.capture_logs() as logs:
        async with open_engine(Settings(dev=True)) as engine:
            if way == "replay":
                for number in (1, 2, 3):
                    await engine.publish(TOPIC, number)
                await settle()
            async with attached(engine, subscribe=[wish]) as (connection, peer):
                if way != "replay":
                    for number in (1, 2, 3):
                        await engine.publish(TOPIC, number, key=str(number))
                await trio.sleep(5)
                await engine.publish(TOPIC, 4)
                await trio.sleep(5)
                assert [push["what"] for push in peer.received if push["type"] == "told"] == [1, 3, 4]
                subscription = connection.session.subscriptions[TOPIC]
                assert (subscription.delivered, subscription.filtered, total(subscription)) == (3, 1, 4)
    assert [entry["topic"] for entry in logs if entry["event"].startswith("an envelope failed")] == [TOPIC]


@frozen
class Stammering(Shouting):
    """A dialect that gets out no more than the welcome."""

    def push(self, kind: str, push: dict[str, Any], topic: str, now_ms: int) -> bytes | None:
        """See `Dialect`."""
        if kind == "welcome":
            return super().push(kind, push, topic, now_ms)
        raise RuntimeError("a bug in the dialect")


async def test_dialect_that_fails_leaves_its_push_out(autojump_clock):
    """Whoever wanted it said, the heartbeat or the hub: both live on, and so does the connection."""
    stammering = Binding(Route(path="/x", topic=TOPIC, transport="websocket", dialect=Stammering()), TOPIC)
    with structlog.testing.capture_logs() as logs:
        async with (
            open_engine(Settings(dev=True)) as engine,
            attached(engine, subscribe=[WISH], binding=stammering, identity=Identity("7")) as (connection, peer),
        ):
            for _ in range(3):
                connection._wire.hear_from()
                await trio.sleep(20)
            engine.hub.tell(TOPIC, "join", {"type": "join"})
            await engine.publish(TOPIC, 1)
            await settle()
            assert [push["type"] for push in peer.received] == ["WELCOME", "told"]
            assert peer.close_reason is None
    left_out = {entry["kind"] for entry in logs if entry["event"].startswith("a dialect failed")}
    assert left_out >= {"ping", "join"}
