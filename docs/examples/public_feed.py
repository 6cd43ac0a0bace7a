"""A public feed: everybody may follow it without a login, and nobody may do more."""

import trio

from realtime import Identity, Settings, open_engine
from realtime.testing import connect

SETTINGS = Settings(
    allow_anonymous=True,
    rules=(
        {"name": "prices for all", "topics": ["symbol:*"], "allow": ["join"], "who": "anyone"},
        {"name": "history for customers", "topics": ["symbol:*"], "allow": ["history"]},
    ),
)


async def show(peer, kind, **members):
    reply = await peer.command(kind, **members)
    recovered = f", recovered: {reply['recovered']}" if "recovered" in reply else ""
    print(f"  {kind} {members['topic']}: {reply.get('code') or reply['type']}{recovered}")


async def main():
    async with open_engine(SETTINGS) as engine:
        await engine.publish("symbol:600519", {"price": 1480.0})
        for who, identity in (("anybody", Identity()), ("a customer", Identity("7"))):
            print(who)
            async with connect(engine, identity=identity) as peer:
                await show(peer, "subscribe", topic="symbol:600519", recover={"last": 1})
                await show(peer, "publish", topic="symbol:600519", data={"price": 0})
                await show(peer, "subscribe", topic="room:lobby")


if __name__ == "__main__":
    trio.run(main)
