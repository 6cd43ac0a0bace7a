"""Typed events: what a catalogue takes, what it refuses, where a broadcaster sends."""

from __future__ import annotations

import dataclasses
import json
import uuid
from enum import StrEnum
from typing import Any, TypedDict

import attrs
import msgspec
import pytest

from examples.workspace_events import CATALOGUE, Workspace
from realtime import Broadcaster, CommandError, EventCatalogue, Settings, open_engine
from realtime.testing import connect


class AsStruct(msgspec.Struct):
    project_id: str
    size: int = 1


@attrs.frozen
class AsAttrs:
    project_id: str
    size: int = attrs.field(default=1, validator=attrs.validators.ge(0))


@dataclasses.dataclass
class AsDataclass:
    project_id: str
    size: int = 1


class AsTypedDict(TypedDict):
    project_id: str
    size: int


MODELS = [AsStruct, AsAttrs, AsDataclass, AsTypedDict]


class Recorder:
    """Publishes to a list."""

    def __init__(self) -> None:
        self.published: list[tuple] = []

    async def __call__(self, topic, data, /, *, event, key, idempotency_key=None):
        self.published.append((topic, json.loads(bytes(data)), event, key))
        return len(self.published)


def catalogue_of(model=AsStruct, topic: str | None = "project:{project_id}", **options):
    """A catalogue of one event, and the event."""
    catalogue = EventCatalogue(**options)
    return catalogue, catalogue.event("project.updated", model, topic=topic)


def refusal(call, *arguments) -> str:
    """The message of the `CommandError` that the call raises."""
    with pytest.raises(CommandError) as caught:
        call(*arguments)
    assert caught.value.code == "BAD_REQUEST"
    return caught.value.message


# -- declaring ---------------------------------------------------------------------------------------------------


def test_name_that_is_taken_is_refused():
    """Two models for one name would be a message that nobody can read."""
    catalogue, event = catalogue_of()
    with pytest.raises(ValueError, match="declared twice"):
        catalogue.event("project.updated", AsStruct)
    assert list(catalogue) == [event]
    assert catalogue.find("project.updated") is event


@pytest.mark.parametrize("name", ["", "a b", "é", "a/b", "x" * 129])
def test_name_that_no_document_could_hold_is_refused(name):
    """The names are keys of the AsyncAPI document."""
    with pytest.raises(ValueError, match="name"):
        EventCatalogue().event(name, AsStruct)


@pytest.mark.parametrize(
    ("topic", "fault"),
    [
        ("project:{nosuch}", "no member of the model"),
        ("project:{}", "no member of the model"),
        ("project:{project_id.real}", "no member of the model"),
        ("project:{project_id!r}", "no member of the model"),
        ("project:{size:3}", "no member of the model"),
        ("project:{project_id", "expected '}'"),
        ("{project_id}:a", "written out"),
        ("{project_id}", "written out"),
    ],
)
def test_topic_that_the_model_cannot_fill_is_refused(topic, fault):
    """When it is declared, and not at the first publish."""
    with pytest.raises(ValueError, match=fault):
        catalogue_of(topic=topic)


@pytest.mark.parametrize("model", [int, list[int], dict[str, int], Any])
def test_model_without_members_is_refused(model):
    """An event is an object, to which members can be added later."""
    with pytest.raises(TypeError, match="must have members"):
        catalogue_of(model, "global")


def test_model_that_no_json_can_hold_is_refused():
    """When it is declared, and not by the document."""
    with pytest.raises(TypeError, match="Recorder"):
        EventCatalogue().event("a", attrs.make_class("Model", {"thing": attrs.field(type=Recorder)}))


