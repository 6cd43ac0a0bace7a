"""The Python client and a server process that is killed and started anew."""

from __future__ import annotations

import signal

import pytest
import trio

from realtime import Lost
from realtime.client import Last, connect
from tests.e2e.processes import serving
from tests.peers import DEADLINE_SECONDS


@pytest.mark.parametrize("way", ["websocket", "sse"])
async def test_killed_server_is_waited_for_and_what_it_took_along_is_told(way: str) -> None:
    """SIGKILL: the history is gone. The new life is read from its beginning, behind a gap that says so."""
    async with serving("serve", "--dev", "--port", "0") as first:
        address = first.url
        with trio.fail_after(3 * DEADLINE_SECONDS):
            async with (
                connect(address, transports=[way], min_delay_seconds=0.05, max_delay_seconds=0.2) as client,
                client.subscribe("room:a", recover=Last(5)) as messages,
            ):
                await client.publish("room:a", 1)
                assert (await anext(messages)).data == 1  # type: ignore[union-attr]
                first.signal(signal.SIGKILL)
                await first.wait()
                async with serving("serve", "--dev", "--port", str(first.port)) as second:
                    await client.publish("room:a", 2, timeout_seconds=DEADLINE_SECONDS)
                    told = await anext(messages)
                    assert isinstance(told, Lost)
                    assert told.reason == "epoch_changed"
                    if told.count == 0:  # the topic was resumed before the message came
                        assert (await anext(messages)).data == 2  # type: ignore[union-attr]
                    await second.publish("room:a", "3")
                    assert (await anext(messages)).data == 3  # type: ignore[union-attr]
