"""Publish from a thread that knows nothing of Trio."""

import threading

import trio

from realtime import Settings, open_engine


def work(engine):
    """Runs in a thread of its own; each call waits until it is done."""
    engine.publish_from_thread("room:import", {"done": 1, "of": 2})
    engine.publish_from_thread("room:import", {"done": 2, "of": 2})
    # The same for any other async function, with its arguments.
    engine.from_thread(engine.progress.notify_progress, "s1", {"type": "task_completed", "data": {"node_id": "import"}})
    engine.from_thread(engine.progress.complete, "s1")


async def main():
    async with open_engine(Settings()) as engine, engine.subscribe("room:import") as messages:
        engine.progress.create("s1", total_nodes=1)
        thread = threading.Thread(target=work, args=(engine,))
        thread.start()
        for _ in range(2):
            message = await anext(messages)
            print("step", message.data["done"], "of", message.data["of"])
        await engine.progress.wait_ended("s1")
        print("session", engine.progress.state("s1").status.value)
        await trio.to_thread.run_sync(thread.join)


if __name__ == "__main__":
    trio.run(main)