# -- checking ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_data_of_another_shape_is_refused_by_its_member(model):
    """For every sort of model."""
    catalogue, _ = catalogue_of(model)
    catalogue.check("project.updated", b'{"project_id":"12","size":2,"more":true}')
    catalogue.check("project.updated", msgspec.Raw(b'{"project_id":"12","size":2}'))
    assert (
        refusal(catalogue.check, "project.updated", b'{"project_id":"12","size":"big"}')
        == "event project.updated: Expected `int`, got `str` - at `$.size`"
    )
    assert "`project_id`" in refusal(catalogue.check, "project.updated", b'{"size":2}')
    assert "Expected `object`" in refusal(catalogue.check, "project.updated", b"[]")


@pytest.mark.parametrize("text", [b"", b"{", b'{"project_id":"\xff","size":1}', b'{"project_id":"12",}'])
def test_text_that_is_not_json_is_refused(text):
    """As a fault of whoever sent it."""
    catalogue, _ = catalogue_of()
    assert refusal(catalogue.check, "project.updated", text).startswith("event project.updated: ")


def test_data_nested_too_deeply_is_refused():
    """The recursion of the decoder is no failure of the server."""
    catalogue = EventCatalogue()
    catalogue.event("a", attrs.make_class("Model", {"data": attrs.field(type=Any)}))
    assert "recursion" in refusal(catalogue.check, "a", b'{"data":' + b"[" * 10_000 + b"]" * 10_000 + b"}")


def test_validator_of_a_class_speaks_without_its_insides():
    """Its exception holds the attribute and the validator too; a peer gets the sentence."""

    @attrs.frozen
    class Outer:
        inner: AsAttrs

    catalogue = EventCatalogue()
    catalogue.event("a", Outer)
    message = refusal(catalogue.check, "a", b'{"inner":{"project_id":"1","size":-1}}')
    assert message == "event a: 'size' must be >= 0: -1 - at `$.inner`"


def test_validator_that_says_nothing_is_a_refusal_too():
    """An exception needs no words."""

    @dataclasses.dataclass
    class Model:
        size: int

        def __post_init__(self):
            raise ValueError

    catalogue = EventCatalogue()
    catalogue.event("a", Model)
    assert refusal(catalogue.check, "a", b'{"size":1}').startswith("event a:")


@pytest.mark.parametrize("event", [None, "", "nosuch"])
def test_event_that_is_not_declared_passes_unless_the_catalogue_is_closed(event):
    """Closed, a catalogue also refuses what has no event: else to leave it out would be the way past."""
    catalogue_of()[0].check(event, b"not even json")
    assert refusal(catalogue_of(closed=True)[0].check, event, b"{}") == "no such event in the catalogue"


async def test_publish_of_anybody_is_checked(autojump_clock):
    """The program's own, and a peer's."""
    catalogue, _ = catalogue_of(topic="room:{project_id}")
    async with open_engine(Settings(dev=True), catalogue=catalogue) as engine, connect(engine) as peer:
        with pytest.raises(CommandError, match="size"):
            await engine.publish("room:a", {"project_id": "a", "size": "big"}, event="project.updated")
        reply = await peer.command("publish", topic="room:a", data={"project_id": 1}, event="project.updated")
        assert (reply["type"], reply["code"]) == ("error", "BAD_REQUEST")
        assert reply["message"] == "event project.updated: Expected `str`, got `int` - at `$.project_id`"
        await engine.publish("room:a", {"project_id": 1}, event="other")
        reply = await peer.command("publish", topic="room:a", data={"project_id": "a"}, event="project.updated")
        assert reply["offset"] == 2


# -- sending -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
async def test_model_goes_to_the_topic_that_its_members_name(model):
    """For every sort of model; another topic can be given."""
    catalogue, event = catalogue_of(model)
    recorder = Recorder()
    broadcaster = Broadcaster(catalogue, recorder)
    data = {"project_id": "12", "size": 3}
    assert await broadcaster.send(event, model(project_id="12", size=3)) == 1
    assert await broadcaster.send(event, model(project_id="12", size=3), topic="global", key="k") == 2
    assert recorder.published == [
        ("project:12", data, "project.updated", None),
        ("global", data, "project.updated", "k"),
    ]


