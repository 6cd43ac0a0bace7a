"""The AsyncAPI 3.0 document: what can be said to a server, and what it says.

It is made from what the server runs on: the structs of the commands, the configured kinds, the catalogue of events, the
registered actions. It is written as the server sees it: it *receives* commands and *sends* messages.

One channel is the connection, with the commands, their replies and the pushes. Each kind is one more, with the messages
of its topics. Server-Sent Events carry what is sent on both.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import msgspec

from realtime import pushes
from realtime.errors import ConfigurationError
from realtime.events import EventCatalogue
from realtime.messages import CommandId
from realtime.topics import Kind, Kinds

__all__ = ["DescribedAction", "asyncapi_document"]

_Object = dict[str, Any]
_ERROR = "server.error"
_MESSAGE = "server.message"


class DescribedAction(Protocol):
    """A request that the server answers. The types are any that msgspec knows."""

    @property
    def name(self) -> str:
        """What a request calls it."""
        ...

    @property
    def payload(self) -> Any:
        """The type of what it takes."""
        ...

    @property
    def result(self) -> Any:
        """The type of what it answers."""
        ...

    @property
    def doc(self) -> str | None:
        """What it does, in words."""
        ...


def asyncapi_document(catalogue: EventCatalogue, *, kinds: Kinds, actions: Iterable[DescribedAction] = ()) -> _Object:
    """The document, ready for JSON. Raises `ConfigurationError` for an event on a kind that there is not."""
    actions = tuple(actions)
    replies = {_tag(command): _server(reply) for command, reply in pushes.REPLIES.items()}
    pushed = [_server(push) for push in pushes.PUSHES if _server(push) != _MESSAGE]
    spoken = [*(f"command.{name}" for name in replies), *replies.values(), *pushed]
    operations: _Object = {"pushes": _operation("send", "connection", pushed)}
    for command, (name, reply) in zip(pushes.REPLIES, replies.items(), strict=True):
        operations[name] = _answered(f"command.{name}", reply, command.__doc__)
    for action in actions:
        request, response = f"request.{action.name}", f"response.{action.name}"
        spoken += request, response
        operations[request] = _answered(request, response, action.doc)
    channels = {"connection": _connection(spoken)}
    for kind in kinds:
        channel = f"topic.{kind.name}"
        heard = [_MESSAGE, *(f"event.{event.name}" for event in catalogue if event.kind in (None, kind.name))]
        channels[channel] = _topic(kind, heard)
        operations[channel] = _operation("send", channel, heard)
    for event in catalogue:
        if event.kind is not None and f"topic.{event.kind}" not in channels:
            raise ConfigurationError(f"event {event.name}: there is no kind of topic {event.kind!r}")
    messages, schemas = _components(catalogue, actions)
    return {
        "asyncapi": "3.0.0",
        "info": {"title": catalogue.title, "version": catalogue.version},
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages, "schemas": schemas},
    }


def _tag(struct: Any) -> str:
    tag: str = struct.__struct_config__.tag
    return tag


def _server(struct: type) -> str:
    return f"server.{_tag(struct)}"


# -- channels and operations -------------------------------------------------------------------------------------


def _connection(keys: list[str]) -> _Object:
    return {
        "address": "/ws",
        "description": "One connection. Every message is one JSON object; a reply repeats the `id` of its command.",
        "messages": _references(keys),
    }


def _topic(kind: Kind, keys: list[str]) -> _Object:
    channel: _Object = {
        "address": kind.name if kind.bare else f"{kind.name}:{{name}}",
        "description": f"Topics to `subscribe` to. Who may join: {kind.join}. Which peers may publish: {kind.publish}.",
        "messages": _references(keys),
    }
    if not kind.bare:
        channel["parameters"] = {"name": {"description": f"Matches `{kind.pattern}`."}}
    return channel


def _references(keys: list[str]) -> _Object:
    return {key: {"$ref": f"#/components/messages/{key}"} for key in keys}


def _operation(action: str, channel: str, keys: list[str]) -> _Object:
    return {"action": action, **_place(channel, keys)}


def _answered(command: str, reply: str, doc: str | None) -> _Object:
    operation = _operation("receive", "connection", [command])
    operation["reply"] = _place("connection", [reply, _ERROR])
    if doc:
        operation["description"] = doc
    return operation


def _place(channel: str, keys: list[str]) -> _Object:
    return {
        "channel": {"$ref": f"#/channels/{channel}"},
        "messages": [{"$ref": f"#/channels/{channel}/messages/{key}"} for key in keys],
    }


# -- messages and schemas ----------------------------------------------------------------------------------------


def _components(catalogue: EventCatalogue, actions: tuple[DescribedAction, ...]) -> tuple[_Object, _Object]:
    """All messages, and the schemas that they refer to."""
    models: _Object = {f"command.{_tag(command)}": command for command in pushes.REPLIES}
    models |= {_server(struct): struct for struct in (*pushes.REPLIES.values(), *pushes.PUSHES)}
    answered = {key for key, struct in models.items() if "id" in struct.__struct_fields__}
    models |= {f"event.{event.name}": event.model for event in catalogue}
    for action in actions:
        models |= {f"request.{action.name}": action.payload, f"response.{action.name}": action.result}
    # All at once: msgspec then tells classes of the same name apart.
    found, schemas = msgspec.json.schema_components(models.values(), ref_template="#/components/schemas/{name}")
    payloads = dict(zip(models, found, strict=True))
    for event in catalogue:
        key = f"event.{event.name}"
        payloads[key] = _enveloped(payloads[_MESSAGE], event.name, payloads[key])
    for action in actions:
        for key, make in ((f"request.{action.name}", _request), (f"response.{action.name}", _response)):
            payloads[key] = make(action.name, payloads[key])
            answered.add(key)
    messages: _Object = {}
    for key, payload in payloads.items():
        messages[key] = {"name": key.partition(".")[2], "payload": _draft_7(payload)}
        if key in answered:
            messages[key]["correlationId"] = {"location": "$message.payload#/id"}
    return messages, _draft_7(schemas)


def _enveloped(message: _Object, event: str, data: _Object) -> _Object:
    return {"allOf": [message, {"properties": {"event": {"const": event}, "data": data}, "required": ["event"]}]}


def _request(action: str, payload: _Object) -> _Object:
    required = ["type", "id", "action"] if payload == {"type": "null"} else ["type", "id", "action", "payload"]
    options = {"trace_id": {"type": "string"}, "timeout": {"type": "number"}}
    return _exchange("request", action, {"payload": payload, **options}, required)


def _response(action: str, data: _Object) -> _Object:
    required = ["type", "id", "action", "data"]
    return _exchange("response", action, {"data": data, "trace_id": {"type": "string"}}, required)


def _exchange(kind: str, action: str, members: _Object, required: list[str]) -> _Object:
    head = {"type": {"const": kind}, "id": msgspec.json.schema(CommandId), "action": {"const": action}}
    return {"type": "object", "properties": {**head, **members}, "required": required}


def _draft_7(schema: Any) -> Any:
    """The schema in the dialect of AsyncAPI, JSON Schema draft 7; msgspec writes that of OpenAPI 3.1."""
    if isinstance(schema, list):
        return [_draft_7(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {name: _draft_7(part) for name, part in schema.items()}
    # The dictionaries in here may also be the members of a model: their names are no keywords.
    if isinstance(plain.get("prefixItems"), list):
        plain["items"], plain["additionalItems"] = plain.pop("prefixItems"), plain.get("items", True)
    if "propertyName" in (plain.get("discriminator") or ()):
        del plain["discriminator"]
    return plain
