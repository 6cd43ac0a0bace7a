"""Identities, and where a login brings its peer."""

from __future__ import annotations

import pytest

from realtime.auth import ANONYMOUS, Identity, own_topics
from realtime.topics import Access, Kinds

TEMPLATES = ("user:{user}", "role:{role}", "global", "project:open")


@pytest.mark.parametrize(
    ("identity", "topics"),
    [
        (ANONYMOUS, []),
        (Identity("7"), ["user:7", "global", "project:open"]),
        (
            Identity("7", roles=frozenset({"trader", "admin"})),
            ["user:7", "role:admin", "role:trader", "global", "project:open"],
        ),
        (Identity(None, roles=frozenset({"guest"})), ["role:guest"]),
    ],
)
def test_login_brings_its_own_topics(identity, topics):
    """Of user and roles, in an order that does not change, and others as far as they are open to it."""
    assert list(own_topics(TEMPLATES, identity, Kinds())) == topics


def test_topic_that_anybody_may_join_is_brought_to_anonymous_peers_as_well():
    """It is the kind that says who may."""
    kinds = Kinds().with_options("global", join=Access.ANYONE)
    assert list(own_topics(TEMPLATES, ANONYMOUS, kinds)) == ["global"]


def test_identities_can_be_compared_and_hashed():
    """Although what others may know of them is a mapping."""
    assert Identity("7", info={"name": "A"}) == Identity("7", info={"name": "A"})
    assert len({Identity("7", info={"name": "A"}), Identity("7", info={"name": "A"})}) == 1