async def test_model_with_a_wrong_value_is_not_sent():
    """A struct does not check itself when it is made."""
    catalogue, event = catalogue_of()
    recorder = Recorder()
    with pytest.raises(CommandError, match=r"\$\.size"):
        await Broadcaster(catalogue, recorder).send(event, AsStruct("12", "big"))  # type: ignore[arg-type]
    assert recorder.published == []


@pytest.mark.parametrize("model", MODELS)
async def test_event_of_a_class_is_a_method_of_its_broadcasters(model):
    """It takes what the model takes. On the class it is the event."""
    catalogue, event = catalogue_of(model)

    class Projects(Broadcaster):
        project_updated = event

    recorder = Recorder()
    assert await Projects(catalogue, recorder).project_updated(project_id="12", size=3) == 1
    assert recorder.published == [("project:12", {"project_id": "12", "size": 3}, "project.updated", None)]
    assert Projects.project_updated is event


async def test_plain_data_is_sent_by_name_as_the_model_has_it():
    """Defaults are filled in; what the model does not know stays here."""
    catalogue, _ = catalogue_of()
    recorder = Recorder()
    broadcaster = Broadcaster(catalogue, recorder)
    await broadcaster.emit("project.updated", {"project_id": "12", "secret": 1})
    await broadcaster.emit("project.updated", msgspec.Raw(b'{"project_id":"13"}'), topic="global", key="k")
    assert recorder.published == [
        ("project:12", {"project_id": "12", "size": 1}, "project.updated", None),
        ("global", {"project_id": "13", "size": 1}, "project.updated", "k"),
    ]
    with pytest.raises(CommandError, match=r"\$\.size"):
        await broadcaster.emit("project.updated", {"project_id": "12", "size": "big"})
    with pytest.raises(CommandError, match="no such event"):
        await broadcaster.emit("nosuch", {})
    assert len(recorder.published) == 2


class Side(StrEnum):
    LEFT = "left"


class Seat(msgspec.Struct):
    side: Side
    number: int
    id: uuid.UUID


def test_members_of_all_sorts_fill_a_topic():
    """As they stand in the JSON text."""

    class Side(StrEnum):
        LEFT = "left"

    class Model(msgspec.Struct):
        side: Side
        number: int
        id: uuid.UUID

    _, event = catalogue_of(Model, "room:{side}-{number}.{id}:end")
    assert (
        event.topic_of(Model(Side.LEFT, 7, uuid.UUID(int=1))) == "room:left-7.00000000-0000-0000-0000-000000000001:end"
    )
    assert event.kind == "room"


class Optional(msgspec.Struct):
    project_id: str | msgspec.UnsetType | None = msgspec.UNSET


class Partial(TypedDict, total=False):
    project_id: str


@pytest.mark.parametrize("model", [Optional(), Optional(None), Partial()])
def test_member_without_a_value_cannot_name_a_topic(model):
    """There is no topic of nobody."""
    _, event = catalogue_of(type(model) if isinstance(model, Optional) else Partial)
    assert refusal(event.topic_of, model) == "event project.updated: its topic needs `project_id`"


async def test_event_without_a_topic_of_its_own_needs_one():
    """Given with each publish."""
    catalogue, event = catalogue_of(topic=None)
    recorder = Recorder()
    broadcaster = Broadcaster(catalogue, recorder)
    with pytest.raises(CommandError, match="needs a topic"):
        await broadcaster.send(event, AsStruct("12"))
    await broadcaster.send(event, AsStruct("12"), topic="room:a")
    assert [topic for topic, *_ in recorder.published] == ["room:a"]
    assert event.kind is None


