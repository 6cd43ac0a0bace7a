"""The two publishers: the same calls and attempts over httpx, one blocking, one not."""

from __future__ import annotations

import random as chance
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self, TypeVar

import anyio
import httpx

from realtime.errors import ConfigurationError
from transports.publishers import calls
from transports.publishers.attempts import Attempts, Policy
from transports.publishers.calls import Call, Outgoing, PublishError, Receipt

__all__ = ["AsyncHttpPublisher", "HttpPublisher"]

T = TypeVar("T")


class HttpPublisher:
    """Publishes to the server at ``url``; every call blocks until the server has answered.

    One publisher holds one pool of connections and serves any number of threads. Close it, or use it in ``with``.

    A call that gets no answer, or 429, 502, 503 or 504, is made again, up to ``attempts`` times: after what the server
    asks for in ``Retry-After``, and a random time that doubles its bounds from the first to the second of
    ``backoff_seconds``. ``timeout_seconds`` bounds each wait for the network; ``deadline_seconds`` bounds all attempts
    of a request: none starts after it.

    All calls raise `PublishError`, and `TypeError` for data that has no JSON form. A call without ``idempotency_key``
    gets a random one. Give your own, such as the id of a database row, to try again later, from any process, without
    publishing twice.

    ``transport`` takes the place of httpx's own, for certificates, proxies, Unix sockets and tests.
    """

    def __init__(
        self,
        url: str,
        api_key: str,
        *,
        timeout_seconds: float = 10.0,
        attempts: int = 5,
        deadline_seconds: float = 30.0,
        backoff_seconds: tuple[float, float] = (0.1, 5.0),
        transport: httpx.BaseTransport | None = None,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        random: Callable[[], float] = chance.random,
    ) -> None:
        self._policy = Policy(
            timeout_seconds=timeout_seconds,
            deadline_seconds=deadline_seconds,
            attempts=attempts,
            backoff_seconds=backoff_seconds,
            random=random,
        )
        self._now = now
        self._sleep = sleep
        self._client = httpx.Client(base_url=_base(url), headers=_headers(api_key), transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. Idempotent."""
        self._client.close()

    def publish(
        self,
        topic: str,
        data: Any,
        *,
        event: str | None = None,
        key: str | None = None,
        idempotency_key: str | None = None,
    ) -> Receipt:
        """Publish one message."""
        message = Outgoing(topic, data, event=event, key=key, idempotency_key=idempotency_key)
        return self._call(calls.publish(message))

    def publish_many(self, messages: Iterable[Outgoing]) -> list[Receipt | PublishError]:
        """Publish messages in their order, a thousand to a request; each has its receipt or its own error.

        A request that fails as a whole is raised if it is the first. Otherwise its error stands for all messages from
        there on; those behind it were not sent.
        """
        messages = list(messages)
        results: list[Receipt | PublishError] = []
        for call in calls.batches(messages):
            try:
                results += self._call(call)
            except PublishError as error:
                return _filled(results, error, len(messages))
        return results

    def broadcast(
        self,
        topics: Iterable[str],
        data: Any,
        *,
        event: str | None = None,
        key: str | None = None,
        idempotency_key: str | None = None,
    ) -> list[Receipt | PublishError]:
        """Publish one message to several topics; each has its result, in their order."""
        return self._call(calls.broadcast(topics, data, event=event, key=key, idempotency_key=idempotency_key))

    def send_to_role(
        self,
        role: str,
        data: Any,
        *,
        event: str | None = None,
        key: str | None = None,
        idempotency_key: str | None = None,
    ) -> Receipt:
        """Publish one message to everybody who has a role."""
        return self.publish(f"role:{role}", data, event=event, key=key, idempotency_key=idempotency_key)

    def send_to_user(
        self,
        user: str,
        data: Any,
        *,
        event: str | None = None,
        key: str | None = None,
        idempotency_key: str | None = None,
    ) -> Receipt:
        """Publish one message to a user, on all connections."""
        return self._call(calls.send_to_user(user, data, event=event, key=key, idempotency_key=idempotency_key))

    def send_to_connection(
        self,
        connection: str,
        data: Any,
        *,
        event: str | None = None,
        key: str | None = None,
        idempotency_key: str | None = None,
    ) -> Receipt:
        """Publish one message to one connection, by the id from its ``welcome``."""
        return self._call(
            calls.send_to_connection(connection, data, event=event, key=key, idempotency_key=idempotency_key)
        )

    def _call(self, call: Call[T]) -> T:
        attempts = Attempts(self._policy, self._now())
        while True:
            try:
                response = self._client.post(call.path, content=call.content, timeout=attempts.seconds)
                return call.outcome(response.status_code, response.headers, response.content)
            except httpx.TimeoutException:
                failure = calls.no_answer(attempts.seconds)
            except httpx.RequestError as error:
                failure = calls.unreachable(error)
            except PublishError as error:
                failure = error
            # Out here, so that httpx's exception is not its context: in its frames a log may show the key.
            self._sleep(attempts.wait_seconds(failure, self._now()))


class AsyncHttpPublisher:
    """The same as `HttpPublisher` without blocking, under Trio and asyncio.

    ``timeout_seconds`` bounds a whole attempt, ``deadline_seconds`` the whole request. Cancelled, a call leaves its
    message published or not; to find out, make the call again with the same ``idempotency_key``.
    """

    def __init__(
        self,
        url: str,
        api_key: str,
        *,
        timeout_seconds: float = 10.0,
        attempts: int = 5,
        deadline_seconds: float = 30.0,
        backoff_seconds: tuple[float, float] = (0.1, 5.0),
        transport: httpx.AsyncBaseTransport | None = None,
        random: Callable[[], float] = chance.random,
    ) -> None:
        self._policy = Policy(
            timeout_seconds=timeout_seconds,
            deadline_seconds=deadline_seconds,
            attempts=attempts,
            backoff_seconds=backoff_seconds,
            random=random,
        )
        # No timeouts of httpx's: they bound single reads and writes, and ours bounds their sum.
        self._client = httpx.AsyncClient(
            base_url=_base(url),
            headers=_headers(api_key),
            transport=transport,
            timeout=None,  # noqa: S113
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections. Idempotent."""
        await self._client.aclose()

    async def publish(
        self,
        topic: str,
        data: Any,
        *,
        event: str | None = None,
        key: str | None = None,
        idempotency_key: str | None = None,
    ) -> Receipt:
        """See `HttpPublisher.publish`."""
        message = Outgoing(topic, data, event=event, key=key, idempotency_key=idempotency_key)
        return await self._call(calls.publish(message))

    async def publish_many(self, messages: Iterable[Outgoing]) -> list[Receipt | PublishError]:
        """See `HttpPublisher.publish_many`."""
        messages = list(messages)
        results: list[Receipt | PublishError] = []
        for call in calls.batches(messages):
            try:
                results += await self._call(call)
            except PublishError as error:
                return _filled(results, error, len(messages))
        return results

    async def broadcast(
        self,
        topics: Iterable[str],
        data: Any,
        *,
        event: str | None = None,
        key: str | None = None,
        idempotency_key: str | None = None,
    ) -> list[Receipt | PublishError]:
        """See `HttpPublisher.broadcast`."""
        return await self._call(calls.broadcast(topics, data, event=event, key=key, idempotency_key=idempotency_key))

    async def send_to_role(
        self,
        role: str,
        data: Any,
        *,
        event: str | None = None,
        key: str | None = None,
        idempotency_key: str | None = None,
    ) -> Receipt:
        """See `HttpPublisher.send_to_role`."""
        return await self.publish(f"role:{role}", data, event=event, key=key, idempotency_key=idempotency_key)

    async def send_to_user(
        self,
        user: str,
        data: Any,
        *,
        event: str | None = None,
        key: str | None = None,
        idempotency_key: str | None = None,
    ) -> Receipt:
        """See `HttpPublisher.send_to_user`."""
        return await self._call(calls.send_to_user(user, data, event=event, key=key, idempotency_key=idempotency_key))

    async def send_to_connection(
        self,
        connection: str,
        data: Any,
        *,
        event: str | None = None,
        key: str | None = None,
        idempotency_key: str | None = None,
    ) -> Receipt:
        """See `HttpPublisher.send_to_connection`."""
        return await self._call(
            calls.send_to_connection(connection, data, event=event, key=key, idempotency_key=idempotency_key)
        )

    async def _call(self, call: Call[T]) -> T:
        attempts = Attempts(self._policy, anyio.current_time())
        while True:
            try:
                with anyio.fail_after(attempts.seconds):
                    response = await self._client.post(call.path, content=call.content)
                return call.outcome(response.status_code, response.headers, response.content)
            except TimeoutError:
                failure = calls.no_answer(attempts.seconds)
            except httpx.RequestError as error:
                failure = calls.unreachable(error)
            except PublishError as error:
                failure = error
            # Out here, so that httpx's exception is not its context: in its frames a log may show the key.
            await anyio.sleep(attempts.wait_seconds(failure, anyio.current_time()))


def _filled(results: list[Receipt | PublishError], error: PublishError, count: int) -> list[Receipt | PublishError]:
    """The results with ``error`` for all that have none; raises it if none has one."""
    if not results:
        raise error
    return results + [error] * (count - len(results))


def _base(url: str) -> httpx.URL:
    try:
        base = httpx.URL(url)
    except httpx.InvalidURL:
        base = httpx.URL()
    if base.scheme not in ("http", "https") or not base.host:
        raise ConfigurationError("url must be that of a server, as in http://127.0.0.1:8000")
    return base


def _headers(api_key: str) -> dict[str, str]:
    # Checked before httpx sees it: its complaint about an unfit header shows the value.
    if not (api_key.isascii() and api_key.isprintable() and api_key.strip() == api_key != ""):
        raise ConfigurationError("api_key must be printable ASCII text with no blanks around it")
    return {"X-API-Key": api_key, "Content-Type": "application/json"}
