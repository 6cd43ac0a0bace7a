"""An asyncio program in another thread publishes, and goes on with its own work meanwhile."""

import asyncio
import threading

import trio

from realtime import open_engine


async def asyncio_program(publish):
    async def other_work():
        await asyncio.sleep(0)
        return "done"

    # The call blocks, so it gets a thread of asyncio's own; the options are those of `publish`.
    publishing = asyncio.to_thread(publish, "room:news", {"text": "from asyncio"}, event="news")
    receipt, other = await asyncio.gather(publishing, other_work())
    print("published at offset", receipt.offset, "- other work:", other)


async def main():
    async with open_engine() as engine, engine.subscribe("room:news") as messages:
        program = asyncio_program(engine.publish_from_thread)
        thread = threading.Thread(target=asyncio.run, args=(program,))
        thread.start()
        await trio.to_thread.run_sync(thread.join)
        message = await anext(messages)
        print("received", message.event, message.data)


if __name__ == "__main__":
    trio.run(main)
