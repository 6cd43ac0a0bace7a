"""What an endpoint of the HTTP API is.

Each is declared once, in front of the function that does its work: the decorator says method, path and errors, the
function's signature what comes in and goes out, its docstring what for. The dispatcher serves from this, and the
OpenAPI document is written from it.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterator
from enum import Enum
from types import NoneType
from typing import Any, Generic, TypeVar, get_args, get_origin, get_type_hints

from attrs import frozen

from realtime.errors import ErrorCode

__all__ = ["Access", "Answer", "Endpoint", "Endpoints"]

T = TypeVar("T")
Function = TypeVar("Function", bound=Callable[..., Awaitable[Any]])

JSON = "application/json"


class Access(Enum):
    """Who may use an endpoint."""

    ANYONE = 0
    #: Who has the right to read; in development everybody.
    READER = 1
    #: Who has the right to publish.
    PUBLISHER = 2
    #: Who has the right to issue tickets.
    ISSUER = 3
    #: Who has every right: this concerns users or topics as a whole.
    ADMIN = 4
    #: A user of the realtime transports, who shows a token, or nothing where anonymous peers are served.
    PEER = 5
    #: Who knows the secret of the event stream.
    SECRET = 6


@frozen
class Answer(Generic[T]):
    """What an endpoint answers where it has more than one status for it."""

    status: int
    body: T


@frozen(kw_only=True)
class Endpoint:
    """See the module. Without a function the front door answers, and this only describes it."""

    method: str
    #: With the names of its parameters in braces.
    path: str
    name: str
    doc: str
    access: Access
    function: Callable[..., Awaitable[Any]] | None = None
    #: The types of the body, of the query and of the answer; None: there is none.
    body: Any = None
    query: Any = None
    answer: Any = None
    #: The statuses of success, the usual one first.
    statuses: tuple[int, ...] = (200,)
    #: What else may be wrong than the request itself.
    errors: tuple[ErrorCode, ...] = ()
    media: str = JSON


class Endpoints:
    """The endpoints of one module, in the order in which they stand there."""

    def __init__(self) -> None:
        self._all: list[Endpoint] = []

    def __iter__(self) -> Iterator[Endpoint]:
        return iter(self._all)

    def get(self, path: str, **options: Any) -> Callable[[Function], Function]:
        """Declare what only reads."""
        return self._declare("GET", path, {"access": Access.READER, **options})

    def post(self, path: str, **options: Any) -> Callable[[Function], Function]:
        """Declare what does something."""
        return self._declare("POST", path, options)

    def delete(self, path: str, **options: Any) -> Callable[[Function], Function]:
        """Declare what takes something away."""
        return self._declare("DELETE", path, options)

    def _declare(self, method: str, path: str, options: dict[str, Any]) -> Callable[[Function], Function]:
        def declare(function: Function) -> Function:
            types = get_type_hints(function, include_extras=True)
            answer = None if types["return"] is NoneType else types["return"]
            read = {
                "access": Access.PUBLISHER,
                "body": types.get("body"),
                "query": types.get("query"),
                "answer": get_args(answer)[0] if get_origin(answer) is Answer else answer,
            }
            doc = inspect.getdoc(function) or ""
            self._all.append(
                Endpoint(
                    method=method, path=path, name=function.__name__, doc=doc, function=function, **{**read, **options}
                )
            )
            return function

        return declare
