"""What a publisher asks of a server, and what the answers mean. No I/O, no time."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Annotated, Any, Generic, TypeVar
from urllib.parse import quote

import msgspec
from attrs import field, frozen
from msgspec import Meta, Raw, Struct

from realtime.errors import ErrorCode, RealtimeError
from transports.retrying import retry_after

__all__ = [
    "Call",
    "Outgoing",
    "PublishError",
    "Receipt",
    "batches",
    "broadcast",
    "no_answer",
    "publish",
    "send_to_connection",
    "send_to_user",
    "unreachable",
]

T_co = TypeVar("T_co", covariant=True)

#: The most that the server takes in one request.
BATCH_MESSAGES = 1000
#: For answers that do not bring a code, as those of a proxy on the way.
_CODES: dict[int, ErrorCode] = {
    HTTPStatus.UNAUTHORIZED: ErrorCode.AUTH_REQUIRED,
    HTTPStatus.FORBIDDEN: ErrorCode.PERMISSION_DENIED,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: ErrorCode.PAYLOAD_TOO_LARGE,
    HTTPStatus.TOO_MANY_REQUESTS: ErrorCode.RATE_LIMIT_EXCEEDED,
    HTTPStatus.BAD_GATEWAY: ErrorCode.UNAVAILABLE,
    HTTPStatus.SERVICE_UNAVAILABLE: ErrorCode.UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT: ErrorCode.TIMEOUT,
}


class PublishError(RealtimeError):
    """A call was refused; or no answer came, and the message may have been published all the same.

    The latter where `status` is None, and where a proxy answers in the server's place: 502, 504.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        status: int | None = None,
        retry_after: float | None = None,
        topic: str | None = None,
    ) -> None:
        super().__init__(code, message)
        #: A `realtime.ErrorCode`, or the code of a newer server.
        self.code = code
        self.message = message
        #: The HTTP status of the answer; None if there was no answer.
        self.status = status
        #: After how many seconds the server wants to be asked again.
        self.retry_after = retry_after
        #: The topic that refused, where the request did not name just one.
        self.topic = topic
        #: How many requests were made before this was raised.
        self.attempts = 1

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


@frozen
class Outgoing:
    """One of the messages for `publish_many`; ``data`` is anything that has a JSON form."""

    topic: str
    data: Any
    event: str | None = field(default=None, kw_only=True)
    key: str | None = field(default=None, kw_only=True)
    idempotency_key: str | None = field(default=None, kw_only=True)


class Receipt(Struct, frozen=True):
    """Where a message stands in its topic."""

    epoch: str
    offset: int
    #: Whether it had been published before under its idempotency key; the position is that of then.
    duplicate: bool = False
    #: The topic, where the request did not name just one.
    topic: str | None = None


class _Told(Struct, frozen=True):
    """An error, as the server writes it."""

    code: str
    message: str = ""
    retry_after: Annotated[float, Meta(ge=0)] | None = None
    topic: str | None = None

    def error(self, status: int) -> PublishError:
        return PublishError(self.code, self.message, status=status, retry_after=self.retry_after, topic=self.topic)


class _Results(Struct, frozen=True):
    results: list[Raw]


_receipt_decoder = msgspec.json.Decoder(Receipt)
_results_decoder = msgspec.json.Decoder(_Results)
_told_decoder = msgspec.json.Decoder(_Told)


