"""The AsyncAPI document: well formed, complete, and true."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import Any, Union

import attrs
import msgspec
import pytest

from examples.workspace_events import CATALOGUE
from realtime import ConfigurationError, Settings, messages, pushes
from realtime.asyncapi import asyncapi_document
from realtime.engine import Engine
from realtime.events import EventCatalogue
from realtime.topics import Access, Kind, Kinds
from transports.http.app import make_app

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "reference" / "protocol.rst").read_text()
SAID = [re.sub(r"\n +", "", text) for text in re.findall(r"^   <- (.*(?:\n {6,}.*)*)$", PAGE, re.MULTILINE)]


class Deal(msgspec.Struct, tag="deal"):
    """Names that are also keywords of schemas."""

    discriminator: str
    prefix_items: list[int] = msgspec.field(name="prefixItems")


class Quote(msgspec.Struct, tag="quote"):
    pair: tuple[str, int]


class Publish(msgspec.Struct):
    """Has the name of a command."""

    what: Deal | Quote


@attrs.frozen
class Action:
    name: str
    payload: Any
    result: Any
    doc: str | None = None


ACTIONS = [Action("get_quote", Quote, list[Deal], "The last deals."), Action("reset", None, None)]


def catalogue_of(**events: str | None) -> EventCatalogue:
    """A catalogue of these events and their topics."""
    catalogue = EventCatalogue(title="Deals", version="7")
    for name, topic in events.items():
        catalogue.event(name, Publish, topic=topic)
    return catalogue


def document_of(catalogue: EventCatalogue | None = None, actions=(), kinds: Kinds | None = None) -> Any:
    """The document, as whoever fetches it gets it."""
    made = asyncapi_document(catalogue or EventCatalogue(), kinds=kinds or Kinds(), actions=actions)
    return json.loads(json.dumps(made))


def walk(node):
    """All objects in the document."""
    if isinstance(node, dict):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from walk(child)


def resolve(document, reference: str):
    """What a reference in the document points to."""
    head, *steps = reference.split("/")
    assert head == "#"
    for step in steps:
        document = document[step]
    return document


def check_members(thing, *, required=(), optional=()):
    """That an object has the members that AsyncAPI gives it, and no others."""
    assert set(required) <= set(thing) <= {*required, *optional}


def check_document(document):
    """The rules of AsyncAPI 3.0 for the objects that are used here."""
    check_members(
        document,
        required=("asyncapi", "info", "channels", "operations", "components"),
        optional=("defaultContentType",),
    )
    assert document["asyncapi"] == "3.0.0"
    check_members(document["info"], required=("title", "version"))
    check_members(document["components"], required=("messages", "schemas"))
    for part in (document["channels"], document["operations"], *document["components"].values()):
        assert all(re.fullmatch(r"[\w.\-]+", key) for key in part)
    for channel in document["channels"].values():
        check_members(channel, required=("address", "messages"), optional=("description", "parameters"))
        assert set(re.findall(r"{(\w+)}", channel["address"])) == set(channel.get("parameters", ()))
        for key, message in channel["messages"].items():
            assert message == {"$ref": f"#/components/messages/{key}"}
    for operation in document["operations"].values():
        check_members(operation, required=("action", "channel", "messages"), optional=("description", "reply"))
        assert operation["action"] in ("send", "receive")
        for place in (operation, operation.get("reply", operation)):
            assert place["channel"]["$ref"].startswith("#/channels/")
            assert place["messages"]
            for message in place["messages"]:
                assert message["$ref"].startswith(place["channel"]["$ref"] + "/messages/")
    for message in document["components"]["messages"].values():
        check_members(message, required=("name", "payload"), optional=("correlationId",))
    for node in walk(document):
        if isinstance(node.get("$ref"), str):
            assert resolve(document, node["$ref"]) is not None
    spoken = {reference for channel in document["channels"].values() for reference in channel["messages"]}
    assert spoken == set(document["components"]["messages"]), "a message on no channel"


@pytest.mark.parametrize("actions", [[], ACTIONS])
@pytest.mark.parametrize("catalogue", [catalogue_of(), catalogue_of(a="room:a", b=None)])
def test_document_keeps_the_rules(catalogue, actions):
    """With and without events and actions."""
    check_document(document_of(catalogue, actions))


def test_document_of_the_workspace_keeps_the_rules():
    """The example's, with every event on the channel of its kind."""
    document = document_of(CATALOGUE)
    check_document(document)
    for event in CATALOGUE:
        assert f"event.{event.name}" in document["channels"][f"topic.{event.kind}"]["messages"]
    assert document["components"]["schemas"]["AgentStatus"]["enum"] == ["busy", "failed", "idle", "offline", "paused"]


def test_workspace_as_a_program_prints_its_document(capsys):
    """For tools that make pages or clients of it."""
    runpy.run_path(str(ROOT / "examples" / "workspace_events.py"), run_name="__main__")
    assert json.loads(capsys.readouterr().out)["info"] == {"title": "Workspace", "version": "1"}


