"""The heartbeat of one connection: pings, and the end of a peer that has been silent for too long."""

from __future__ import annotations

import math
from collections.abc import Callable

import trio

from realtime import closing
from realtime.closing import CloseReason
from realtime.outbox import Outbox

__all__ = ["beat"]

#: Moments within one ping interval at which beats may fall.
BEATS_PER_INTERVAL = 100


async def beat(
    outbox: Outbox,
    *,
    interval: float,
    pong_timeout: float,
    jitter: float,
    ping: Callable[[], bytes],
    close: Callable[[CloseReason], None],
) -> None:
    """Ping every ``interval`` until the peer has been silent for that and ``pong_timeout``; then ``close``.

    ``jitter``, from 0 to 1, is where in its interval the first beat falls; ``ping`` makes the push, framed.
    """
    wire = outbox.wire
    patience = interval + pong_timeout if wire.peer_answers else math.inf
    interval = min(interval, wire.heartbeat_interval or math.inf)
    # Connections that came together do not ping together, but all beats fall on a common grid: a process that idles
    # with thousands of connections wakes up a few times a second and not once for each beat, which is most of what
    # idling costs.
    grid = interval / BEATS_PER_INTERVAL
    beat_at = math.ceil((trio.current_time() + interval * jitter) / grid) * grid
    while True:
        await trio.sleep_until(min(beat_at, wire.heard_at + patience))
        now = trio.current_time()
        if now >= wire.heard_at + patience:
            close(closing.NO_PONG)
            return
        if now >= beat_at:
            beat_at += interval * math.ceil((now - beat_at) / interval + 1e-9)
            outbox.offer_control(wire.heartbeat(ping()))
            outbox.flush()
