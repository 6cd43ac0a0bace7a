"""Where connections are accepted: each is let in, or answered and closed before a byte of it is read.

::

    run       accepts, and starts a task for each connection that is let in, in the nursery for connections
    '- reap   while there are refused ones to be closed: they had a moment to read why

A flood is turned away here for a few system calls apiece; a task, a request head and an answer would cost ten times
that, and the subscribers who are inside would feel it.
"""

from __future__ import annotations

import errno
import os
import socket
from collections import deque
from contextlib import suppress
from functools import partial

import structlog
import trio

from realtime.engine import Engine
from realtime.errors import CommandError, ErrorCode
from transports.front import Front
from transports.responses import error_response

__all__ = ["Turnstile"]

log = structlog.get_logger("realtime")

#: The process, or the machine, has no room for another socket; there will be, when others close.
_CROWDED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
_CROWDED_SECONDS = 0.1
_CLOSED = frozenset({errno.EBADF, errno.ENOTSOCK, errno.EINVAL})
#: Closing a socket with unread bytes tells the peer "reset", and it may drop our answer. So it stays this long.
_LINGER_SECONDS = 0.5
#: More of them are closed at once.
_MOST_LINGERING = 500
_RETRY_SECONDS = 5.0


class Turnstile:
    """See the module."""

    def __init__(self, engine: Engine, front: Front) -> None:
        self._engine = engine
        self._front = front
        self._lingering: deque[tuple[float, trio.socket.SocketType]] = deque()

    async def run(
        self,
        listener: trio.socket.SocketType,
        connections: trio.Nursery,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept until cancelled; the listener is closed then."""
        crowded = False
        with listener:
            async with trio.open_nursery() as nursery:
                task_status.started()
                while True:
                    try:
                        accepted, address = await listener.accept()
                    except OSError as error:
                        if error.errno in _CLOSED:
                            raise
                        if error.errno in _CROWDED:
                            if not crowded:
                                name = errno.errorcode[error.errno]
                                log.error("no file is left for another connection", errno=name)  # noqa: TRY400
                            crowded = True
                            await trio.sleep(_CROWDED_SECONDS)
                        continue  # anything else concerns one connection, which is gone
                    crowded = False
                    self._meet(accepted, address[0], connections, nursery)

    def _meet(
        self, accepted: trio.socket.SocketType, address: str, connections: trio.Nursery, reaping: trio.Nursery
    ) -> None:
        """Let one connection in, or turn it away."""
        front, admission = self._front, self._engine.admission
        # The address of a proxy is nobody's: the front door looks at those behind it, request by request.
        known = not front.proxies.trusts(address)
        error = (admission.shut_out(address) if known else None) or self._objection()
        error = error or (self._enter(address) if known else admission.admit())
        if error is None:
            connections.start_soon(partial(front.serve_connection, accepted, address, counted=known))
            return
        self._answer(accepted, error)
        if len(self._lingering) >= _MOST_LINGERING:
            accepted.close()
            return
        self._lingering.append((trio.current_time() + _LINGER_SECONDS, accepted))
        if len(self._lingering) == 1:
            reaping.start_soon(self._reap)

    def _enter(self, address: str) -> CommandError | None:
        """Count a connection of an address; or why it is not let in. Its own limits go first: they cost nobody else."""
        admission = self._engine.admission
        if error := admission.enter(address):
            return error
        error = admission.greet(address)
        if error is None:
            error = admission.admit()
            if error is None:
                return None
            admission.greeted(address)
        admission.leave(address)
        return error

    def _objection(self) -> CommandError | None:
        """Why nobody is let in now."""
        front, settings = self._front, self._engine.settings
        if front.open_connections >= settings.max_connections:
            self._engine.refuse("too_many_connections")
            return CommandError(ErrorCode.UNAVAILABLE, "too many connections", retry_after=_RETRY_SECONDS)
        if front.strangers >= settings.max_handshakes:
            self._engine.refuse("too_many_handshakes")
            return CommandError(ErrorCode.UNAVAILABLE, "too many connect at once", retry_after=_RETRY_SECONDS)
        return None

    def _answer(self, accepted: trio.socket.SocketType, error: CommandError) -> None:
        """Say why, without waiting; in TLS there is nothing that could be said yet."""
        with suppress(OSError):
            if not self._front.is_tls:
                os.write(accepted.fileno(), error_response(error))  # a fresh socket takes a few hundred bytes
            accepted.shutdown(socket.SHUT_WR)

    async def _reap(self) -> None:
        """Close those that were turned away, when their time has come."""
        try:
            while self._lingering:
                await trio.sleep_until(self._lingering[0][0])
                self._lingering.popleft()[1].close()
        finally:
            while self._lingering:
                self._lingering.popleft()[1].close()
