"""Every implementation of the port, for the one suite that all must pass."""

from __future__ import annotations

import itertools

import pytest

from realtime.broker import MemoryBroker
from realtime.idempotency import Receipts
from realtime.topics import Kinds
from tests.contract.slow_broker import SlowBroker

KINDS = (
    Kinds()
    .with_options("room", history_messages=1000, history_age_seconds=60.0)
    .with_options("tick", drop_duplicates=True)
)
#: Small, so that a test reaches the bounds.
MOST_RECEIPTS, RECEIPT_SECONDS = 5, 30.0


@pytest.fixture(params=["memory", "slow"])
def broker(request):
    """A broker that has not been started."""
    clock = itertools.count(1000)
    made = {"memory": MemoryBroker, "slow": SlowBroker}[request.param]
    receipts = Receipts(MOST_RECEIPTS, RECEIPT_SECONDS)
    return made(KINDS, receipts=receipts, now_ms=lambda: next(clock))


@pytest.fixture
def slow_broker():
    """The broker that behaves like another process."""
    clock = itertools.count(1000)
    return SlowBroker(KINDS, now_ms=lambda: next(clock))