def test_event_is_the_envelope_around_its_model():
    """A class that has the name of a command is told apart from it."""
    document = document_of(catalogue_of(deal="room:a"))
    payload = document["components"]["messages"]["event.deal"]["payload"]
    message, narrowed = payload["allOf"]
    assert set(resolve(document, message["$ref"])["required"]) == {"type", "topic", "offset", "time", "data"}
    assert narrowed["properties"]["event"] == {"const": "deal"}
    assert resolve(document, narrowed["properties"]["data"]["$ref"])["description"] == "Has the name of a command."
    command = document["components"]["messages"]["command.publish"]["payload"]
    assert resolve(document, command["$ref"])["description"] == "Send a message to a topic."


def test_schemas_are_in_the_dialect_of_the_document():
    """Tuples as draft 7 writes them, no discriminators of OpenAPI; members of such names stay."""
    schemas = document_of(catalogue_of(deal="room:a"), ACTIONS)["components"]["schemas"]
    pair = schemas["Quote"]["properties"]["pair"]
    assert pair["items"] == [{"type": "string"}, {"type": "integer"}]
    assert pair["additionalItems"] is False
    what = next(schema for name, schema in schemas.items() if "what" in schema.get("properties", {}))["properties"][
        "what"
    ]
    assert list(what) == ["anyOf"]
    assert set(schemas["Deal"]["properties"]) == {"type", "discriminator", "prefixItems"}


def test_event_without_a_topic_of_its_own_is_on_every_kind():
    """Where it goes is known when it is sent."""
    document = document_of(catalogue_of(anywhere=None, here="room:a"))
    for name, channel in document["channels"].items():
        if name.startswith("topic."):
            assert "event.anywhere" in channel["messages"]
            assert ("event.here" in channel["messages"]) == (name == "topic.room")


def test_event_on_a_kind_that_there_is_not_is_refused():
    """It could never be published."""
    with pytest.raises(ConfigurationError, match="event lost: there is no kind of topic 'nosuch'"):
        document_of(catalogue_of(lost="nosuch:a"))


def test_kinds_are_channels():
    """With the address, the pattern and who may do what."""
    kinds = Kinds([Kind(name="desk", pattern="[a-z]+", publish=Access.ANYONE), Kind(name="all", bare=True)])
    channels = document_of(kinds=kinds)["channels"]
    assert set(channels) == {"connection", "topic.desk", "topic.all"}
    assert channels["topic.desk"]["address"] == "desk:{name}"
    assert channels["topic.desk"]["parameters"] == {"name": {"description": "Matches `[a-z]+`."}}
    assert "publish: anyone" in channels["topic.desk"]["description"]
    assert channels["topic.all"]["address"] == "all"


def test_actions_are_requests_with_replies():
    """The payload is required unless it is nothing."""
    document = document_of(actions=ACTIONS)
    operation = document["operations"]["request.get_quote"]
    assert operation["action"] == "receive"
    assert operation["description"] == "The last deals."
    assert [message["$ref"].rpartition("/")[2] for message in operation["reply"]["messages"]] == [
        "response.get_quote",
        "server.error",
    ]
    request = document["components"]["messages"]["request.get_quote"]
    assert request["correlationId"] == {"location": "$message.payload#/id"}
    assert request["payload"]["properties"]["payload"] == {"$ref": "#/components/schemas/Quote"}
    assert request["payload"]["properties"]["action"] == {"const": "get_quote"}
    assert request["payload"]["required"] == ["type", "id", "action", "payload"]
    response = document["components"]["messages"]["response.get_quote"]["payload"]
    assert response["properties"]["data"] == {"type": "array", "items": {"$ref": "#/components/schemas/Deal"}}
    assert "description" not in document["operations"]["request.reset"]
    assert document["components"]["messages"]["request.reset"]["payload"]["required"] == ["type", "id", "action"]


def test_every_command_is_an_operation():
    """And has a reply."""
    assert set(pushes.REPLIES) == set(messages.Command.__args__)
    operations = document_of()["operations"]
    for command in messages.Command.__args__:
        assert operations[command.__struct_config__.tag]["action"] == "receive"


@pytest.mark.parametrize("text", SAID)
def test_word_of_the_server_on_the_page_has_its_shape(text):
    """No member is missing in the struct, and none is of another type."""
    decoded = msgspec.json.decode(text, type=Union[(*pushes.REPLIES.values(), *pushes.PUSHES)])
    assert json.loads(msgspec.json.encode(decoded)) == json.loads(text)


def test_every_shape_is_on_the_page():
    """No struct is left of a word that the server does not say any more."""
    shapes = {struct.__struct_config__.tag for struct in (*pushes.REPLIES.values(), *pushes.PUSHES)}
    assert shapes == {json.loads(text)["type"] for text in SAID}


async def test_server_hands_out_the_document():
    """At ``/asyncapi.json``."""
    engine = Engine(Settings(), catalogue=catalogue_of(deal="room:a"))
    response = await make_app(engine).test_client().get("/asyncapi.json")
    document = await response.get_json()
    check_document(document)
    assert document["info"] == {"title": "Deals", "version": "7"}
