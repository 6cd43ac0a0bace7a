"""The command ``realtime``."""

from __future__ import annotations

import json
import logging
import random
import re
import secrets
import signal
import sys
from collections.abc import Callable
from typing import Any

import click
import structlog
import trio
from attrs import evolve

from realtime import __version__
from realtime.api_keys import new_key
from realtime.auth import Identity, Right, Verb
from realtime.config import Settings, load_policy, load_settings, with_overrides
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
    given = _given(host=host, port=port, dev=dev or None)
    settings = _settings(config, given)
    keys = _made_up_keys(settings)
    tune_collector()
    trio.run(
        _serve,
        _completed(settings, keys, audit=True),
        lambda: _completed(load_settings(config, **given), keys, audit=True),
    )


@main.command()
@_with_common
def demo(host: str | None, port: int | None, config: str | None) -> None:
    """Serve with a built-in feed of ticks and a chat room; open the address that it prints."""
    settings = _settings(config, _given(host=host, port=port, dev=True))
    settings = _completed(settings, _made_up_keys(settings))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    trio.run(_demo, settings)


@main.command("new-key")
@click.argument("name")
@click.option(
    "--rights",
    default="publish",
    show_default=True,
    help=f"What it is for, with commas or plus signs: {', '.join(Right)}.",
)
def create_key(name: str, rights: str) -> None:
    """Make an API key called NAME for a back end.

    The key is shown once; the configuration gets a line that only tells it from others.
    """
    try:
        wanted = [Right(right.strip()) for right in re.split("[,+]", rights)]
    except ValueError as error:
        raise click.BadParameter(f"{error}; there are {', '.join(Right)}", param_hint="--rights") from None
    try:
        key, line = new_key(name, wanted)
    except ConfigurationError as error:
        raise click.BadParameter(str(error), param_hint="NAME") from None
    click.echo("The key, for the back end. It is not shown again:", err=True)
    click.echo(key)
    click.echo("The line for `api_keys` in the configuration:", err=True)
    click.echo(line)


class _CannotTell(click.ClickException):
    """There is no answer, which is not the answer no."""

    exit_code = 2


@main.command("check-access")
@click.option("--config", type=click.Path(dir_okay=False), help="TOML file with settings; needs no secrets.")
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

    A function of one's own (`authorize`) is not asked here. Exits with 2 where there is no answer.
    """
    if (topic is None) == (action is None):
        raise click.UsageError("give either --topic or --action")
    try:
        policy = load_policy(config)
        identity = evolve(identity_of(user, list(roles)), claims=dict(map(_claim, claims))) if user else Identity()
        if topic is not None:
            decisions = policy.explain(identity, topic)
        else:
            decisions = [(Verb.REQUEST, policy.decide_action(identity, action or "", None))]
    except (ConfigurationError, CommandError) as error:
        raise _CannotTell(str(error)) from None
    for decided, decision in decisions:
        click.echo(f"{decided.value:<9}{'yes' if decision.allowed else 'no':<5}{decision.because}")
    asked = [decision for decided, decision in decisions if verb in (None, decided.value)]
    if not asked:
        raise click.UsageError(f"--verb {verb} is not about what was asked")
    if verb is not None and not asked[0].allowed:
        sys.exit(1)


def _claim(text: str) -> tuple[str, Any]:
    """A claim as it is given: JSON, or else the text itself."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise click.BadParameter(f"{text!r}: must be NAME=JSON", param_hint="--claim")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _given(**options: Any) -> dict[str, Any]:
    """The options of a command that were given."""
    return {name: value for name, value in options.items() if value is not None}


def _settings(config: str | None, given: dict[str, Any]) -> Settings:
    """The settings of a command; ends the process with a readable message for wrong ones."""
    try:
        settings = load_settings(config, **given)
        if settings.dev and "host" not in given and settings.host not in _LOOPBACK:
            raise ConfigurationError(
                f"host = {settings.host!r}: --dev lets everybody in, so it serves loopback unless --host says otherwise"
            )
    except ConfigurationError as error:
        raise click.ClickException(str(error)) from None
    _configure_log()
    return settings


def _made_up_keys(settings: Settings) -> tuple[str, ...]:
    """In development, where no key is set, one for the length of this run; it is shown."""
    if not settings.dev or settings.api_keys:
        return ()
    key = "dev_" + secrets.token_urlsafe(16)
    click.echo(f"API key for publishing over HTTP: {key}")
    return (key,)


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


async def _serve(settings: Settings, reread: Callable[[], Settings]) -> None:
    try:
        async with open_server(settings) as server, trio.open_nursery() as nursery:
            # Before anybody is told that there is somebody to send a signal to: until then it ends the process.
            await nursery.start(reload_when_signalled, server, reread)
            click.echo(f"Serving on {server.url}")
            await run_until_signalled(server)
            nursery.cancel_scope.cancel()
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
