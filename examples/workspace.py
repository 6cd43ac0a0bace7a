"""A team's workspace: projects, agents and workflows live; pull requests and issues come in from GitHub.

Run it with ``python examples/workspace.py``, after ``pip install joserfc`` for the tokens. Then log in, look at a
project, and let somebody change it::

    TOKEN=$(curl -s localhost:8000/login --json '{"user": "ada", "password": "ada"}' | jq -r .token)
    websocat -H "Authorization: Bearer $TOKEN" ws://localhost:8000/ws
    {"type":"request","id":1,"action":"open_project","payload":"apollo"}
    curl -X PATCH localhost:8000/projects/apollo -H "Authorization: Bearer $TOKEN" --json '{"name": "Apollo 11"}'

Next door: ``workspace_events.py`` has the events with their models, which ``/asyncapi.json`` describes;
``workspace_people.py`` the users and what they may see; ``workspace_projects.py`` what is done to a project over HTTP;
``workspace_github.py`` the webhook.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Any

import click
import msgspec
import structlog
import trio
from quart_trio import QuartTrio
from workspace_events import CATALOGUE, AgentStatus, Workspace
from workspace_github import hooks
from workspace_people import PROJECTS, USERS, audit, authenticate, check_member, people
from workspace_projects import projects

from realtime import Access, CommandError, ErrorCode
from realtime.requests import Caller
from realtime.server import Server, open_server, run_until_signalled
from transports.responses import error_body, status_of

#: Members have the topic of a project because `open_project` has placed them there; a ``subscribe`` opens no door.
KINDS = {"project": {"join": Access.NOBODY, "presence": "members"}}

app = QuartTrio(__name__)
app.register_blueprint(people)
app.register_blueprint(projects)
app.register_blueprint(hooks)


@app.errorhandler(CommandError)
@app.errorhandler(msgspec.MsgspecError)
async def refuse(error: Exception) -> tuple[bytes, int, dict[str, str]]:
    if not isinstance(error, CommandError):
        error = CommandError(ErrorCode.BAD_REQUEST, str(error))
    return error_body(error), status_of(error), {"Content-Type": "application/json"}


class Announcement(msgspec.Struct):
    """The payload of ``announce``: to everybody, or to a topic like ``role:developer``."""

    text: str
    to: str = "global"


def furnish(server: Server, workspace: Workspace) -> None:
    """Register what peers may ask for, and what follows from who is here."""
    statuses: dict[str, AgentStatus] = {}

    @server.handler("open_project", allow=Access.AUTHENTICATED)
    async def open_project(project_id: str, caller: Caller) -> dict[str, Any]:
        """Place a member in the room of a project, on all devices; a refusal is told to all of them too."""
        assert caller.user is not None  # `allow` has seen to that
        try:
            user = check_member(caller.user, project_id)
        except CommandError as error:
            await workspace.connection_error(user_id=caller.user, code=error.code, message=error.message)
            raise
        audit.info("project opened", user=user, project=project_id, connection=caller.connection)
        await server.place_user(user, f"project:{project_id}")
        return PROJECTS[project_id]

    @server.handler("report_status", allow=Access.AUTHENTICATED)
    async def report_status(status: AgentStatus, caller: Caller) -> None:
        agent = user_of(caller, "agent")
        previous, statuses[agent] = statuses.get(agent), status
        await workspace.agent_status_changed(agent_id=agent, status=status, previous=previous)

    @server.handler("announce", allow=Access.AUTHENTICATED)
    async def announce(announcement: Announcement, caller: Caller) -> None:
        user_of(caller, "admin")
        await server.publish(announcement.to, {"text": announcement.text}, event="announcement")

    @server.feed(topics="user:*", linger_seconds=1.0)
    async def follow_user(_server: Server, topic: str) -> None:
        """Run while a user has a connection: everybody who connects has the topic ``user:<id>``."""
        user = topic.removeprefix("user:")
        audit.info("user here", user=user)
        if is_agent := "agent" in USERS[user]["roles"]:
            await workspace.agent_connected(agent_id=user, name=user)
        now = datetime.now(UTC)
        await workspace.connection_established(user_id=user, connected_at=now, topics=[topic, "global"])
        try:
            await trio.sleep_forever()
        finally:
            audit.info("user gone", user=user)
            if is_agent:
                with trio.move_on_after(1, shield=True):
                    await workspace.agent_disconnected(agent_id=user)


def user_of(caller: Caller, role: str) -> str:
    """Who asks, if it has this role. Raises `CommandError`."""
    if caller.user is None or role not in caller.roles:
        raise CommandError(ErrorCode.PERMISSION_DENIED, f"only for the role {role}")
    return caller.user


@click.command()
@click.option("--port", default=8000, help="0 picks a free one.")
@click.option("--origin", "origins", multiple=True, help="Of web pages that may connect, besides the server's own.")
@click.option("--max-topics", default=100_000, show_default=True, help="In the whole server.")
@click.option("--github-secret", default="secret", help="What GitHub signs its webhooks with.")
def main(port: int, origins: tuple[str, ...], max_topics: int, github_secret: str) -> None:
    """Serve the workspace until SIGTERM or Ctrl-C."""

    async def serve() -> None:
        async with (
            open_server(
                port=port,
                app=app,
                origins=origins,
                max_server_topics=max_topics,
                kinds=KINDS,
                authenticate=authenticate,
                catalogue=CATALOGUE,
            ) as server,
            trio.open_nursery() as nursery,
        ):
            workspace = Workspace(CATALOGUE, server.publish)
            furnish(server, workspace)
            app.extensions.update(realtime=server, workspace=workspace, nursery=nursery, github_secret=github_secret)
            print(f"Serving on {server.url}", flush=True)
            await run_until_signalled(server)
            nursery.cancel_scope.cancel()

    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    trio.run(serve)


if __name__ == "__main__":
    main()
