"""Who is in a team workspace: the users, the tokens that say who they are, and what they may do.

A real program has its users in a database, and its secret in its configuration.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec
from joserfc import jwt
from joserfc.jwk import OctKey
from quart import Blueprint, request

from realtime import CommandError, ErrorCode

people = Blueprint("people", __name__)

PROJECTS: dict[str, dict[str, Any]] = {"apollo": {"name": "Apollo"}, "gemini": {"name": "Gemini"}}
USERS: dict[str, dict[str, list[str]]] = {
    "ada": {"roles": ["admin", "developer"], "projects": ["apollo", "gemini"]},
    "bob": {"roles": ["developer"], "projects": ["apollo"]},
    "agent-7": {"roles": ["agent"], "projects": []},
}

#: Settings: what the server asks of a token, whichever way it comes.
TOKENS: dict[str, Any] = {
    "jwt_algorithms": ["HS256"],
    "jwt_secret": "a secret of this server, from its configuration",
    "jwt_issuer": "workspace",
    "jwt_audience": "workspace",
    "jwt_leeway_seconds": 0,  # they are made here, by the same clock
}

#: Settings: who may do what. What none of them allows is denied; everybody's own ``user:`` topic needs no rule.
RULES = [
    {"name": "everybody", "topics": ["global"], "allow": ["join", "history"]},
    {"name": "members", "topics": ["project:{claims.projects}"], "allow": ["join", "presence", "history"]},
    {"name": "developers", "roles": ["developer"], "topics": ["agent:*"], "allow": ["join", "history"]},
    {"name": "agents", "roles": ["agent"], "actions": ["report_status"], "allow": ["request"]},
    {"name": "admins", "roles": ["admin"], "actions": ["announce"], "allow": ["request"]},
]


class Login(msgspec.Struct):
    """The body of ``POST /login``. Everybody's password is the own name."""

    user: str
    password: str
    seconds: float = 900.0


@people.post("/login")
async def login() -> dict[str, str]:
    body = msgspec.json.decode(await request.get_data(), type=Login)
    if body.user not in USERS or body.password != body.user:
        raise CommandError(ErrorCode.AUTH_FAILED, "wrong user or password")
    now = time.time()
    claims = {
        "iss": TOKENS["jwt_issuer"],
        "aud": TOKENS["jwt_audience"],
        "sub": body.user,
        "info": {"name": body.user.title()},
        "iat": now,
        "exp": now + body.seconds,
        **USERS[body.user],
    }
    return {"token": jwt.encode({"alg": "HS256"}, claims, OctKey.import_key(TOKENS["jwt_secret"]))}
