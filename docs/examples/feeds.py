"""A feed that works for a topic as long as somebody listens to it."""

from itertools import count

import trio

from realtime import Feeds, open_engine

feeds = Feeds()


@feeds.feed(topics="symbol:*", linger_seconds=0.05)
async def ticks(server, topic):
    print("feed of", topic, "begins")
    try:
        for price in count(10):  # a real one listens to an exchange
            await server.publish(topic, {"price": price}, event="tick")
            await trio.sleep(0.01)
    finally:
        print("feed of", topic, "ends")


async def main():
    async with open_engine(feeds=feeds) as engine:
        print([run.state.value for run in feeds.statistics()])
        async with engine.subscribe("symbol:600519") as messages:
            print((await anext(messages)).data)
            print([(run.topic, run.state.value) for run in feeds.statistics()])
        await trio.sleep(0.2)  # nobody listens any more
        print([run.state.value for run in feeds.statistics()])


if __name__ == "__main__":
    trio.run(main)
