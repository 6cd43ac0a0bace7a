"""The garden, tested without a socket and without waiting."""

import pytest
import trio
from garden import feeds

from realtime import Lost, Settings, open_engine
from realtime.client import open_client
from realtime.link import LinkEnded
from realtime.testing import MemoryDialer, connect


async def test_thermometer_measures_once_a_second(autojump_clock):
    async with open_engine(Settings(dev=True), feeds=feeds) as engine, connect(engine) as peer:
        await peer.command("subscribe", topic="room:garden")
        began = trio.current_time()
        for _ in range(60):
            message = await peer.receive_type("message")
            assert message["data"].keys() == {"celsius"}
        assert trio.current_time() - began == pytest.approx(60, abs=1)


async def test_reader_whose_network_fails_misses_nothing(autojump_clock):
    offsets = []
    async with open_engine(Settings(dev=True), feeds=feeds) as engine:
        network = MemoryDialer(engine)
        async with open_client([network]) as client, client.subscribe("room:garden") as messages:
            async for message in messages:
                offsets.append(message.offset)
                if len(offsets) == 10:
                    network.cut()
                if len(offsets) == 100:
                    break
    assert offsets == list(range(offsets[0], offsets[0] + 100))


async def test_reader_who_was_away_for_an_hour_is_told(autojump_clock):
    async with open_engine(Settings(dev=True), feeds=feeds) as engine:
        network = MemoryDialer(engine)
        async with open_client([network]) as client, client.subscribe("room:garden") as messages:
            before = await anext(messages)
            network.failure = LinkEnded("no network", connected=False)
            network.cut()
            await trio.sleep(3600)
            network.failure = None
            told = await anext(messages)
            after = await anext(messages)
    assert isinstance(told, Lost)
    assert (told.reason, told.first, told.last) == ("too_old", before.offset + 1, after.offset - 1)
