"""The command ``realtime``."""

from __future__ import annotations

import logging
import random
import secrets
import sys
from typing import Any

import click
import structlog
import trio

from realtime import __version__
from realtime.config import Settings, load_settings, with_overrides
from realtime.errors import ConfigurationError
from realtime.server import Server, open_server, run_until_signalled, tune_collector

__all__ = ["main"]

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_SYMBOLS = {"600519": 1480.0, "000001": 11.6, "300750": 252.0}


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="realtime")
def main() -> None:
    """A realtime server on Trio: WebSocket and Server-Sent Events on one port."""


_common = [
    click.option("--host", help="Address to listen on.  [default: 127.0.0.1]"),
    click.option("--port", type=int, help="Port to listen on; 0 picks a free one.  [default: 8000]"),
    click.option("--config", "config", type=click.Path(dir_okay=False), help="TOML file with settings."),
]


def _with_common(command: Any) -> Any:
    for option in reversed(_common):
        command = option(command)
    return command


@main.command()
@_with_common
@click.option("--dev", is_flag=True, help="Anonymous peers may use every room: and symbol: topic. For loopback.")
def serve(host: str | None, port: int | None, config: str | None, *, dev: bool) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    settings = _settings(host, port, config, dev=dev)
    tune_collector()
    trio.run(_serve, settings)


@main.command()
@_with_common
def demo(host: str | None, port: int | None, config: str | None) -> None:
    """Serve with a built-in feed of ticks and a chat room; open the address that it prints."""
    settings = _settings(host, port, config, dev=True)
    trio.run(_demo, settings)


def _settings(host: str | None, port: int | None, config: str | None, *, dev: bool) -> Settings:
    """The settings of a command; ends the process with a readable message for wrong ones."""
    given: dict[str, Any] = {"host": host, "port": port, "dev": dev or None}
    try:
        settings = load_settings(config, **{name: value for name, value in given.items() if value is not None})
        if settings.dev and host is None and settings.host not in _LOOPBACK:
            raise ConfigurationError(
                f"host = {settings.host!r}: --dev lets everybody in, so it serves loopback unless --host says otherwise"
            )
        if settings.dev and not settings.api_keys:
            settings = with_overrides(settings, api_keys=["dev_" + secrets.token_urlsafe(16)])
            click.echo(f"API key for publishing over HTTP: {settings.api_keys[0]}")
    except ConfigurationError as error:
        raise click.ClickException(str(error)) from None
    _configure_log()
    return settings


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


async def _serve(settings: Settings) -> None:
    try:
        async with open_server(settings) as server:
            click.echo(f"Serving on {server.url}")
            await run_until_signalled(server)
    except ConfigurationError as error:
        raise click.ClickException(str(error)) from None


async def _demo(settings: Settings) -> None:
    try:
        async with open_server(settings) as server:
            click.echo(f"Open {server.url}/ in a browser. Ctrl-C ends it.")
            click.echo(f"Or: curl -N '{server.url}/sse?topic=symbol:600519'")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_tick, server)
                await run_until_signalled(server)
                nursery.cancel_scope.cancel()
    except ConfigurationError as error:
        raise click.ClickException(str(error)) from None


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
