"""The hub's front step."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from realtime.ingress import Ingress
from tests.tools import publication

settle = trio.testing.wait_all_tasks_blocked


@pytest.mark.parametrize(("ingress", "fitting"), [(Ingress(3, 1 << 20), 3), (Ingress(100, 14), 2)])
async def test_ingress_is_full_at_either_bound(ingress, fitting):
    """Messages or bytes, whichever comes first."""
    for offset in range(1, fitting + 1):
        assert ingress.has_room()
        ingress.put_nowait(publication(offset))
    assert not ingress.has_room()


async def test_batch_is_bounded_and_in_order():
    """Taking gives back the room."""
    ingress = Ingress(10, 1 << 20)
    for offset in range(1, 8):
        ingress.put_nowait(publication(offset))
    assert [one.offset for one in await ingress.receive(5)] == [1, 2, 3, 4, 5]
    assert [one.offset for one in await ingress.receive(5)] == [6, 7]
    assert (ingress.messages, ingress.bytes) == (0, 0)


async def test_newcomer_does_not_overtake_those_who_wait(nursery):
    """While anybody stands in line there is no room for another."""
    ingress = Ingress(1, 1 << 20)
    ingress.put_nowait(publication(1))
    nursery.start_soon(ingress.wait_room)
    await settle()
    ingress.messages = 0
    assert not ingress.has_room()
    assert ingress.waits == 1
    ingress.pass_on()
    await settle()
    assert ingress.has_room()


async def test_wait_that_finds_no_room_goes_on(nursery):
    """Being woken is not yet having room."""
    ingress = Ingress(1, 1 << 20)
    ingress.put_nowait(publication(1))
    done = trio.Event()

    async def wait() -> None:
        await ingress.wait_room()
        done.set()

    nursery.start_soon(wait)
    await settle()
    ingress.pass_on()
    await settle()
    assert not done.is_set()
    await ingress.receive(1)
    await settle()
    assert done.is_set()


async def test_wait_with_room_does_not_wait():
    """No checkpoint where nothing is in the way."""
    with trio.testing.assert_no_checkpoints():
        await Ingress(1, 1).wait_room()


async def test_closed_ingress_keeps_nobody_waiting(nursery):
    """Neither those who wait already nor those who come."""
    ingress = Ingress(1, 1 << 20)
    ingress.put_nowait(publication(1))
    async with trio.open_nursery() as waiting:
        waiting.start_soon(ingress.wait_room)
        await settle()
        ingress.close()
    await ingress.wait_room()
