"""Rules: who may do what. They are read from a file, and read again while the server runs."""

from pathlib import Path

import trio
from attrs import evolve

from realtime import Actions, Identity, load_settings, open_engine
from realtime.testing import connect

SETTINGS = load_settings(Path(__file__).with_name("rules.toml"), environ={})
actions = Actions()


@actions.handler("export_prices")
async def export_prices() -> str:
    return "all of them"


async def show(peer, kind, **members):
    reply = await peer.command(kind, **members)
    print(f"  {kind} {members.get('topic') or members['action']}:", reply.get("code") or reply["type"])


async def main():
    ada = Identity("ada", roles=frozenset({"editor"}), claims={"team": "blue", "org": {"plan": "paid"}})
    bob = Identity("bob", claims={"team": "red"})
    async with open_engine(SETTINGS, actions=actions) as engine:
        for identity in (ada, bob):
            print(identity.user)
            async with connect(engine, identity=identity) as peer:
                await show(peer, "subscribe", topic="project:12")
                await show(peer, "subscribe", topic="project:vault")
                await show(peer, "subscribe", topic="room:blue-lobby")
                await show(peer, "request", action="export_prices")

        print("without the first rule")
        async with connect(engine, identity=ada) as peer:
            await show(peer, "subscribe", topic="project:12")
            await engine.reload(evolve(SETTINGS, rules=SETTINGS.rules[1:]))
            push = await peer.receive_type("unsubscribed")
            print(" ", push["type"], push["topic"], push["code"])


if __name__ == "__main__":
    trio.run(main)
