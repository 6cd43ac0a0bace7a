"""Paths of one's own."""

from __future__ import annotations

import pytest

from realtime.routes import Binding, Route, Routes, Transport


def route(path: str = "/ws/batches/{session_id}", topic: str = "session:{session_id}", **options) -> Route:
    """A route over WebSocket."""
    return Route(**{"path": path, "topic": topic, "transport": "websocket", **options})


@pytest.mark.parametrize(
    ("path", "topic"),
    [
        ("/ws/batches/7", "session:7"),
        ("/ws/batches/a b", "session:a b"),
        ("/ws/batches/é", "session:é"),
        ("/ws/batches/{session_id}", "session:{session_id}"),
        ("/ws/batches/{0.__class__}", "session:{0.__class__}"),
        ("/ws/batches/..", "session:.."),
        ("/ws/batches/a:b", "session:a:b"),
        ("/ws/batches/", None),
        ("/ws/batches", None),
        ("/ws/batches/7/", None),
        ("/ws/batches/a/b", None),  # also where the slash came encoded: paths are decoded before
        ("/ws/batches//7", None),
        ("//ws/batches/7", None),
        ("/ws/Batches/7", None),
        ("/x/ws/batches/7", None),
        ("/ws/batches/7\n", "session:7\n"),  # which is no name of a topic; what counts is that nothing is cut off
    ],
)
def test_path_leads_to_the_topic_that_it_names(path, topic):
    """A member is one part of the path, taken as it is; what the topic may be called is for its kind to say."""
    assert route().topic_of(path) == topic


def test_path_may_have_several_members_and_any_characters_between():
    """They stand for themselves, whatever they mean in a regular expression."""
    several = route("/v1.0/{kind}s/{name}(x)", "{kind}:{name}")
    assert several.topic_of("/v1.0/rooms/a(x)") == "room:a"
    assert several.topic_of("/v1x0/rooms/a(x)") is None


def test_path_without_members_leads_to_one_topic():
    """A topic need not name those that there are."""
    assert route("/ws/news", "global").topic_of("/ws/news") == "global"
    assert route("/ws/{x}/news", "global").topic_of("/ws/anything/news") == "global"


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"path": "ws/x"}, "must match"),
        ({"path": "/ws?x=1"}, "must match"),
        ({"topic": "session:{other}"}, "no {other}"),
        ({"topic": "session:{session_id}{"}, "braces"),
        ({"topic": "session:{0}"}, "braces"),
        ({"topic": "session:{session_id.real}"}, "braces"),
        ({"path": "/ws/{Session}", "topic": "global"}, "braces"),
        ({"transport": "telepathy"}, "telepathy"),
        ({"transport": "state"}, "state"),
        ({"state": lambda topic: topic}, "state"),
    ],
)
def test_route_that_leads_nowhere_is_refused(options, fault):
    """When it is made, not when somebody takes it."""
    with pytest.raises(ValueError, match=fault):
        route(**options)


def test_first_route_that_fits_is_taken():
    """On its own transport."""
    first, second = route("/a/{x}", "room:{x}"), route("/a/b", "room:other")
    stream, state = route(transport="sse"), route(transport="state", state=lambda topic: topic)
    routes = Routes([first, second])
    for one in (stream, state):
        routes.add(one)
    assert routes.find("/a/b", Transport.WEBSOCKET) == Binding(first, "room:b")
    assert routes.find("/a/b", Transport.SSE) is None
    assert routes.find("/ws/batches/7", Transport.SSE) == Binding(stream, "session:7")
    assert routes.find("/ws/batches/7", Transport.STATE) == Binding(state, "session:7")
