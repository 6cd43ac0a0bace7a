"""Pages that follow a batch live: agents explain the nodes of a canvas, at most twelve at once.

Run it with ``python examples/progress.py``. In another shell start a batch of ten seconds, and follow it at once::

    curl localhost:8000/batches -d '{"session_id": "algebra", "nodes": [
        {"id": "n1", "group": "explain", "text": "what is a ring"}, {"id": "n2", "group": "explain"},
        {"id": "n3", "group": "explain", "text": "why is every field a ring, and not each ring a field"}]}'
    curl -N localhost:8000/sse/intelligent-parallel/algebra          # or a WebSocket at the same path under /ws
    curl localhost:8000/api/v1/canvas/intelligent-parallel/algebra   # or poll

``n2`` has no text, and so fails, on purpose and before you look: the last command shows it. The others go on, and the
batch completes. Another batch needs another ``session_id``.

The front end was there before this server. It knows these three paths, and messages that look like
``{"type": .., "task_id": .., "timestamp": .., "data": {..}}``; an older one has other paths and other names for them.
A program that speaks the protocol of this server subscribes to ``session:algebra`` at ``/ws``, like to any topic.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Annotated, Any

import click
import msgspec
import structlog
import trio
from quart import current_app, request
from quart_trio import QuartTrio

from realtime import CommandError, ConfigurationError, ErrorCode
from realtime.batch import Job, JobFailed, Output, run_batch
from realtime.envelopes import Envelope, Naming, ProgressDialect
from realtime.progress import ProgressSessions
from realtime.progress_state import GroupComplete
from realtime.routes import Route
from realtime.server import Server, open_server, run_until_signalled
from transports.responses import error_body, status_of

#: Whoever knows the id of a session may follow it, and is told what goes to everybody; all else is denied.
RULES = [
    {"name": "followers", "topics": ["session:*", "global"], "allow": ["join", "history"], "who": "anyone"},
]

app = QuartTrio(__name__)
log = structlog.get_logger("progress")

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=100)]


class Node(msgspec.Struct):
    """A note on the canvas, and the group of agents that is to work on it."""

    id: Name
    group: Name
    text: str = ""


class Batch(msgspec.Struct):
    """The body of ``POST /batches``."""

    nodes: list[Node]
    session_id: Name | None = None


@app.post("/batches")
async def start_batch() -> tuple[dict[str, str], int]:
    """Start the work and answer at once: it belongs to the nursery of the program, and not to this request."""
    batch = msgspec.json.decode(await request.get_data(), type=Batch)
    sessions, nursery, speed = _sessions(), current_app.extensions["nursery"], current_app.extensions["speed"]
    groups = {node.group for node in batch.nodes}
    session = sessions.create(batch.session_id, total_nodes=len(batch.nodes) + len(groups))
    nursery.start_soon(work, sessions, session.session_id, batch.nodes, speed)
    return {"session_id": session.session_id}, 201


@app.post("/batches/<session_id>/cancel")
async def cancel_batch(session_id: str) -> dict[str, str]:
    """End the session. Whoever runs the batch notices, and stops its workers."""
    final = await _sessions().cancel(session_id)
    return {"status": final.status}


@app.errorhandler(CommandError)
@app.errorhandler(msgspec.MsgspecError)
async def refuse(error: Exception) -> tuple[bytes, int, dict[str, str]]:
    """The same codes, in the same shape, as on every other way into this server."""
    if not isinstance(error, CommandError):
        error = CommandError(ErrorCode.BAD_REQUEST, str(error))
    return error_body(error), status_of(error), {"Content-Type": "application/json"}


def _sessions() -> ProgressSessions:
    server: Server = current_app.extensions["realtime"]
    return server.progress


class Group:
    """The nodes that one kind of agent works on."""

    def __init__(self, name: str, speed: float) -> None:
        self.name = name
        self.speed = speed
        self.waiting_for = 0
        self.done = trio.Event()
        self.results: list[str] = []

    async def explain(self, node: Node) -> Output:
        """The work of one agent. Raises `JobFailed`, which ends this job and no other."""
        try:
            if not node.text:
                raise JobFailed("there is no text to explain")
            await trio.sleep(len(node.text) / self.speed)
            self.results.append(f"{node.id}.md")
            return Output(file_path=f"{node.id}.md", file_size=3 * len(node.text))
        finally:
            self.waiting_for -= 1
            if not self.waiting_for:
                self.done.set()

    async def gather(self, sessions: ProgressSessions, session_id: str) -> Output:
        """What comes after the others: an index of what they have made."""
        await self.done.wait()
        await sessions.notify_progress(session_id, GroupComplete(agent_type=self.name, results=sorted(self.results)))
        return Output(file_path=f"{self.name}.index.md", file_size=len(self.results))


def jobs_of(sessions: ProgressSessions, session_id: str, nodes: list[Node], speed: float) -> list[Job]:
    """A job for each node, then one for each group: who waits for others does not stand in their way."""
    groups = {node.group: Group(node.group, speed) for node in nodes}
    for node in nodes:
        groups[node.group].waiting_for += 1
    return [
        *(Job(node.id, partial(groups[node.group].explain, node), group_id=node.group) for node in nodes),
        *(Job(f"index:{name}", partial(group.gather, sessions, session_id), name) for name, group in groups.items()),
    ]


async def work(sessions: ProgressSessions, session_id: str, nodes: list[Node], speed: float) -> None:
    """Do all of it. A batch that cannot go on has told its followers so, and is no reason to end the program."""
    try:
        await run_batch(sessions, session_id, jobs_of(sessions, session_id, nodes, speed), max_workers=12)
    except* CommandError as refusals:  # by itself, or one of each worker
        log.warning("batch broke off", session=session_id, exc_info=refusals)


def add_routes(server: Server, *, heartbeat_seconds: float, idle_seconds: float) -> None:
    """The paths that the front ends know, each onto the topic of a session."""

    def state(topic: str) -> Any:
        return server.progress.state(topic.removeprefix("session:"))

    for name, naming in (("intelligent-parallel", Naming.MODERN), ("canvas-progress", Naming.ALIASES)):
        to_session = partial(Route, topic="session:{session_id}")
        live = partial(
            to_session,
            dialect=ProgressDialect(Envelope(naming)),
            ping_interval_seconds=heartbeat_seconds,
            idle_timeout_seconds=idle_seconds,
        )
        server.routes.add(live(path=f"/ws/{name}/{{session_id}}", transport="websocket"))
        server.routes.add(live(path=f"/sse/{name}/{{session_id}}", transport="sse"))
        server.routes.add(to_session(path=f"/api/v1/canvas/{name}/{{session_id}}", transport="state", state=state))


@click.command()
@click.option("--port", default=8000, help="0 picks a free one.")
@click.option("--speed", default=5.0, show_default=True, help="Characters a second of an agent: it stands for a model.")
@click.option("--heartbeat-seconds", default=30.0, show_default=True)
@click.option("--idle-seconds", default=600.0, show_default=True, help="After this long without an event, goodbye.")
@click.option("--max-topics", default=100_000, show_default=True, help="In the whole server.")
def main(port: int, speed: float, heartbeat_seconds: float, idle_seconds: float, max_topics: int) -> None:
    """Serve until SIGTERM or Ctrl-C; batches that run then are cancelled, and who follows them is told."""

    async def serve() -> None:
        async with (
            open_server(
                port=port, app=app, rules=RULES, allow_anonymous=True, origins=["*"], max_server_topics=max_topics
            ) as server,
            trio.open_nursery() as nursery,
        ):
            add_routes(server, heartbeat_seconds=heartbeat_seconds, idle_seconds=idle_seconds)
            app.extensions.update(realtime=server, nursery=nursery, speed=speed)
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
