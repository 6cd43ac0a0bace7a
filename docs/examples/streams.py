"""A stream of ticks: only some members, only some messages, not too many."""

import trio

from realtime import open_engine
from realtime.testing import connect

TOPIC = "symbol:600519"


async def main():
    async with open_engine() as engine, connect(engine) as large, connect(engine) as screen:
        # Prices of the large trades.
        await large.command("subscribe", topic=TOPIC, fields=["price"], filter={">=": ["volume", 1000]})
        # What a person can read: five a second, always the newest.
        await screen.command("subscribe", topic=TOPIC, fields=["price"], max_rate=5)

        for number in range(100):
            tick = {"price": 1480 + number, "volume": 1000 if number % 50 == 0 else 100}
            await engine.publish(TOPIC, tick, event="tick")
        receipt = await engine.publish(TOPIC, tick, event="tick")
        print("said before:", receipt.duplicate)

        print("large:", [(await large.receive_type("message"))["data"]["price"] for _ in range(2)])
        newest = 0
        while newest != tick["price"]:
            newest = (await screen.receive_type("message"))["data"]["price"]
        print("screen:", newest)
        (counters,) = (await screen.command("stats"))["subscriptions"]
        print("most gave way to newer ones:", counters["conflated"] > 90)

        # Another view from the next message on, without losing its place.
        await large.command("update", topic=TOPIC, fields=None, filter={"<": ["price", 1400]})
        for price in (1500, 1390):
            await engine.publish(TOPIC, {"price": price, "volume": 100}, event="tick")
        print((await large.receive_type("message"))["data"])


if __name__ == "__main__":
    trio.run(main)
