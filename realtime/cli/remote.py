"""The server that a command talks to: where it is, and how long we wait for it."""

from __future__ import annotations

import functools
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import click
import httpx
import msgspec
import trio
from attrs import field, frozen

from realtime.cli.credentials import Credentials
from realtime.cli.ending import Failure, NoConnection, first_of, leaves
from realtime.cli.given import UTF8, decode
from realtime.client import Client, ClientFailed, ClientState, Unreachable, connect
from realtime.errors import CommandError, ErrorCode
from transports.publishers import AsyncHttpPublisher, PublishError

__all__ = ["Api", "Remote", "with_remote"]

#: Tries of a first connection. Two ways there are, and each is given a second chance.
_FIRST_TRIES = 4
_WHOSE = "is this a realtime server?"


class _Told(msgspec.Struct):
    """An error of the HTTP API."""

    code: str
    message: str


def _with_scheme(url: str) -> str:
    return url if "://" in url else f"http://{url}"


@frozen(kw_only=True)
class Remote:
    """See the module."""

    #: As curl takes it: without a scheme it is plain HTTP.
    url: str = field(converter=_with_scheme)
    credentials: Credentials = field(factory=Credentials)
    connect_timeout_seconds: float = 10.0

    @asynccontextmanager
    async def peer(self) -> AsyncIterator[Client]:
        """A connected client for the length of a block. Raises `Failure`, also in place of what the block raises."""
        shown = self.credentials
        with self._failing():
            # Somebody waits at a terminal, alone: later tries come sooner than those of a thousand pages would.
            async with connect(
                self.url,
                token=shown.token or shown.api_key if shown.token_file is None else shown.read_token,
                min_delay_seconds=0.25,
                max_delay_seconds=15.0,
                connect_timeout_seconds=self.connect_timeout_seconds,
            ) as client:
                await self._wait_connected(client)
                try:
                    yield client
                except CommandError as error:
                    if client.state is not ClientState.CONNECTED:
                        raise NoConnection(error.message, code=error.code) from None
                    raise

    async def _wait_connected(self, client: Client) -> None:
        why = "no answer"
        with trio.move_on_after(self.connect_timeout_seconds):
            async for change in client.changes():
                if change.state is ClientState.CONNECTED:
                    return
                why = change.why or why
                if client.statistics().failures >= _FIRST_TRIES:
                    break
            else:
                await trio.sleep_forever()  # it has failed, and says why in a moment
        raise NoConnection(why)

    @asynccontextmanager
    async def publisher(self, timeout_seconds: float) -> AsyncIterator[AsyncHttpPublisher]:
        """A back end's way to publish, with the API key. Raises `Failure`, also in place of what the block raises."""
        key = self.credentials.api_key
        assert key is not None
        with self._failing(as_peer=False):
            async with AsyncHttpPublisher(
                self.url,
                key,
                attempts=_FIRST_TRIES,
                timeout_seconds=min(self.connect_timeout_seconds, timeout_seconds),
                deadline_seconds=timeout_seconds,
                backoff_seconds=(0.25, 5.0),
                transport=httpx.AsyncHTTPTransport(verify=_tls(self.url), trust_env=False),
            ) as publisher:
                yield publisher

    @contextmanager
    def _failing(self, *, as_peer: bool = True) -> Iterator[None]:
        """What the libraries of clients raise comes out as `Failure`; one, where there are several at once."""
        try:
            yield
        except Exception as error:
            failures = [self._failure(leaf, as_peer=as_peer) for leaf in leaves(error)]
            known = [failure for failure in failures if failure is not None]
            if len(known) < len(failures):
                raise
            raise first_of(known) from None

    def _failure(self, error: BaseException, *, as_peer: bool) -> Failure | None:
        match error:
            case Failure():
                return error
            case Unreachable():
                return NoConnection(error.message)
            case PublishError(status=None):
                return NoConnection(error.message, code=error.code)
            case ClientFailed() | PublishError():
                return self.credentials.failure(error.message, error.code, as_peer=as_peer)
            case CommandError():
                traced = "" if error.trace_id is None else f" [trace id {error.trace_id}]"
                return self.credentials.failure(f"{error.message}{traced}", error.code, as_peer=as_peer)
        return None

    @asynccontextmanager
    async def api(self) -> AsyncIterator[Api]:
        """The HTTP API, to read from."""
        try:
            http = httpx.AsyncClient(
                base_url=self.url,
                headers=self.credentials.headers(),
                timeout=httpx.Timeout(10.0, connect=self.connect_timeout_seconds),
                verify=_tls(self.url),
                trust_env=False,
            )
        except httpx.InvalidURL as error:
            raise Failure(f"{self.url!r} is not a URL: {error}") from None
        async with http:
            yield Api(http, self.credentials)


