"""The OpenAPI document says what the server does: every answer here is held against it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from attrs import field, frozen

from realtime.server import Server
from tests.peers import connect, open_events, request_bytes
from tests.transports.conftest import running
from tests.transports.test_api import KEY, authenticate
from transports.http.api import API
from transports.http.dispatch import MAX_BODY_BYTES
from transports.http.front_door import FRONT_DOOR
from transports.http.openapi import openapi_document

DOCUMENT = openapi_document((*API, *FRONT_DOOR))
#: These need a server that is full, held back or not running: `test_api` has them for one endpoint.
RARE = {429, 503, 504}
MUST_EXIST = {"role": {"must_exist": True}, "user": {"must_exist": True}}
TOKEN = {"Authorization": "Bearer 7"}


@frozen
class Operation:
    """One endpoint as the document has it."""

    method: str
    path: str
    spec: dict[str, Any] = field(repr=False)

    @property
    def name(self) -> str:
        return self.spec["operationId"]

    @property
    def secured(self) -> bool:
        return bool(self.spec["security"])

    @property
    def statuses(self) -> set[int]:
        return {int(status) for status in self.spec["responses"]}


OPERATIONS = [
    Operation(method.upper(), path, spec)
    for path, methods in DOCUMENT["paths"].items()
    for method, spec in methods.items()
]
BY_NAME = {operation.name: operation for operation in OPERATIONS}


def check(schema: dict[str, Any], value: Any, where: str = "$") -> None:
    """Raise `AssertionError` unless the value fits the schema: those words of JSON Schema that ours are written in."""
    unknown = set(schema) - _WORDS
    assert not unknown, f"{where}: {unknown}"
    if "$ref" in schema:
        return check(resolve(schema["$ref"]), value, where)
    if "anyOf" in schema:
        if "discriminator" in schema:
            mapping = schema["discriminator"]["mapping"]
            return check(resolve(mapping[value[schema["discriminator"]["propertyName"]]]), value, where)
        assert any(fits(option, value) for option in schema["anyOf"]), f"{where}: {value!r}"
    if "enum" in schema:
        assert value in schema["enum"], f"{where}: {value!r}"
    if "type" in schema:
        assert isinstance(value, _TYPES[schema["type"]]), f"{where}: {value!r} is no {schema['type']}"
        assert isinstance(value, bool) == (schema["type"] == "boolean"), f"{where}: {value!r}"
    if isinstance(value, dict):
        assert not set(schema.get("required", ())) - set(value), f"{where}: {value!r}"
        known = schema.get("properties", {})
        for name, member in value.items():
            rest = schema.get("additionalProperties", {})
            # A member that the document does not have is not forbidden, but it is not described either.
            assert name in known or "properties" not in schema, f"{where}: undocumented {name}"
            check(known.get(name, rest), member, f"{where}.{name}")
    if isinstance(value, list):
        for number, item in enumerate(value):
            check(schema.get("items", {}), item, f"{where}[{number}]")
    if isinstance(value, (int, float)):
        assert schema.get("minimum", value) <= value <= schema.get("maximum", value), f"{where}: {value!r}"
    return None


def fits(schema: dict[str, Any], value: Any) -> bool:
    try:
        check(schema, value)
    except AssertionError:
        return False
    return True


_WORDS = {
    *("$ref", "anyOf", "discriminator", "enum", "type", "required", "properties", "additionalProperties", "items"),
    *("minimum", "maximum", "minLength", "maxLength", "maxItems", "pattern", "default", "title", "description"),
    "examples",
}
_TYPES: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}


def resolve(reference: str) -> Any:
    assert reference.startswith("#/")
    found: Any = DOCUMENT
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return found


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for member in value.values():
            yield from references(member)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


# -- the document itself -------------------------------------------------------------------------------------


def test_document_is_whole() -> None:
    """Every reference leads somewhere, every name is there once, every parameter of a path is told."""
    for reference in references(DOCUMENT):
        assert resolve(reference) is not None
    assert len(BY_NAME) == len(OPERATIONS)
    for operation in OPERATIONS:
        spec = operation.spec
        assert spec["summary"].endswith(".")
        told = {parameter["name"] for parameter in spec.get("parameters", ()) if parameter["in"] == "path"}
        assert told == set(re.findall(r"{(\w+)}", operation.path))
        for scheme in spec["security"]:
            assert set(scheme) <= set(DOCUMENT["components"]["securitySchemes"])
    json.dumps(DOCUMENT)


async def test_server_hands_out_the_document() -> None:
    """To everybody; with itself in it."""
    async with running(dev=False) as server, httpx.AsyncClient(base_url=server.url) as client:
        found = (await client.get("/openapi.json")).json()
    assert found["openapi"] == "3.1.0"
    own = found["paths"].pop("/openapi.json")
    assert own["get"]["security"] == []
    assert found == DOCUMENT


# -- the document and the server -----------------------------------------------------------------------------


class Trier:
    """Sends requests, and holds each answer against the document."""

    def __init__(self, server: Server, client: httpx.AsyncClient) -> None:
        self.server = server
        self._client = client
        #: Which statuses of which operation have been seen.
        self.seen: set[tuple[str, int]] = set()

    async def __call__(self, name: str, status: int, **options: Any) -> Any:
        """One request; ``at`` are the parameters of its path."""
        operation = BY_NAME[name]
        path = operation.path.format_map({"topic": "room:a", **options.pop("at", {})})
        peer = operation.path in ("/sse", "/poll", "/sse/{connection}")
        options.setdefault("headers", TOKEN if peer else KEY)
        async with self._client.stream(operation.method, path, **options) as response:
            media = response.headers.get("Content-Type", "")
            body = b"" if media.startswith("text/event-stream") else await response.aread()
            return self._hold(operation, status, response.status_code, media, body)

    async def announce(self, name: str, at: dict[str, str], length: int) -> None:
        """A request whose body is said to be that long."""
        operation = BY_NAME[name]
        path = operation.path.format_map(at)
        async with connect(self.server.address[1]) as raw:
            await raw.send(request_bytes("POST", path, headers={**KEY, "Content-Length": str(length)}))
            response = await raw.read_response()
        self._hold(operation, 413, response.status, response.header("content-type") or "", response.body)

    def _hold(self, operation: Operation, wanted: int, status: int, media: str, body: bytes) -> Any:
        """Hold an answer against the document; its JSON."""
        name = operation.name
        assert status == wanted, f"{name}: {body!r}"
        self.seen.add((name, status))
        spec = operation.spec["responses"][str(status)]
        documented = spec.get("content", {})
        assert [kind.partition(";")[0] for kind in documented] == ([media.partition(";")[0]] if media else []), name
        if media != "application/json":
            return None
        value = json.loads(body)
        check(documented[media]["schema"], value)
        if "code" in value:
            assert f"`{value['code']}`" in spec["description"], f"{name}: {value}"
        return value


async def test_every_documented_answer_is_given() -> None:
    """Every operation, every status but the rare ones, with the body that the document describes."""
    options = {"dev": False, "authenticate": authenticate, "kinds": MUST_EXIST}
    async with (
        running(**options, auto_subscribe=[]) as server,
        httpx.AsyncClient(base_url=server.url) as client,
    ):
        tries = Trier(server, client)
        await _refuse_everything(tries)
        await _use_messages(tries)
        await _use_topics(tries)
        await _use_sessions(tries)
        await _use_logins(tries)
        await _use_front_door(tries)
        for name in (
            "read_health",
            "read_statistics",
            "read_activity",
            "read_metrics",
            "read_asyncapi",
            "read_readiness",
        ):
            await tries(name, 200)
        server.draining = True
        await tries("read_readiness", 503)
    documented = {(operation.name, status) for operation in OPERATIONS for status in operation.statuses}
    assert {pair for pair in documented - tries.seen if pair[1] not in RARE} == ALSO_THERE


#: What any command may be answered beside an event stream: `test_sse_commands` has them.
ALSO_THERE = {("command_event_stream", status) for status in (401, 403, 409)}


async def _refuse_everything(tries: Trier) -> None:
    """No key, a body that is too large, that is nothing; a wrong parameter."""
    anywhere = {"user": "7", "connection": "c_1", "session": "s"}
    for operation in OPERATIONS:
        name, spec = operation.name, operation.spec
        if operation.secured and name != "command_event_stream":
            await tries(name, 401, at=anywhere, headers={})
        if "requestBody" in spec:
            await tries.announce(name, anywhere, MAX_BODY_BYTES + 1)
            if name != "command_event_stream":
                await tries(name, 400, at=anywhere, content=b"{")
        if any(parameter["in"] == "query" for parameter in spec.get("parameters", ())):
            for parameter in ("limit", "mode", "filter", "topics"):
                if any(known["name"] == parameter for known in spec["parameters"]):
                    await tries(name, 400, at=anywhere, params={parameter: "x"})


async def _use_messages(tries: Trier) -> None:
    message = {"topic": "room:a", "data": {"n": 1}, "event": "e", "key": "k"}
    missing = {"topic": "role:none", "data": 1}
    await tries("publish", 200, json=message)
    await tries("publish", 404, json=missing)
    await tries("publish_batch", 200, json=[message, missing])
    await tries("broadcast", 200, json={"topics": ["room:a", "role:none"], "data": 1})
    await tries("create_topic", 201, json={"topic": "user:7"})
    await tries("send_to_user", 200, at={"user": "7"}, json={"data": 1})
    await tries("send_to_user", 404, at={"user": "8"}, json={"data": 1})
    await tries("send_to_connection", 404, at={"connection": "c_1"}, json={"data": 1})
    for name in ("read_connection", "disconnect_connection"):
        await tries(name, 404, at={"connection": "c_1"})
    async with open_events(tries.server.address[1], "topic=room:a&fields=n", headers=TOKEN) as events:
        at = {"connection": events.welcome["connection"]}
        await tries("send_to_connection", 200, at=at, json={"data": 1})
        await tries("read_connection", 200, at=at)
        await tries("list_connections", 200)
        secret = {"X-Connection-Secret": events.welcome["secret"]}
        await tries("command_event_stream", 200, at=at, headers=secret, json={"type": "ping", "id": 1})
        await tries("command_event_stream", 400, at=at, headers=secret, content=b"{")
        await tries("command_event_stream", 404, at=at, headers={}, json={"type": "ping", "id": 1})
        for name in ("subscribe_user", "unsubscribe_user"):
            await tries(name, 200, at={"user": "7"}, json={"topic": "room:b"})
            await tries(name, 404, at={"user": "7"}, json={"topic": "role:none"})
        await tries("list_topics", 200)
        await tries("list_members", 200)
        await tries("disconnect_connection", 204, at=at)
        await tries("disconnect_user", 200, at={"user": "7"})


async def _use_topics(tries: Trier) -> None:
    await tries("create_topic", 201, json={"topic": "role:x"})
    await tries("create_topic", 200, json={"topic": "role:x"})
    await tries("read_history", 200)
    await tries("read_topic", 200)
    await tries("remove_topic", 204)
    for name in ("read_history", "read_topic", "remove_topic"):
        await tries(name, 404)
        await tries(name, 400, at={"topic": "nokind"})
    await tries("list_members", 404, at={"topic": "role:none"})


async def _use_sessions(tries: Trier) -> None:
    at, gone = {"session": "s"}, {"session": "none"}
    event = {"type": "task_failed", "data": {"node_id": "n", "error_message": "no"}}
    await tries("create_session", 201, json={"session_id": "s", "total_nodes": 3})
    await tries("report_event", 200, at=at, json=event)
    await tries("report_event", 404, at=gone, json=event)
    for name in ("complete_session", "fail_session", "cancel_session"):
        await tries(name, 404, at=gone)
    await tries("fail_session", 200, at=at, json={"error": {"error_type": "t", "message": "m"}})
    await tries("complete_session", 200, at=at)
    await tries("cancel_session", 200, at=at)
    await tries("read_session", 200, at=at)
    await tries("read_session", 404, at=gone)
    await tries("list_sessions", 200)


async def _use_logins(tries: Trier) -> None:
    login = {"user": "7", "roles": ["a"], "info": {"name": "A"}, "topics": {"room:*": ["join"]}, "login_seconds": 60}
    ticket = await tries("create_ticket", 201, json=login)
    await tries("poll", 200, headers={}, params={"ticket": ticket["ticket"], "topic": "room:a", "timeout": 0})
    await tries("poll", 401, headers={}, params={"ticket": ticket["ticket"], "topic": "room:a", "timeout": 0})
    await tries("revoke_token", 200, json={"token_id": "t-1"})


async def _use_front_door(tries: Trier) -> None:
    await tries.server.publish("room:a", {"n": 1})
    position = await tries.server.broker.position("room:a")
    assert position is not None
    cursor = f"room:a!{position.epoch}!0"
    answer = await tries("poll", 200, params={"topic": "room:a", "cursor": cursor, "timeout": 0})
    assert len(answer["messages"]) == 1
    await tries("open_event_stream", 200, params={"topic": "room:a"})
    for name in ("open_event_stream", "poll"):
        await tries(name, 403, params={"topic": "user:8"})
        await tries(name, 404, params={"topic": "session:none"})
        await tries(name, 409, params=[("topic", "room:a"), ("topic", "room:a")])


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
async def test_other_methods_are_not_allowed(operation: Operation) -> None:
    """A path has the methods that the document has, and says so."""
    documented = {method.upper() for method in DOCUMENT["paths"][operation.path]}
    path = operation.path.format(topic="room:a", user="7", connection="c", session="s")
    async with running(dev=False) as server, httpx.AsyncClient(base_url=server.url, headers=KEY) as client:
        for method in {"GET", "POST", "PUT", "PATCH", "DELETE"} - documented:
            response = await client.request(method, path)
            assert response.status_code == 405, method
            assert documented <= set(response.headers["Allow"].split(", "))


def test_reference_page_has_every_operation() -> None:
    """Those of the protocol's own page are named there."""
    page = Path("docs/reference/http-api.rst").read_text(encoding="utf-8")
    for operation in OPERATIONS:
        assert f"``{operation.method} {operation.path}``" in page
