"""Events with a model: sent by a method, checked whoever publishes them."""

import msgspec
import trio

from realtime import Broadcaster, CommandError, EventCatalogue, open_engine

CATALOGUE = EventCatalogue(title="Workspace", version="1")


class ProjectUpdated(msgspec.Struct, kw_only=True):
    project_id: str
    name: str
    progress: float = 0.0


class Workspace(Broadcaster):
    project_updated = CATALOGUE.event("project.updated", ProjectUpdated, topic="project:{project_id}")


async def main():
    async with open_engine(catalogue=CATALOGUE) as engine, engine.subscribe("project:12") as messages:
        workspace = Workspace(CATALOGUE, engine.publish)

        # A method for each event, which type checkers know; the topic is made from the members ...
        await workspace.project_updated(project_id="12", name="Apollo")
        # ... or with a model, to another topic ...
        await workspace.send(Workspace.project_updated, ProjectUpdated(project_id="12", name="Apollo"), topic="global")
        # ... or by name, from what a webhook has brought.
        await workspace.emit("project.updated", {"project_id": "12", "name": "Apollo", "progress": 0.5, "secret": 1})

        for _ in range(2):
            message = await anext(messages)
            print(message.event, message.data)

        # Nobody gets past the model: peers and the HTTP API go through the same check as this program.
        for data in ({"project_id": "12", "name": 7}, {"project_id": "12"}):
            try:
                await engine.publish("project:12", data, event="project.updated")
            except CommandError as error:
                print(error)


if __name__ == "__main__":
    trio.run(main)