@frozen
class Call(Generic[T_co]):
    """One request: what is posted where, and how its answer is read."""

    path: str
    content: bytes
    _read: Callable[[bytes], T_co]

    def outcome(self, status: int, headers: Mapping[str, str], body: bytes) -> T_co:
        """What an answer means; ``headers`` are looked up in lower case. Raises `PublishError` for a refusal."""
        if status != HTTPStatus.OK:
            raise _refusal(status, headers, body)
        try:
            return self._read(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            message = "the answer is none of a realtime server; is the URL right?"
            raise PublishError(ErrorCode.INTERNAL_ERROR, message, status=status) from None


def publish(message: Outgoing) -> Call[Receipt]:
    """One message to one topic."""
    return Call("/api/v1/publish", msgspec.json.encode(_publish_body(message)), _receipt_decoder.decode)


def batches(messages: Sequence[Outgoing]) -> list[Call[list[Receipt | PublishError]]]:
    """Many messages, in as many requests as they need. All are encoded before the first is sent."""
    parts = [messages[start : start + BATCH_MESSAGES] for start in range(0, len(messages), BATCH_MESSAGES)]
    return [_batch(part) for part in parts]


def broadcast(
    topics: Iterable[str], data: Any, *, event: str | None, key: str | None, idempotency_key: str | None
) -> Call[list[Receipt | PublishError]]:
    """One message to several topics."""
    body = {"topics": list(topics), **_body(data, event, key, idempotency_key)}
    return Call("/api/v1/broadcast", msgspec.json.encode(body), _read_results)


def send_to_user(
    user: str, data: Any, *, event: str | None, key: str | None, idempotency_key: str | None
) -> Call[Receipt]:
    """One message to all connections of a user."""
    body = _body(data, event, key, idempotency_key)
    return Call(f"/api/v1/users/{_segment(user)}/send", msgspec.json.encode(body), _receipt_decoder.decode)


def send_to_connection(
    connection: str, data: Any, *, event: str | None, key: str | None, idempotency_key: str | None
) -> Call[Receipt]:
    """One message to one connection."""
    body = _body(data, event, key, idempotency_key)
    return Call(f"/api/v1/connections/{_segment(connection)}/send", msgspec.json.encode(body), _receipt_decoder.decode)


def no_answer(seconds: float) -> PublishError:
    """The failure of an attempt that had so much time."""
    return PublishError(ErrorCode.TIMEOUT, f"no answer within {seconds:.3g} seconds")


def unreachable(why: Exception) -> PublishError:
    """The failure of an attempt whose connection did not come about, or broke."""
    # A failure of TLS has no words itself.
    said = str(why) or str(why.__cause__ or why.__context__ or "no reason is known")
    return PublishError(ErrorCode.UNAVAILABLE, f"no answer: {type(why).__name__}: {said}")


def _body(data: Any, event: str | None, key: str | None, idempotency_key: str | None) -> dict[str, Any]:
    if idempotency_key is None:
        idempotency_key = secrets.token_urlsafe(16)
    options = {"event": event, "key": key, "idempotency_key": idempotency_key}
    return {"data": data, **{name: value for name, value in options.items() if value is not None}}


def _publish_body(message: Outgoing) -> dict[str, Any]:
    body = _body(message.data, message.event, message.key, message.idempotency_key)
    return {"topic": message.topic, **body}


def _batch(messages: Sequence[Outgoing]) -> Call[list[Receipt | PublishError]]:
    def read(body: bytes) -> list[Receipt | PublishError]:
        results = _read_results(body)
        if len(results) != len(messages):
            raise msgspec.ValidationError("a batch is answered message by message")
        return results

    return Call("/api/v1/batch", msgspec.json.encode([_publish_body(message) for message in messages]), read)


def _segment(name: str) -> str:
    """A name as one segment of a path. Dots too are escaped: a segment ``..`` would be resolved away."""
    return quote(name, safe="").replace(".", "%2E")


def _read_results(body: bytes) -> list[Receipt | PublishError]:
    return [_read_result(result) for result in _results_decoder.decode(body).results]


def _read_result(text: Raw) -> Receipt | PublishError:
    try:
        return _receipt_decoder.decode(text)
    except msgspec.ValidationError:
        return _told_decoder.decode(text).error(HTTPStatus.OK)


def _refusal(status: int, headers: Mapping[str, str], body: bytes) -> PublishError:
    try:
        error = _told_decoder.decode(body).error(status)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # The body is not shown: what answers here may be anything, even an echo of the request with its key.
        default = ErrorCode.BAD_REQUEST if 400 <= status < 500 else ErrorCode.INTERNAL_ERROR  # noqa: PLR2004
        error = PublishError(_CODES.get(status, default), f"answered with status {status}", status=status)
    if error.retry_after is None:
        error.retry_after = retry_after(headers)
    return error
