"""Typed events: declared once, checked on every publish, sent by a method, described in ``/asyncapi.json``.

An `EventCatalogue` knows the events of an application. An `Event` ties a name to a model (a msgspec struct, a class of
attrs, a dataclass or a ``TypedDict``) and to the topic that it goes to, which the members of the model fill in. A
`Broadcaster` sends them, through anything that publishes: an engine, a server, a client of one over HTTP.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterator
from string import Formatter
from typing import Any, Generic, ParamSpec, Protocol, Self, TypeVar, overload

import msgspec
from attrs import define, field, frozen, validators
from msgspec import UNSET, Raw
from msgspec.inspect import DataclassType, StructType, TypedDictType

from realtime.errors import CommandError, ErrorCode

__all__ = ["Broadcaster", "Event", "EventCatalogue", "Placed", "Publish"]

M = TypeVar("M")
P = ParamSpec("P")

_json = msgspec.json.Encoder()


@frozen(eq=False)
class Event(Generic[M, P]):
    """A kind of message with a model; made by `EventCatalogue.event`.

    As an attribute of a `Broadcaster` class it is a method of its instances, which takes what the model takes.
    """

    #: Also a key in the AsyncAPI document, which allows no other characters.
    name: str = field(validator=validators.matches_re(r"[A-Za-z0-9_.\-]{1,128}"))
    model: Callable[P, M]
    topic: str | None
    _decoder: msgspec.json.Decoder[M] = field(init=False, repr=False)
    #: The topic in pieces: fixed text, then the member that follows it.
    _pieces: tuple[tuple[str, str | None], ...] = field(init=False, repr=False)

    @_decoder.default
    def _make_decoder(self) -> msgspec.json.Decoder[M]:
        msgspec.json.schema(self.model)  # raises for what no JSON can hold: here, and not in /asyncapi.json
        return msgspec.json.Decoder(self.model)

    @_pieces.default
    def _split_topic(self) -> tuple[tuple[str, str | None], ...]:
        shape = msgspec.inspect.type_info(self.model)
        if not isinstance(shape, StructType | DataclassType | TypedDictType):
            raise TypeError(f"event {self.name}: the model must have members")
        if self.topic is None:
            return ()
        if "{" in self.topic.partition(":")[0]:
            raise ValueError(f"event {self.name}: the kind of its topic must be written out")
        known = {member.name for member in shape.fields}
        pieces = []
        for text, member, form, conversion in Formatter().parse(self.topic):
            if member is not None and (member not in known or form or conversion):
                raise ValueError(f"event {self.name}: its topic names {member!r}, which is no member of the model")
            pieces.append((text, member))
        return tuple(pieces)

    @property
    def kind(self) -> str | None:
        """The kind of its topic; None where it has no topic of its own."""
        return None if self.topic is None else self.topic.partition(":")[0]

    def parse(self, text: bytes | Raw) -> M:
        """The model in a JSON text. Raises `CommandError` that names the member at fault."""
        try:
            return self._decoder.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise CommandError(ErrorCode.BAD_REQUEST, f"event {self.name}: {_fault(error)}") from None

    def encode(self, model: M) -> Raw:
        """The JSON text of a model, which a struct or a class does not check by itself. Raises `CommandError`."""
        text = _json.encode(model)
        self.parse(text)
        return Raw(text)

    def topic_of(self, model: M) -> str:
        """The topic of its own, filled in. Raises `CommandError` where it has none, or a member has no value."""
        if self.topic is None:
            raise CommandError(ErrorCode.BAD_REQUEST, f"event {self.name}: needs a topic")
        return "".join(text if member is None else text + self._word(model, member) for text, member in self._pieces)

    def _word(self, model: M, member: str) -> str:
        value = model.get(member) if isinstance(model, dict) else getattr(model, member)
        if value is None or value is UNSET:
            raise CommandError(ErrorCode.BAD_REQUEST, f"event {self.name}: its topic needs `{member}`")
        return str(msgspec.to_builtins(value))  # enumerations and UUIDs as they are in the JSON text

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: Broadcaster, owner: type) -> Callable[P, Coroutine[Any, Any, Placed]]: ...
    def __get__(self, instance: Broadcaster | None, owner: type) -> Self | Callable[P, Coroutine[Any, Any, Placed]]:
        if instance is None:
            return self

        async def send(*args: P.args, **kwargs: P.kwargs) -> Placed:
            return await instance.send(self, self.model(*args, **kwargs))

        return send


def _fault(error: Exception) -> str:
    cause = error.__cause__
    if cause is None or not cause.args:
        return str(error)
    # Validators of attrs raise with the attribute and the validator behind the message: nothing for a peer.
    return str(error).replace(str(cause), str(cause.args[0]))


@define(kw_only=True, eq=False)
class EventCatalogue:
    """The events of an application, by name."""

    #: What the AsyncAPI document calls the application.
    title: str = "Realtime server"
    version: str = "1"
    #: Whether a message without a declared event is refused, on every topic.
    closed: bool = False
    _events: dict[str, Event[Any, ...]] = field(factory=dict, init=False)

    def __iter__(self) -> Iterator[Event[Any, ...]]:
        return iter(self._events.values())

    def event(self, name: str, model: Callable[P, M], *, topic: str | None = None) -> Event[M, P]:
        """Declare an event.

        ``topic`` may name members of the model in braces, after the kind: ``"project:{project_id}"``. Raises
        `ValueError` for a name that is taken or a topic that the model cannot fill, `TypeError` for an unfit model.
        """
        if name in self._events:
            raise ValueError(f"event {name}: declared twice")
        event = Event(name, model, topic)
        self._events[name] = event
        return event

    def find(self, name: str) -> Event[Any, ...]:
        """The event of this name. Raises `CommandError`."""
        try:
            return self._events[name]
        except KeyError:
            raise CommandError(ErrorCode.BAD_REQUEST, "no such event in the catalogue") from None

    def check(self, event: str | None, data: bytes | Raw) -> None:
        """Raise `CommandError` for a message that must not be published under this event."""
        declared = None if event is None else self._events.get(event)
        if declared is not None:
            declared.parse(data)
        elif self.closed:
            raise CommandError(ErrorCode.BAD_REQUEST, "no such event in the catalogue")


class Placed(Protocol):
    """Where a message stands in its topic."""

    @property
    def epoch(self) -> str:
        """The life of the topic's history."""
        ...

    @property
    def offset(self) -> int:
        """The number in it."""
        ...