async def test_value_that_breaks_the_topic_is_refused_by_its_kind(autojump_clock):
    """The kind's pattern decides, as for every publish."""
    catalogue, event = catalogue_of()
    async with open_engine(catalogue=catalogue) as engine:
        broadcaster = Broadcaster(catalogue, engine.publish)
        for word in ("", "a b", "é", "x" * 300):
            with pytest.raises(CommandError, match="INVALID_TOPIC"):
                await broadcaster.send(event, AsStruct(word))
        assert (await broadcaster.send(event, AsStruct("a:b"))).offset == 1


# -- the workspace -----------------------------------------------------------------------------------------------

#: Data that each event of the workspace takes, with its topic.
WORKSPACE: dict[str, tuple[str, dict[str, Any]]] = {
    "project.updated": ("project:12", {"project_id": "12", "changes": {"name": "Apollo"}}),
    "project.deleted": ("project:12", {"project_id": "12"}),
    "agent.status_changed": ("agent:a", {"agent_id": "a", "status": "busy"}),
    "agent.connected": ("agent:a", {"agent_id": "a", "name": "Writer"}),
    "agent.disconnected": ("agent:a", {"agent_id": "a"}),
    "workflow.started": ("project:12", {"project_id": "12", "workflow_id": "w", "name": "Build"}),
    "workflow.progress": ("project:12", {"project_id": "12", "workflow_id": "w", "percent": 50}),
    "workflow.completed": ("project:12", {"project_id": "12", "workflow_id": "w", "duration_seconds": 1.5}),
    "workflow.failed": ("project:12", {"project_id": "12", "workflow_id": "w", "error": "no disk"}),
    "pr.created": ("project:12", {"project_id": "12", "number": 7, "title": "Fix", "author": "9"}),
    "pr.updated": ("project:12", {"project_id": "12", "number": 7, "title": "Fix", "author": "9", "changes": {}}),
    "pr.closed": ("project:12", {"project_id": "12", "number": 7, "title": "Fix", "author": "9", "merged": True}),
    "issue.created": ("project:12", {"project_id": "12", "number": 8, "title": "Bug"}),
    "issue.updated": ("project:12", {"project_id": "12", "number": 8, "title": "Bug", "changes": {}}),
    "issue.closed": ("project:12", {"project_id": "12", "number": 8, "title": "Bug", "closed_by": "9"}),
    "ai.suggestion": ("user:9", {"user_id": "9", "text": "Rest", "confidence": 0.5}),
    "ai.analysis_complete": ("project:12", {"project_id": "12", "summary": "Fine", "findings": []}),
    "connection.established": ("user:9", {"user_id": "9", "connected_at": "2025-11-21T07:00:00Z", "topics": []}),
    "connection.error": ("user:9", {"user_id": "9", "code": "TIMEOUT", "message": "too late"}),
}


def test_workspace_has_every_event():
    """Each is in the catalogue, and a method."""
    assert {event.name for event in CATALOGUE} == set(WORKSPACE)
    for event in CATALOGUE:
        assert getattr(Workspace, event.name.replace(".", "_")) is event


@pytest.mark.parametrize("name", WORKSPACE)
async def test_workspace_event_is_sent_and_checked(name, autojump_clock):
    """To its topic; without its first member it is refused."""
    topic, data = WORKSPACE[name]
    async with open_engine(catalogue=CATALOGUE) as engine, engine.subscribe(topic) as messages:
        broadcaster = Workspace(CATALOGUE, engine.publish)
        await broadcaster.emit(name, data)
        message = await anext(messages)
        assert message.event == name
        assert message.data.items() >= data.items()
        for member in data:
            with pytest.raises(CommandError, match=f"`{member}`"):
                await broadcaster.emit(name, {other: value for other, value in data.items() if other != member})


@pytest.mark.parametrize("name", ["agent.status_changed", "workflow.progress"])
def test_workspace_statuses_are_enumerations(name):
    """A word that is none of them is refused."""
    data = json.dumps({**WORKSPACE[name][1], "status": "asleep"}).encode()
    assert "Invalid enum value 'asleep' - at `$.status`" in refusal(CATALOGUE.check, name, data)
