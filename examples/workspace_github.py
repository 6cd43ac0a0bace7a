"""A webhook of GitHub as a source of events: pull requests and issues of a repository become those of a project.

Set it up in GitHub with the content type ``application/json`` and the secret that the server was started with.
"""

from __future__ import annotations

import hashlib
import hmac
from functools import partial
from typing import Any

import msgspec
from quart import Blueprint, current_app, request
from workspace_events import CATALOGUE, Workspace

from realtime import CommandError, ErrorCode

hooks = Blueprint("github", __name__)

_WORDS = {"opened": "created", "closed": "closed"}


@hooks.post("/hooks/github")
async def github() -> tuple[str, int]:
    """One delivery, if it is signed."""
    body, secret = await request.data, current_app.extensions["github_secret"].encode()
    signature = f"sha256={hmac.digest(secret, body, hashlib.sha256).hex()}"
    if not hmac.compare_digest(signature.encode(), request.headers.get("X-Hub-Signature-256", "").encode()):
        raise CommandError(ErrorCode.AUTH_FAILED, "wrong signature")
    # GitHub sends again what it holds for lost. The id of the delivery makes that one event for those who listen.
    publish = partial(current_app.extensions["realtime"].publish, idempotency_key=request.headers["X-GitHub-Delivery"])
    workspace, hook = Workspace(CATALOGUE, publish), msgspec.json.decode(body)
    match request.headers["X-GitHub-Event"]:
        case "pull_request":
            await tell_pull_request(workspace, hook)
        case "issues":
            await tell_issue(workspace, hook)
    return "", 204


async def tell_pull_request(workspace: Workspace, hook: dict[str, Any]) -> None:
    """``pr.created``, with a suggestion to its author, ``pr.closed`` or ``pr.updated``."""
    pull = hook["pull_request"]
    about = {**_about(hook, pull), "author": pull["user"]["login"], "merged": pull["merged"]}
    await workspace.emit(f"pr.{_WORDS.get(hook['action'], 'updated')}", about)
    if hook["action"] == "opened":
        text = f"#{pull['number']} changes much at once. Would two pull requests be easier to review?"
        await workspace.ai_suggestion(user_id=about["author"], text=text, confidence=0.5)


async def tell_issue(workspace: Workspace, hook: dict[str, Any]) -> None:
    """``issue.created``, ``issue.closed`` or ``issue.updated``."""
    issue = hook["issue"]
    labels = [label["name"] for label in issue["labels"]]
    about = {**_about(hook, issue), "labels": labels, "closed_by": hook["sender"]["login"]}
    await workspace.emit(f"issue.{_WORDS.get(hook['action'], 'updated')}", about)


def _about(hook: dict[str, Any], thing: dict[str, Any]) -> dict[str, Any]:
    """What all of them say. `emit` leaves out what the model of the event does not know."""
    return {
        "project_id": hook["repository"]["name"],
        "number": thing["number"],
        "title": thing["title"],
        "changes": hook.get("changes", {}),
    }
