"""The server that a command talks to: where it is, who we are there, and how long we wait for it."""

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

from realtime.cli.ending import Failure, NoConnection
from realtime.client import Client, ClientFailed, ClientState, TokenReason, Unreachable, connect
from realtime.errors import CommandError, ErrorCode
from transports.publishers import AsyncHttpPublisher, PublishError

__all__ = ["Api", "Remote", "failing", "with_remote"]

#: Tries of a first connection. Two ways there are, and each is given a second chance.
_FIRST_TRIES = 4


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
    #: A peer shows the token where there is one, or else the API key, which is a login too; a back end the key.
    token: str | None = field(default=None, repr=False)
    #: Goes before `token`.
    token_file: Path | None = None
    api_key: str | None = field(default=None, repr=False)
    connect_timeout_seconds: float = 10.0

    def read_token(self, _reason: TokenReason = TokenReason.CONNECT) -> str:
        """The token that is in the file now. Raises ``OSError``."""
        assert self.token_file is not None
        return self.token_file.read_text().strip()

    def headers(self) -> dict[str, str]:
        """What a back end shows: the API key, or else the token. Raises `Failure`."""
        if self.api_key is None:
            return self.peer_headers()
        return {"X-API-Key": _checked(self.api_key)}

    def peer_headers(self) -> dict[str, str]:
        """What a peer shows: the token, or else the API key. Raises `Failure`."""
        login = self.read_token() if self.token_file is not None else self.token or self.api_key
        return {} if login is None else {"Authorization": f"Bearer {_checked(login)}"}

    @asynccontextmanager
    async def peer(self) -> AsyncIterator[Client]:
        """A connected client for the length of a block. Raises `Failure`, also in place of what the block raises."""
        with failing():
            # Somebody waits at a terminal, alone: later tries come sooner than those of a thousand pages would.
            async with connect(
                self.url,
                token=self.token or self.api_key if self.token_file is None else self.read_token,
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
        assert self.api_key is not None
        with failing():
            async with AsyncHttpPublisher(
                self.url,
                self.api_key,
                attempts=_FIRST_TRIES,
                timeout_seconds=min(self.connect_timeout_seconds, timeout_seconds),
                deadline_seconds=timeout_seconds,
                backoff_seconds=(0.25, 5.0),
                transport=httpx.AsyncHTTPTransport(verify=_tls(self.url), trust_env=False),
            ) as publisher:
                yield publisher

    @asynccontextmanager
    async def api(self) -> AsyncIterator[Api]:
        """The HTTP API, to read from."""
        try:
            http = httpx.AsyncClient(
                base_url=self.url,
                headers=self.headers(),
                timeout=httpx.Timeout(10.0, connect=self.connect_timeout_seconds),
                verify=_tls(self.url),
                trust_env=False,
            )
        except httpx.InvalidURL as error:
            raise Failure(f"{self.url!r} is not a URL: {error}") from None
        async with http:
            yield Api(http)


def _checked(credential: str) -> str:
    if not (credential.isascii() and credential.isprintable() and credential.strip() == credential != ""):
        raise Failure("a token or key is printable ASCII text with no blanks around it", code=ErrorCode.AUTH_FAILED)
    return credential


def _tls(url: str) -> ssl.SSLContext | bool:
    return ssl.create_default_context() if url.startswith("https:") else True


class Api:
    """Reads from the HTTP API of a server."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def get(self, path: str, **query: int) -> Any:
        """What stands there. Raises `Failure`."""
        try:
            response = await self._http.get(path, params=query)
            if response.is_success:
                return response.json()
        except httpx.UnsupportedProtocol:
            raise Failure(f"{self._http.base_url} is not the URL of a server") from None
        except httpx.TransportError as error:
            raise NoConnection(_why(error)) from None
        except ValueError:
            raise Failure(f"{path} was not answered with JSON: is this a realtime server?") from None
        try:
            told = msgspec.json.decode(response.content, type=_Told)
        except msgspec.DecodeError:
            raise Failure(f"{path} was answered with status {response.status_code}") from None
        denied = told.code == ErrorCode.PERMISSION_DENIED
        raise Failure(told.message, code=told.code, hint="the key or token needs the right `read`" if denied else None)


def _why(error: BaseException) -> str:
    """What httpx says of a failure; of one in TLS only its cause says something."""
    told: BaseException | None = error
    while told is not None and not str(told):
        told = told.__cause__ or told.__context__
    return str(told or type(error).__name__)


@contextmanager
def failing() -> Iterator[None]:
    """What the libraries of clients raise comes out as `Failure`."""
    try:
        yield
    except Unreachable as error:
        raise NoConnection(error.message) from None
    except ClientFailed as error:
        raise Failure(error.message, code=error.code) from None
    except PublishError as error:
        if error.status is None:
            raise NoConnection(error.message, code=error.code) from None
        raise Failure(error.message, code=error.code) from None
    except CommandError as error:
        traced = "" if error.trace_id is None else f" [trace id {error.trace_id}]"
        raise Failure(f"{error.message}{traced}", code=error.code) from None


_OPTIONS = [
    click.option(
        "--url",
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
            token=token or None,
            token_file=token_file,
            api_key=api_key or None,
            connect_timeout_seconds=connect_timeout,
        )
        command(remote=remote, **others)

    decorated: Callable[..., None] = with_options
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated
