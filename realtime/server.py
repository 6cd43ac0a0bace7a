"""The whole server: the engine, and the transports in front of it.

::

    open_server
    |- engine            broker and hub; cancelled last
    |- application       lifespan of the web application; cancelled last
    '- connections       each its own task; drained with a deadline
        '- listeners     cancelled first

This module and the command line are the composition root: the only ones in `realtime` that know `transports`.
"""

from __future__ import annotations

import errno
import gc
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import structlog
import trio

from realtime.auth import Authenticate
from realtime.broker import Broker
from realtime.config import Settings, load_settings, with_overrides
from realtime.engine import RELOADED, Engine, lone_exceptions_bare
from realtime.errors import ConfigurationError
from realtime.events import EventCatalogue
from realtime.feeds import Feeds
from realtime.gate import Authorize
from realtime.requests import Actions
from realtime.routes import Route
from transports.front import Front
from transports.http.app import make_app
from transports.http.forward import Application
from transports.http.mount import beside
from transports.logins import make_authenticate
from transports.stream import tune_listener
from transports.turnstile import Turnstile

if TYPE_CHECKING:
    from hypercorn.typing import ASGIFramework

__all__ = ["Server", "open_server", "reload_when_signalled", "run_until_signalled", "tls_context", "tune_collector"]

log = structlog.get_logger("realtime")

#: A thousand clients that reconnect together must not find the door shut by the kernel.
BACKLOG = 4096


class Server(Engine):
    """An engine that listens; made by `open_server`."""

    #: Where it listens, with the real port where 0 was asked for.
    address: tuple[str, int] = ("", 0)

    @property
    def url(self) -> str:
        """The address as a browser wants it."""
        host, port = self.address
        scheme = "http" if self.settings.tls_certificate is None else "https"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


@asynccontextmanager
async def open_server(
    settings: Settings | None = None,
    *,
    app: ASGIFramework | None = None,
    broker: Broker | None = None,
    authenticate: Authenticate | None = None,
    authorize: Authorize | None = None,
    catalogue: EventCatalogue | None = None,
    actions: Actions | None = None,
    feeds: Feeds | None = None,
    routes: Iterable[Route] = (),
    **options: Any,
) -> AsyncIterator[Server]:
    """Run a server for the length of a block; it listens when the block is entered.

    ``options`` are settings by name; they go before those in ``settings``. What ``actions``, ``feeds`` and ``routes``
    hold is there from the first connection on; more may be registered in the block. ``app`` is an application of your
    own (Quart-Trio or any ASGI that runs on Trio) that gets all paths which are not ours. Leaving the block shuts down:
    no new connections, every peer is told, what is stuck after `Settings.grace_seconds` is aborted. Cancelled, it does
    not wait.

    Raises `ConfigurationError`, also for an address that cannot be listened on.
    """
    settings = load_settings(environ={}, **options) if settings is None else with_overrides(settings, **options)
    server = Server(
        settings,
        broker=broker,
        authenticate=authenticate or make_authenticate(settings),
        authorize=authorize,
        catalogue=catalogue,
        actions=actions,
        feeds=feeds,
        routes=routes,
    )
    tls = tls_context(settings)
    listener = _listen(settings)
    server.address = listener.getsockname()[:2]
    application = Application(beside(make_app(server), app), stall_seconds=settings.write_stall_timeout_seconds)
    front = Front(server, application.serve, tls=tls)
    with lone_exceptions_bare():
        async with trio.open_nursery() as services:
            await services.start(server.run)
            await services.start(application.run)
            async with trio.open_nursery() as connections:
                async with trio.open_nursery() as listening:
                    await listening.start(Turnstile(server, front).run, listener, connections)
                    yield server
                    listening.cancel_scope.cancel()
                # From out here: within the scope that ended the listeners, the goodbyes would be cancelled too.
                front.drain()
                connections.start_soon(_end_stuck, front, connections, settings.grace_seconds)
                await server.drain()
                while front.open_connections:  # noqa: ASYNC110
                    await trio.sleep(0.01)
                connections.cancel_scope.cancel()
            services.cancel_scope.cancel()
    server.audit.flush()


async def _end_stuck(front: Front, connections: trio.Nursery, seconds: float) -> None:
    """Abort what has not ended in time."""
    await trio.sleep(seconds)
    front.abort_all()
    connections.cancel_scope.cancel()


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """What the port speaks TLS with, if it does; raises `ConfigurationError`."""
    if settings.tls_certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(settings.tls_certificate, settings.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"tls_certificate = {settings.tls_certificate!r}: cannot be loaded: {error}") from None
    return context


def _listen(settings: Settings) -> trio.socket.SocketType:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tune_listener(
            listening,
            send_buffer_bytes=settings.send_buffer_bytes,
            user_timeout_seconds=settings.ping_interval_seconds + settings.pong_timeout_seconds,
        )
        listening.bind((settings.host, settings.port))
        listening.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        listening.close()
        taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        hint = "; choose another one with --port, REALTIME_PORT or the setting `port`" if taken else ""
        raise ConfigurationError(
            f"host = {settings.host!r}, port = {settings.port}: cannot listen: {error}{hint}"
        ) from None
    return trio.socket.from_stdlib_socket(listening)


async def run_until_signalled(server: Server) -> None:
    """Return at the first SIGTERM or SIGINT; from then on a second one ends the process at once."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            log.info("shutting down", signal=signal.Signals(number).name, connections=len(server.connections))
            break
    # The receiver has put back what was there before; a second signal must not wait for the grace time.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


async def reload_when_signalled(
    server: Server,
    read: Callable[[], Settings],
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """At each SIGHUP have the server take over what can be changed while it runs: see `Engine.reload`.

    Settings with a fault in them change nothing; the log says what is wrong.
    """
    with trio.open_signal_receiver(signal.SIGHUP) as signals:
        task_status.started()
        async for _ in signals:
            try:
                later = await server.reload(read())
            except ConfigurationError as error:
                log.error("the settings are not taken over", fault=str(error))  # noqa: TRY400
                continue
            log.info("settings taken over", taken=list(RELOADED), needs_restart=later)


def tune_collector() -> None:
    """Have Python's collector of cycles look less often; call it once, after the imports, before the loop.

    A server makes much that lives as long as its connection, and little that is cyclic; with a thousand requests under
    way the default looks through all of it again and again. For a process that does nothing but serve: what else
    runs in it may have cycles that it wants collected soon.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
