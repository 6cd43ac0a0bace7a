"""Who is in a team workspace, and what may be seen by whom: users, tokens, projects.

The tokens are JWTs of joserfc: ``pip install joserfc``. A real program has its users in a database.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec
import structlog
from joserfc import jwt
from joserfc.errors import ExpiredTokenError, JoseError
from joserfc.jwk import OctKey
from quart import Blueprint, request

from realtime import CommandError, ErrorCode, Identity

people = Blueprint("people", __name__)
audit = structlog.get_logger("audit")

PROJECTS: dict[str, dict[str, Any]] = {"apollo": {"name": "Apollo"}, "gemini": {"name": "Gemini"}}
USERS = {
    "ada": {"roles": ["admin", "developer"], "projects": ["apollo", "gemini"]},
    "bob": {"roles": ["developer"], "projects": ["apollo"]},
    "agent-7": {"roles": ["agent"], "projects": []},
}

_KEY = OctKey.import_key("a secret of this server, from its configuration")
_CLAIMS = jwt.JWTClaimsRegistry(exp={"essential": True}, sub={"essential": True})


class Login(msgspec.Struct):
    """The body of ``POST /login``. Everybody's password is the own name."""

    user: str
    password: str
    seconds: float = 900.0


@people.post("/login")
async def login() -> dict[str, str]:
    body = msgspec.json.decode(await request.get_data(), type=Login)
    if body.user not in USERS or body.password != body.user:
        audit.warning("login refused", user=body.user)
        raise CommandError(ErrorCode.AUTH_FAILED, "wrong user or password")
    claims = {"sub": body.user, "roles": USERS[body.user]["roles"], "exp": time.time() + body.seconds}
    return {"token": jwt.encode({"alg": "HS256"}, claims, _KEY)}


async def authenticate(token: str) -> Identity:
    """The user in a token. Every connection and every request comes this way, so the audit log has them all."""
    try:
        claims = jwt.decode(token, _KEY, algorithms=["HS256"]).claims
        _CLAIMS.validate(claims)
    except ExpiredTokenError:
        audit.warning("token refused", reason="expired")
        raise CommandError(ErrorCode.TOKEN_EXPIRED, "the token has expired") from None
    except JoseError as error:
        audit.warning("token refused", reason=error.error)
        raise CommandError(ErrorCode.AUTH_FAILED, "this is no token of ours") from None
    user = claims["sub"]
    audit.info("token accepted", user=user)
    return Identity(
        user,
        roles=frozenset(claims["roles"]),
        info={"name": user.title()},
        expires_in=claims["exp"] - time.time(),
    )


def check_member(user: str | None, project_id: str) -> str:
    """The user, who is in this project. Raises `CommandError`: nobody is to learn whether there is another one."""
    if user not in USERS or project_id not in PROJECTS or project_id not in USERS[user]["projects"]:
        audit.warning("project refused", user=user, project=project_id)
        raise CommandError(ErrorCode.PERMISSION_DENIED, "you are in no such project")
    return user
