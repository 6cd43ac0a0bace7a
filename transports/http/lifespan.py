"""One ASGI application's lifespan, driven step by step by somebody else's."""

from __future__ import annotations

from typing import Any

import structlog
import trio

__all__ = ["InnerLifespan"]

log = structlog.get_logger("realtime")


class InnerLifespan:
    """See the module. An application that knows no lifespan is asked once and then left alone."""

    def __init__(self, app: Any, scope: Any) -> None:
        self._app = app
        self._scope = scope
        self._to_app, self._from_us = trio.open_memory_channel[Any](1)
        self._to_us, self._from_app = trio.open_memory_channel[Any](1)
        self._supported = True

    async def run(self) -> None:
        """Run the application's side until it is done."""
        try:
            await self._app(self._scope, self._from_us.receive, self._to_us.send)
        except Exception:
            # ASGI has no other way to say "I know no lifespan" than to raise.
            log.info("the application has no lifespan", exc_info=True)
        finally:
            self._supported = False
            self._to_us.close()

    async def step(self, event: Any) -> str | None:
        """Pass one event on and wait for the answer; the failure it reports, if any."""
        if not self._supported:
            return None
        await self._to_app.send(event)
        try:
            answer = await self._from_app.receive()
        except trio.EndOfChannel:
            return None
        if answer["type"].endswith(".failed"):
            return str(answer.get("message", ""))
        return None
