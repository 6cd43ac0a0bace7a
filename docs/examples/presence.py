"""Who is in a room, and the news of who comes and who goes."""

from contextlib import AsyncExitStack

import trio

from realtime import Identity, open_engine
from realtime.testing import connect

ADA = Identity("7", info={"name": "Ada"})
BOB = Identity("8", info={"name": "Bob"})


async def main():
    async with open_engine() as engine, AsyncExitStack() as peers:
        ada, laptop, phone = [
            await peers.enter_async_context(connect(engine, identity=identity)) for identity in (ADA, BOB, BOB)
        ]
        for peer in (ada, laptop, phone):
            await peer.command("subscribe", topic="room:lobby")

        # Bob has two devices there, and has come once.
        news = await ada.receive_type("join")
        print("join", news["member"]["info"])
        reply = await ada.command("members", topic="room:lobby")
        print(reply["count"], "members:", [member["user"] for member in reply["members"]])

        # He has left when his last device has.
        await phone.command("unsubscribe", topic="room:lobby")
        await laptop.command("unsubscribe", topic="room:lobby")
        news = await ada.receive_type("leave")
        print("leave", news["member"]["info"])

        # A crowd is told as one number.
        guests = [
            await peers.enter_async_context(connect(engine, identity=Identity(f"guest-{number}")))
            for number in range(20)
        ]
        for guest in guests:
            guest.send("subscribe", topic="room:lobby")
        print(await ada.receive_type("presence"))


if __name__ == "__main__":
    trio.run(main)
