"""Two web applications behind one door: ours, and one of the user's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from transports.http.lifespan import InnerLifespan

if TYPE_CHECKING:
    from hypercorn.typing import ASGIFramework, ASGIReceiveCallable, ASGISendCallable, Scope

__all__ = ["OUR_PATHS", "beside"]

_OURS = ("/api/v1/", "/realtime/")
#: These stay ours whatever else is served: what looks after a server must find it.
OUR_PATHS = frozenset(
    {
        "/healthz",
        "/readyz",
        "/metrics",
        "/openapi.json",
        "/asyncapi.json",
        "/api/v1/publish",
        "/realtime.js",
    }
)


def beside(ours: ASGIFramework, theirs: ASGIFramework | None) -> ASGIFramework:
    """An application that gives our paths to ``ours`` and all others to ``theirs``.

    Both go through their whole lifespan; theirs starts after ours and ends before it.
    """
    if theirs is None:
        return ours

    async def dispatch(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        if scope["type"] == "lifespan":
            await _both(ours, theirs, scope, receive, send)
            return
        path = scope["path"]
        app = ours if path in OUR_PATHS or path.startswith(_OURS) else theirs
        await app(scope, receive, send)

    return dispatch


async def _both(
    ours: ASGIFramework, theirs: ASGIFramework, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable
) -> None:
    """Run both lifespans on one: each step is passed on to ours, then theirs, or the other way round to end."""
    async with trio.open_nursery() as nursery:
        inner = [InnerLifespan(ours, scope), InnerLifespan(theirs, scope)]
        for lifespan in inner:
            nursery.start_soon(lifespan.run)
        while True:
            event = await receive()
            order = inner if event["type"] == "lifespan.startup" else list(reversed(inner))
            failure = None
            for lifespan in order:
                failure = failure or await lifespan.step(event)
            kind = event["type"]
            if failure is not None:
                await send({"type": f"{kind}.failed", "message": failure})  # type: ignore[arg-type,misc]
                break
            await send({"type": f"{kind}.complete"})  # type: ignore[arg-type,misc]
            if kind == "lifespan.shutdown":
                break
        nursery.cancel_scope.cancel()