class Publish(Protocol):
    """What a broadcaster sends through, like `realtime.Engine.publish`. ``data`` is a `msgspec.Raw`."""

    def __call__(
        self, topic: str, data: Any, /, *, event: str | None, key: str | None, idempotency_key: str | None = None
    ) -> Awaitable[Placed]:
        """Publish JSON to a topic; its position there."""
        ...


class Broadcaster:
    """Sends the events of a catalogue; for any part of a back end to call.

    Each call raises `CommandError` for an event that its model does not allow, and what ``publish`` raises.
    """

    # Methods come from events that a subclass has as attributes. Made up from the names at run time, in
    # ``__getattr__``, they would be unknown to type checkers, to editors and to whoever greps for their callers.

    def __init__(self, catalogue: EventCatalogue, publish: Publish) -> None:
        self._catalogue = catalogue
        self._publish = publish

    async def send(
        self,
        event: Event[M, ...],
        model: M,
        *,
        topic: str | None = None,
        key: str | None = None,
        idempotency_key: str | None = None,
    ) -> Placed:
        """Publish an event, to its own topic unless another is given."""
        text = event.encode(model)
        place = topic or event.topic_of(model)
        if idempotency_key is None:  # which ``publish`` may bring by itself, as a partial does
            return await self._publish(place, text, event=event.name, key=key)
        return await self._publish(place, text, event=event.name, key=key, idempotency_key=idempotency_key)

    async def emit(
        self,
        name: str,
        data: Any,
        *,
        topic: str | None = None,
        key: str | None = None,
        idempotency_key: str | None = None,
    ) -> Placed:
        """Publish an event by its name, from plain data; members that its model does not have are left out."""
        event = self._catalogue.find(name)
        model = event.parse(_json.encode(data))
        return await self.send(event, model, topic=topic, key=key, idempotency_key=idempotency_key)
