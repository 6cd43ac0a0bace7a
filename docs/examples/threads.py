"""Publish from a thread that knows nothing of Trio."""

import threading

import trio

from realtime import Settings, open_engine


def work(publish):
    """Runs in a thread of its own; each call waits until the message has its position."""
    for step in range(1, 4):
        publish("room:import", {"done": step, "of": 3})


async def main():
    async with open_engine(Settings()) as engine, engine.subscribe("room:import") as messages:
        thread = threading.Thread(target=work, args=(engine.publish_from_thread,))
        thread.start()
        for _ in range(3):
            message = await anext(messages)
            print("step", message.data["done"], "of", message.data["of"])
        await trio.to_thread.run_sync(thread.join)


if __name__ == "__main__":
    trio.run(main)