def _tls(url: str) -> ssl.SSLContext | bool:
    return ssl.create_default_context() if url.startswith("https:") else True


class Api:
    """Reads from the HTTP API of a server."""

    def __init__(self, http: httpx.AsyncClient, credentials: Credentials) -> None:
        self._http = http
        self._credentials = credentials

    async def get(self, path: str, shape: Any, **query: int) -> Any:
        """What stands there, which has at least what ``shape`` has. Raises `Failure`."""
        try:
            response = await self._http.get(path, params=query)
        except httpx.UnsupportedProtocol:
            raise Failure(f"{self._http.base_url} is not the URL of a server") from None
        except httpx.TransportError as error:
            raise NoConnection(_why(error)) from None
        except httpx.RequestError as error:  # an answer that cannot be unpacked, redirections without end
            raise Failure(f"{path} was not answered as it should be: {_why(error)}", hint=_WHOSE) from None
        if not response.is_success:
            raise self._refusal(path, response)
        try:
            found = decode(response.content)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise Failure(f"{path} was not answered with JSON", hint=_WHOSE) from None
        try:
            msgspec.convert(found, shape)
        except msgspec.ValidationError as error:
            raise Failure(f"{path} was not answered as it should be: {error}", hint=_WHOSE) from None
        return found

    def _refusal(self, path: str, response: httpx.Response) -> Failure:
        try:
            told = msgspec.convert(decode(response.content), _Told)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return Failure(f"{path} was answered with status {response.status_code}")
        if told.code == ErrorCode.PERMISSION_DENIED:
            shown = self._credentials.shown(as_peer=False)
            return Failure(told.message, code=told.code, hint=f"{shown} needs the right `read`" if shown else None)
        return self._credentials.failure(told.message, told.code, as_peer=False)


def _why(error: BaseException) -> str:
    """What httpx says of a failure; of one in TLS only its cause says something."""
    told: BaseException | None = error
    while told is not None and not str(told):
        told = told.__cause__ or told.__context__
    return str(told or type(error).__name__)


_OPTIONS = [
    click.option(
        "--url",
        type=UTF8,
        envvar="REALTIME_URL",
        show_envvar=True,
        default="http://127.0.0.1:8000",
        show_default=True,
        help="Where the server is.",
    ),
    click.option(
        "--token",
        envvar="REALTIME_TOKEN",
        show_envvar=True,
        help="Log in with this token (JWT) or ticket. Others on this machine see what a command line says: better use"
        " the variable, or --token-file.",
    ),
    click.option(
        "--token-file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="The same from a file, which is read anew whenever a token is needed.",
    ),
    click.option(
        "--api-key",
        envvar="REALTIME_KEY",
        show_envvar=True,
        help="Log in with this API key; better use the variable.",
    ),
    click.option(
        "--connect-timeout",
        type=click.FloatRange(min=0, min_open=True),
        default=10.0,
        show_default=True,
        help="How many seconds to wait for the server.",
    ),
]


def with_remote(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a server, and a `Remote` made of them as ``remote``."""

    @functools.wraps(command)
    def with_options(
        *,
        url: str,
        token: str | None,
        token_file: Path | None,
        api_key: str | None,
        connect_timeout: float,
        **others: Any,
    ) -> None:
        remote = Remote(
            url=url,
            credentials=Credentials(token=token or None, token_file=token_file, api_key=api_key or None),
            connect_timeout_seconds=connect_timeout,
        )
        command(remote=remote, **others)

    decorated: Callable[..., None] = with_options
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated
