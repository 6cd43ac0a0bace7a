"""``stats`` and ``top``: what a server counts, looked at again and again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import click
import trio
from attrs import define, frozen
from rich.console import RenderableType
from rich.live import Live

from realtime.cli.ending import NoConnection, run, tell
from realtime.cli.output import console
from realtime.cli.printing import or_failure, put_json
from realtime.cli.remote import Api, Remote, with_remote
from realtime.cli.tables import ActivityShown, StatsShown, activity_tables, stats_table

__all__ = ["stats", "top"]

_SECONDS = 1.0
_ONCE = click.option("--once", is_flag=True, help="Look once, and end.")
_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object a line, as the HTTP API has it.")


@frozen(kw_only=True)
class _Watch:
    """What is looked at, and how it is shown."""

    look: Callable[[Api], Awaitable[Any]]
    #: What there was before, or None; what there is; and the seconds between.
    show: Callable[..., RenderableType]
    #: Whether it takes two looks to show anything.
    compares: bool
    once: bool
    as_json: bool

    async def run(self, remote: Remote) -> None:
        """Look every second. The first look must succeed; later ones may fail for as long as they like."""
        out = console()
        async with remote.api() as api:
            looks = _Looks(api, self.look)
            await looks.take()
            if self.as_json:
                put_json(looks.last)
                while not self.once:
                    await trio.sleep(_SECONDS)
                    if await looks.take_again():
                        put_json(looks.last)
                return
            if self.once or not out.is_terminal:
                if self.compares:
                    await trio.sleep(_SECONDS)
                    await looks.take()
                with or_failure():
                    out.print(self.show(looks.before, looks.last, looks.seconds, plain=not out.is_terminal))
                return
            shown = self.show(None, looks.last, 0.0, plain=False)
            with or_failure(), Live(shown, console=out, auto_refresh=False) as live:
                while True:
                    await trio.sleep(_SECONDS)
                    if await looks.take_again():
                        live.update(self.show(looks.before, looks.last, looks.seconds, plain=False), refresh=True)


@define
class _Looks:
    """One after the other."""

    _api: Api
    _look: Callable[[Api], Awaitable[Any]]
    before: Any = None
    last: Any = None
    #: Between the two.
    seconds: float = 0.0
    _at: float = 0.0
    _failing: bool = False

    async def take(self) -> None:
        """Raises `Failure`."""
        found = await self._look(self._api)
        now = trio.current_time()
        self.before, self.last = self.last, found
        self.seconds, self._at = now - self._at, now

    async def take_again(self) -> bool:
        """The same for who goes on where there is no answer for now; he is told. Raises `Failure` for refusals."""
        try:
            await self.take()
        except NoConnection as failure:
            if not self._failing:
                tell(f"{failure.message}; trying again")
            self._failing = True
            return False
        if self._failing:
            tell("the server answers again")
        self._failing = False
        return True


@click.command()
@_ONCE
@_JSON
@with_remote
def stats(*, remote: Remote, once: bool, as_json: bool) -> None:
    """Show what the server counts, each second.

    On a terminal; elsewhere once. Needs an API key with the right `read`, but for --dev.

    \b
    Examples:
      realtime stats
      realtime stats --json --once | jq .hub.delivered
    """
    watch = _Watch(
        look=lambda api: api.get("/api/v1/stats", StatsShown),
        show=stats_table,
        compares=True,
        once=once,
        as_json=as_json,
    )
    run(lambda: watch.run(remote))


@click.command()
@click.option("--topics", type=click.IntRange(0, 100), default=10, show_default=True, help="How many topics.")
@click.option("--connections", type=click.IntRange(0, 100), default=10, show_default=True, help="How many connections.")
@_ONCE
@_JSON
@with_remote
def top(*, remote: Remote, topics: int, connections: int, once: bool, as_json: bool) -> None:
    """Show the busiest topics and the slowest connections.

    Every second on a terminal, elsewhere once. Needs an API key with the right `read`, but for --dev.

    \b
    Example:
      realtime top --topics 20
    """

    async def look(api: Api) -> Any:
        found = await api.get("/api/v1/activity", ActivityShown, topics=topics, connections=connections)
        if not found["seconds"]:  # the first look of all, which the server has nothing to compare with
            await trio.sleep(_SECONDS)
            found = await api.get("/api/v1/activity", ActivityShown, topics=topics, connections=connections)
        return found

    watch = _Watch(look=look, show=activity_tables, compares=False, once=once, as_json=as_json)
    run(lambda: watch.run(remote))
