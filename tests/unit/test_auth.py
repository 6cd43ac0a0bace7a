"""Identities, and where a login brings its peer."""

from __future__ import annotations

import pytest

from realtime.auth import ANONYMOUS, Identity, own_topics

TEMPLATES = ("user:{user}", "role:{role}", "global", "project:open")


@pytest.mark.parametrize(
    ("identity", "topics"),
    [
        (ANONYMOUS, []),
        (Identity("7"), ["user:7"]),
        (Identity("7", roles=frozenset({"trader", "admin"})), ["user:7", "role:admin", "role:trader"]),
        (Identity(None, roles=frozenset({"guest"})), ["role:guest"]),
    ],
)
def test_login_brings_its_own_topics(identity, topics):
    """Of user and roles, in an order that does not change; the others are for those who may join them."""
    expected = [*((topic, True) for topic in topics), ("global", False), ("project:open", False)]
    assert list(own_topics(TEMPLATES, identity)) == expected


def test_identities_can_be_compared_and_hashed():
    """Although what others may know of them is a mapping."""
    assert Identity("7", info={"name": "A"}) == Identity("7", info={"name": "A"})
    assert len({Identity("7", info={"name": "A"}), Identity("7", info={"name": "A"})}) == 1


def test_identity_without_info_and_claims_shares_no_state_with_others():
    """What is written to one would be everybody's."""
    for mapping in (ANONYMOUS.info, Identity("7").claims):
        with pytest.raises(TypeError):
            mapping["role"] = "admin"


def test_what_an_identity_shows_of_itself_names_no_token():
    """It may stand in a log."""
    shown = repr(Identity("7", claims={"email": "a@example.com"}, token_id="t-123"))
    assert "t-123" not in shown
    assert "example.com" not in shown
