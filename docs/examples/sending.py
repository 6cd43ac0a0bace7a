"""To whom a message can be sent, and who gets it."""

import trio

from realtime import CommandError, Identity, open_engine
from realtime.testing import connect

ADA = Identity("7", roles=frozenset({"admin"}))
BOB = Identity("8")


async def heard(peer):
    message = await peer.receive_type("message")
    return f"{message['topic'].split(':')[0]}: {message['data']}"


async def main():
    async with (
        open_engine() as engine,
        connect(engine, identity=ADA) as laptop,
        connect(engine, identity=ADA) as phone,
        connect(engine, identity=BOB) as bob,
    ):
        # Who logs in is placed in topics of its own.
        print([topic["topic"] for topic in laptop.received[0]["topics"]])

        await engine.send_to_user("7", "you have mail")
        print(await heard(laptop), "|", await heard(phone))
        await engine.send_to_role("admin", "disk is full")
        print(await heard(laptop), "|", await heard(phone))
        await engine.publish("global", "lunch is ready")
        print(await heard(laptop), "|", await heard(phone), "|", await heard(bob))

        connection = bob.received[0]["connection"]
        await engine.send_to_connection(connection, "only this window")
        print(await heard(bob))
        try:
            await engine.send_to_connection("c_that-has-gone", "anybody?")
        except CommandError as error:
            print(error)

        results = await engine.broadcast(["user:7", "nokind:1"], "to several")
        print([result.code.value if isinstance(result, CommandError) else result.offset for result in results])
        print(await heard(laptop))

        # A key makes it safe to ask again: the message is published once.
        for _ in range(2):
            receipt = await engine.send_to_user("8", "paid", idempotency_key="order-7")
            print("offset", receipt.offset, "duplicate", receipt.duplicate)
        print(await heard(bob))

        # A peer that shows its own messages at once need not hear them again.
        for peer in (laptop, bob):
            await peer.command("subscribe", topic="room:lobby")
        await laptop.command("publish", topic="room:lobby", data="hello", echo=False)
        print(await heard(bob))
        print("heard itself:", any(push.get("data") == "hello" for push in laptop.received))


if __name__ == "__main__":
    trio.run(main)
