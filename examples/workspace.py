"""A team's workspace: projects, agents and workflows live; pull requests and issues come in from GitHub.

Run it with ``python examples/workspace.py``. In another shell log in, follow a project, and change it meanwhile::

    TOKEN=$(curl -s localhost:8000/login -d '{"user": "ada", "password": "ada"}' | cut -d '"' -f 4)
    realtime tail project:apollo --token "$TOKEN" &
    curl -X PATCH localhost:8000/projects/apollo -H "Authorization: Bearer $TOKEN" -d '{"name": "Apollo 11"}'
    kill %1

Next door: ``workspace_events.py`` has the events with their models, which ``/asyncapi.json`` describes;
``workspace_people.py`` the users and what they may do; ``workspace_projects.py`` what is done to a project over HTTP;
``workspace_github.py`` the webhook.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime

import click
import msgspec
import structlog
import trio
from quart import current_app, request
from quart_trio import QuartTrio
from workspace_events import CATALOGUE, AgentStatus, Workspace
from workspace_github import hooks
from workspace_people import RULES, TOKENS, USERS, people
from workspace_projects import projects

from realtime import CommandError, ConfigurationError, ErrorCode
from realtime.requests import Caller
from realtime.server import Server, open_server, run_until_signalled
from transports.responses import error_body, status_of

app = QuartTrio(__name__)
app.register_blueprint(people)
app.register_blueprint(projects)
app.register_blueprint(hooks)


@app.errorhandler(CommandError)
@app.errorhandler(msgspec.MsgspecError)
async def refuse(error: Exception) -> tuple[bytes, int, dict[str, str]]:
    if not isinstance(error, CommandError):
        error = CommandError(ErrorCode.BAD_REQUEST, str(error))
    # As for the server's own paths: the audit log has it, and an address that goes on guessing cannot connect again.
    server: Server = current_app.extensions["realtime"]
    server.turn_away(str(request.endpoint), request.remote_addr or "", error, transport="http")
    return error_body(error), status_of(error), {"Content-Type": "application/json", "Connection": "close"}


class Announcement(msgspec.Struct):
    """The payload of ``announce``: to everybody, or to a topic like ``role:developer``."""

    text: str
    to: str = "global"


def furnish(server: Server, workspace: Workspace) -> None:
    """Register what peers may ask for, if the rules let them, and what follows from who is here."""
    statuses: dict[str, AgentStatus] = {}

    @server.handler("report_status")
    async def report_status(status: AgentStatus, caller: Caller) -> None:
        agent = str(caller.user)
        previous, statuses[agent] = statuses.get(agent), status
        await workspace.agent_status_changed(agent_id=agent, status=status, previous=previous)

    @server.handler("announce")
    async def announce(announcement: Announcement) -> None:
        await server.publish(announcement.to, {"text": announcement.text}, event="announcement")

    @server.feed(topics="user:*", linger_seconds=1.0)
    async def follow_user(_server: Server, topic: str) -> None:
        """Run while a user has a connection: everybody who connects has the topic ``user:<id>``."""
        user = topic.removeprefix("user:")
        if is_agent := "agent" in USERS[user]["roles"]:
            await workspace.agent_connected(agent_id=user, name=user)
        now = datetime.now(UTC)
        await workspace.connection_established(user_id=user, connected_at=now, topics=[topic, "global"])
        try:
            await trio.sleep_forever()
        finally:
            if is_agent:
                with trio.move_on_after(1, shield=True):
                    await workspace.agent_disconnected(agent_id=user)


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
                kinds={"project": {"presence": "members"}},
                catalogue=CATALOGUE,
                rules=RULES,
                audit=True,
                **TOKENS,
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
    try:
        trio.run(serve)
    except ConfigurationError as error:  # as where the port is taken
        sys.exit(str(error))


if __name__ == "__main__":
    main()
