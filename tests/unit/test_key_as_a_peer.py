"""A back end, or an operator, that connects with its API key as a peer."""

from __future__ import annotations

import pytest
import structlog.testing

from realtime import Settings
from realtime.api_keys import new_key
from realtime.auth import Right
from realtime.closing import FORBIDDEN
from realtime.engine import open_engine
from realtime.testing import connect

READER, READER_LINE = new_key("reader", [Right.READ])
WRITER, WRITER_LINE = new_key("writer", [Right.PUBLISH])
RULES = ({"name": "vault", "topics": ["room:vault"], "deny": ["join", "publish", "presence", "history"]},)
SETTINGS = Settings(api_keys=(READER_LINE, WRITER_LINE), rules=RULES, publish_rate=1, publish_burst=1)


@pytest.fixture
async def engine():
    async with open_engine(SETTINGS) as engine:
        yield engine


async def test_key_that_reads_joins_what_no_rule_opens(autojump_clock, engine):
    """As over the HTTP API: also a topic that is somebody's own."""
    async with connect(engine) as peer:
        assert (await peer.command("auth", token=READER))["type"] == "authenticated"
        for topic in ("room:vault", "user:7"):
            assert (await peer.command("subscribe", topic=topic))["type"] == "subscribed", topic
        assert (await peer.command("members", topic="room:vault"))["type"] == "members"
        assert (await peer.command("publish", topic="room:vault", data=1))["code"] == "PERMISSION_DENIED"


async def test_key_that_publishes_does_so_everywhere_and_at_any_rate(autojump_clock, engine):
    async with connect(engine) as peer:
        await peer.command("auth", token=WRITER)
        for number in range(10):
            assert (await peer.command("publish", topic="room:vault", data=number))["type"] == "published"
        assert (await peer.command("subscribe", topic="room:vault"))["code"] == "PERMISSION_DENIED"


async def test_key_that_is_taken_back_closes_its_connections(autojump_clock, engine):
    """The others keep theirs, and it logs nobody in any more."""
    async with connect(engine) as gone, connect(engine) as kept:
        await gone.command("auth", token=READER)
        await kept.command("auth", token=WRITER)
        await engine.reload(Settings(api_keys=(WRITER_LINE,), rules=RULES))
        assert await gone.wait_closed() == FORBIDDEN
        assert (await kept.command("publish", topic="room:vault", data=1))["type"] == "published"
        async with connect(engine) as again:
            assert (await again.command("auth", token=READER))["code"] == "AUTH_FAILED"


async def test_key_with_other_rights_has_to_come_again(autojump_clock, engine):
    """What it may do was decided with those it had."""
    async with connect(engine) as peer:
        await peer.command("auth", token=READER)
        changed = READER_LINE.replace(":read:", ":tickets:")
        await engine.reload(Settings(api_keys=(changed, WRITER_LINE), rules=RULES))
        assert await peer.wait_closed() == FORBIDDEN


async def test_audit_log_says_which_key_it_was(autojump_clock, engine):
    engine.audit.enabled = True
    with structlog.testing.capture_logs() as lines:
        async with connect(engine) as peer:
            await peer.command("auth", token=READER)
    assert [line["key"] for line in lines if line.get("audit") == "login"] == ["key reader"]
