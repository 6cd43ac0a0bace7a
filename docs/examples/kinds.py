"""A kind of topic of one's own, and one that is changed."""

import trio

from realtime import Access, CommandError, Overflow, Settings, open_engine

SETTINGS = Settings(
    kinds={
        "sensor": {
            "pattern": r"[a-z]{2}-[0-9]{4}",
            "join": Access.ANYONE,
            "publish": Access.NOBODY,  # only this program and back ends with an API key
            "overflow": Overflow.LATEST,
            "history_messages": 10,
        },
        "room": {"history_messages": 500, "history_age_seconds": 24 * 3600.0},
    }
)


async def main():
    async with open_engine(SETTINGS) as engine:
        position = await engine.publish("sensor:ab-0042", {"celsius": 21.5})
        print("published at offset", position.offset)
        try:
            await engine.publish("sensor:42", {"celsius": 21.5})
        except CommandError as error:
            print(error)


if __name__ == "__main__":
    trio.run(main)
