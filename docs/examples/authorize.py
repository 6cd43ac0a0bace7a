"""A function of one's own that says who may do what, where the answer stands in a database."""

import trio

from realtime import Identity, open_engine
from realtime.auth import Verb
from realtime.testing import connect

MEMBERS = {"project:12": {"ada", "bob"}}  # in real life, a table


async def authorize(identity, verb, target):
    if verb is Verb.REQUEST or not target.startswith("project:"):
        return None  # the rules decide, or the kind of the topic
    await trio.lowlevel.checkpoint()  # in real life, this waits for the database
    return identity.user in MEMBERS.get(target, ())


async def main():
    async with open_engine(authorize=authorize) as engine:
        async with connect(engine, identity=Identity("eve")) as eve:
            print("eve:", (await eve.command("subscribe", topic="project:12"))["code"])
        async with connect(engine, identity=Identity("bob")) as bob:
            print("bob:", (await bob.command("subscribe", topic="project:12"))["type"])
            await engine.publish("project:12", {"state": "started"})
            print("bob is sent", (await bob.receive_type("message"))["data"])

            MEMBERS["project:12"].remove("bob")
            await engine.review("bob")  # what was decided about bob is asked anew
            push = await bob.receive_type("unsubscribed")
            print("bob:", push["type"], push["code"])


if __name__ == "__main__":
    trio.run(main)
