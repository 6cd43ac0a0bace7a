"""A batch of work that a page follows, on a path and in words of its own."""

import json
import urllib.request
from functools import partial

import trio
from websockets.sync.client import connect

from realtime import Route
from realtime.batch import Job, JobFailed, Output, run_batch
from realtime.envelopes import Envelope, Naming, ProgressDialect
from realtime.server import open_server


async def explain(note):
    await trio.sleep(0.01)  # a real one asks a model
    if note == "n2":
        raise JobFailed("there is no such note")
    return Output(file_path=f"{note}.md", file_size="3.2KB")


def follow(url, started, seen):
    """What the page does."""
    with connect(url) as socket:
        trio.from_thread.run_sync(started)
        for text in socket:
            push = json.loads(text)
            if push["type"] not in ("connected", "ping"):
                seen.append((push["type"], push["data"].get("node_id") or push["data"].get("progress_percent")))
        seen.append(("closed", socket.close_code))


def read(url):
    with urllib.request.urlopen(url, timeout=5) as response:
        return json.load(response)


async def main():
    # Here anybody may follow any session; a real server has an `authenticate` function.
    options = {"allow_anonymous": True, "kinds": {"session": {"join": "anyone"}}}
    async with open_server(port=0, **options) as server:
        topic = "session:{session_id}"
        dialect = ProgressDialect(Envelope(Naming.ALIASES))
        server.routes.add(Route(path="/ws/notes/{session_id}", topic=topic, transport="websocket", dialect=dialect))
        server.routes.add(
            Route(path="/notes/{session_id}", topic=topic, transport="state", state=server.progress.state_of)
        )

        session = server.progress.create("algebra", total_nodes=3, info={"title": "Algebra"})
        following, seen = trio.Event(), []
        async with trio.open_nursery() as nursery:
            page = f"{server.url.replace('http', 'ws')}/ws/notes/{session.session_id}"
            nursery.start_soon(trio.to_thread.run_sync, follow, page, following.set, seen)
            await following.wait()
            jobs = [Job(note, partial(explain, note)) for note in ("n1", "n2", "n3")]
            final = await run_batch(server.progress, session.session_id, jobs, max_workers=1)
        for event, about in seen:
            print(event, about)
        print("ended as", final.status.value, "-", final.success_count, "good,", final.failure_count, "bad")

        # For a page that comes late, or that cannot hold a connection.
        state = await trio.to_thread.run_sync(read, f"{server.url}/notes/algebra")
        print(state["status"], state["progress_percent"], state["info"])


if __name__ == "__main__":
    trio.run(main)
