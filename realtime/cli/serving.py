"""``serve`` and ``demo``: a server in this process."""

from __future__ import annotations

import logging
import random
import secrets
import signal
import sys
from collections.abc import Callable
from typing import Any

import click
import structlog
import trio

from realtime.cli.printing import say
from realtime.config import Settings, load_settings, with_overrides
from realtime.errors import ConfigurationError
from realtime.server import Server, open_server, reload_when_signalled, run_until_signalled, tune_collector

__all__ = ["demo", "serve"]

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_SYMBOLS = {"600519": 1480.0, "000001": 11.6, "300750": 252.0}


_common = [
    click.option("--host", help="Address to listen on.  [default: 127.0.0.1]"),
    click.option("--port", type=int, help="Port to listen on; 0 picks a free one.  [default: 8000]"),
    click.option("--config", "config", type=click.Path(dir_okay=False), help="TOML file with settings."),
]


def _with_common(command: Any) -> Any:
    for option in reversed(_common):
        command = option(command)
    return command


@click.command()
@_with_common
@click.option("--dev", is_flag=True, help="Anonymous peers may use every room: and symbol: topic. For loopback.")
def serve(host: str | None, port: int | None, config: str | None, *, dev: bool) -> None:
    """Serve until SIGTERM or Ctrl-C.

    SIGHUP has the rules, the API keys and the origins read anew.

    \b
    Example: everybody may use room: and symbol: topics, on this machine alone.
      realtime serve --dev
    """
    given = _given(host=host, port=port, dev=dev or None)
    settings = _settings(config, given)
    keys = _made_up_keys(settings)
    tune_collector()
    trio.run(
        _serve,
        _completed(settings, keys, audit=True),
        keys,
        lambda: _completed(load_settings(config, **given), keys, audit=True),
    )


@click.command()
@_with_common
def demo(host: str | None, port: int | None, config: str | None) -> None:
    """Serve with a built-in feed of ticks and a chat room.

    Open the address that it prints in a browser.

    \b
    Example:
      realtime demo
    """
    settings = _settings(config, _given(host=host, port=port, dev=True))
    keys = _made_up_keys(settings)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    trio.run(_demo, _completed(settings, keys), keys)


def _given(**options: Any) -> dict[str, Any]:
    """The options of a command that were given."""
    return {name: value for name, value in options.items() if value is not None}


def _settings(config: str | None, given: dict[str, Any]) -> Settings:
    """The settings of a command. Raises `ConfigurationError`."""
    settings = load_settings(config, **given)
    if settings.dev and "host" not in given and settings.host not in _LOOPBACK:
        raise ConfigurationError(
            f"host = {settings.host!r}: --dev lets everybody in, so it serves loopback unless --host says otherwise"
        )
    _configure_log()
    return settings


def _made_up_keys(settings: Settings) -> tuple[str, ...]:
    """In development, where no key is set, one for the length of this run."""
    if not settings.dev or settings.api_keys:
        return ()
    return ("dev_" + secrets.token_urlsafe(16),)


def _show(keys: tuple[str, ...]) -> None:
    for key in keys:
        say(f"API key for publishing over HTTP: {key}")


def _completed(settings: Settings, api_keys: tuple[str, ...], *, audit: bool | None = None) -> Settings:
    """The settings, with these where they say nothing themselves."""
    return with_overrides(
        settings,
        api_keys=settings.api_keys or api_keys,
        audit=audit if settings.audit is None else settings.audit,
    )


def _configure_log() -> None:
    """Readable lines on a terminal, JSON elsewhere; always on standard error."""
    renderer: Any = structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,  # the trace id of the request that is being served
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


async def _serve(settings: Settings, keys: tuple[str, ...], reread: Callable[[], Settings]) -> None:
    async with open_server(settings) as server, trio.open_nursery() as nursery:
        # Before anybody is told that there is somebody to send a signal to: until then it ends the process.
        await nursery.start(reload_when_signalled, server, reread)
        _show(keys)
        say(f"Serving on {server.url}")
        await run_until_signalled(server)
        nursery.cancel_scope.cancel()


async def _demo(settings: Settings, keys: tuple[str, ...]) -> None:
    async with open_server(settings) as server:
        _show(keys)
        say(f"Open {server.url}/ in a browser. Ctrl-C ends it.")
        say(f"Or: curl -N '{server.url}/sse?topic=symbol:600519'")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_tick, server)
            await run_until_signalled(server)
            nursery.cancel_scope.cancel()


async def _tick(server: Server) -> None:
    """The feed of the demo: prices that wander, ten ticks a second."""
    prices = dict(_SYMBOLS)
    # A market for looking at: nothing here wants to be unpredictable.
    chance = random.Random()  # noqa: S311
    while True:
        symbol = chance.choice(list(prices))
        prices[symbol] = round(prices[symbol] * (1 + chance.gauss(0, 0.0005)), 2)
        tick = {"price": prices[symbol], "volume": chance.randrange(1, 50) * 100}
        await server.publish(f"symbol:{symbol}", tick, event="tick")
        await trio.sleep(0.1)
