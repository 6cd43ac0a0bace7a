"""The hub in a Trio program of one's own, with no socket anywhere."""

import trio

from realtime import Lost, Settings, Since, open_engine


async def watch(engine, task_status=trio.TASK_STATUS_IGNORED):
    async with engine.subscribe("room:orders") as messages:
        task_status.started()
        async for message in messages:
            if isinstance(message, Lost):
                print(f"missed {message.count}: {message.first} to {message.last}")
                continue
            print(f"{message.offset}: {message.event} {message.data}")
            if message.data["state"] == "sent":
                break


async def main():
    async with open_engine(Settings()) as engine:
        async with trio.open_nursery() as nursery:
            await nursery.start(watch, engine)
            await engine.publish("room:orders", {"order": 17, "state": "new"}, event="order.created")
            paid = await engine.publish("room:orders", {"order": 17, "state": "paid"}, event="order.changed")
            await engine.publish("room:orders", {"order": 17, "state": "sent"}, event="order.changed")

        # Somebody who comes later asks for what is kept: the newest two ...
        async with engine.subscribe("room:orders", since=Since(last=2)) as messages:
            print("the newest two:", [(await anext(messages)).data["state"] for _ in range(2)])

        # ... or everything after a position.
        async with engine.subscribe("room:orders", since=Since(after=paid)) as messages:
            print("after that position:", (await anext(messages)).data["state"])


if __name__ == "__main__":
    trio.run(main)
