"""Publish from a back end in another process: blocking, and not."""

import trio

from realtime.server import open_server
from transports.publishers import AsyncHttpPublisher, HttpPublisher, PublishError

KEY = "a-long-random-text"


def blocking_back_end(url):
    """For Django, Flask, a script, a worker of a queue; any number of threads may share one publisher."""
    with HttpPublisher(url, KEY) as publisher:
        receipt = publisher.publish("project:12", {"state": "paid"}, event="order.changed", idempotency_key="order-7")
        print("published at offset", receipt.offset)
        try:
            publisher.publish("nokind:12", {"state": "paid"})
        except PublishError as error:
            print("refused:", error, f"({error.status})")


async def async_back_end(url):
    """For programs on Trio or asyncio."""
    async with AsyncHttpPublisher(url, KEY) as publisher:
        receipt = await publisher.publish("project:12", {"state": "sent"}, event="order.changed")
        print("published at offset", receipt.offset)


async def main():
    # In one program only to be shown here: a back end knows the URL and the key, and no server.
    async with open_server(port=0, api_keys=[KEY]) as server, server.subscribe("project:12") as messages:
        await trio.to_thread.run_sync(blocking_back_end, server.url)
        await async_back_end(server.url)
        for _ in range(2):
            message = await anext(messages)
            print("received", message.event, message.data)


if __name__ == "__main__":
    trio.run(main)
