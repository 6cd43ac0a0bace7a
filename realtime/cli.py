"""The command ``realtime``."""

from __future__ import annotations

import json
import logging
import random
import secrets
import sys
from functools import partial
from typing import Any

import click
import structlog
import trio
from attrs import evolve

from realtime import __version__
from realtime.api_keys import new_key
from realtime.auth import Identity, Right, Verb
from realtime.config import Settings, load_settings, with_overrides
from realtime.errors import CommandError, ConfigurationError
from realtime.server import Server, open_server, reload_when_signalled, run_until_signalled, tune_collector
from realtime.tokens import identity_of

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
    """Serve until SIGTERM or Ctrl-C. SIGHUP has the rules, the API keys and the origins read anew."""
    settings = _settings(host, port, config, dev=dev)
    if settings.audit is None:
        settings = with_overrides(settings, audit=True)
    tune_collector()
    trio.run(_serve, settings, config)


@main.command()
@_with_common
def demo(host: str | None, port: int | None, config: str | None) -> None:
    """Serve with a built-in feed of ticks and a chat room; open the address that it prints."""
    settings = _settings(host, port, config, dev=True)
    trio.run(_demo, settings)


@main.command("new-key")
@click.argument("name")
@click.option(
    "--rights",
    default="publish",
    show_default=True,
    help=f"What it is for, with commas: {', '.join(Right)}.",
)
def create_key(name: str, rights: str) -> None:
    """Make an API key called NAME for a back end.

    The key is shown once; the configuration gets a line that only tells it from others.
    """
    try:
        wanted = [Right(right.strip()) for right in rights.split(",")]
    except ValueError as error:
        raise click.BadParameter(f"{error}; there are {', '.join(Right)}", param_hint="--rights") from None
    try:
        key, line = new_key(name, wanted)
    except ConfigurationError as error:
        raise click.ClickException(str(error)) from None
    click.echo("The key, for the back end. It is not shown again:", err=True)
    click.echo(key)
    click.echo("The line for `api_keys` in the configuration:", err=True)
    click.echo(line)


@main.command("check-access")
@click.option("--config", type=click.Path(dir_okay=False), help="TOML file with settings.")
@click.option("--user", help="Left out: somebody who has not logged in.")
@click.option("--role", "roles", multiple=True, help="May be given several times.")
@click.option("--claim", "claims", multiple=True, metavar="NAME=JSON", help="May be given several times.")
@click.option("--topic", help="What is asked about.")
@click.option("--action", help="The same for a request.")
@click.option("--verb", type=click.Choice([verb.value for verb in Verb]), help="Exit with 1 unless this is allowed.")
def check_access(
    *,
    config: str | None,
    user: str | None,
    roles: tuple[str, ...],
    claims: tuple[str, ...],
    topic: str | None,
    action: str | None,
    verb: str | None,
) -> None:
    """Say who may do what on a topic, and which rule decides it.

    A function of one's own (`authorize`) is not asked here.
    """
    if (topic is None) == (action is None):
        raise click.UsageError("give either --topic or --action")
    try:
        settings = load_settings(config)
        policy = settings.policy(settings.all_kinds())
        identity = evolve(identity_of(user, list(roles)), claims=dict(map(_claim, claims))) if user else Identity()
        if topic is not None:
            decisions = policy.explain(identity, topic)
        else:
            decisions = [(Verb.REQUEST, policy.decide_action(identity, action or "", None))]
    except (ConfigurationError, CommandError) as error:
        raise click.ClickException(str(error)) from None
    for decided, decision in decisions:
        click.echo(f"{decided.value:<9}{'yes' if decision.allowed else 'no':<5}{decision.because}")
    asked = [decision for decided, decision in decisions if verb in (None, decided.value)]
    if not asked:
        raise click.UsageError(f"--verb {verb} is not about what was asked")
    if verb is not None and not asked[0].allowed:
        sys.exit(1)


def _claim(text: str) -> tuple[str, Any]:
    """A claim as it is given: JSON, or else the text itself."""
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


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


async def _serve(settings: Settings, config: str | None) -> None:
    try:
        async with open_server(settings) as server:
            click.echo(f"Serving on {server.url}")
            async with trio.open_nursery() as nursery:
                await nursery.start(reload_when_signalled, server, partial(_reread, settings, config))
                await run_until_signalled(server)
                nursery.cancel_scope.cancel()
    except ConfigurationError as error:
        raise click.ClickException(str(error)) from None


def _reread(settings: Settings, config: str | None) -> Settings:
    """The settings that were given otherwise than in the file, and those in the file as it is now."""
    fresh = load_settings(config)
    # A key that was made for the length of this run stands in no file.
    keys = fresh.api_keys or settings.api_keys if settings.dev else fresh.api_keys
    return with_overrides(
        fresh, host=settings.host, port=settings.port, dev=settings.dev, audit=settings.audit, api_keys=keys
    )


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
