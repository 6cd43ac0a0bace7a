"""What a slow subscriber gets under each policy, and the counters that tell it."""

import trio
import trio.testing

from realtime import Lost, Mode, Overflow, Settings, open_engine


async def too_much(engine, title, **options):
    """Six messages for a subscriber that holds three and does not read in time."""
    topic = "room:busy"
    async with engine.subscribe(topic, max_messages=3, **options) as messages:
        for number in range(6):
            await engine.publish(topic, number, key=f"k{number % 2}")
        await trio.testing.wait_all_tasks_blocked()  # the hub has routed all that it can
        seen = []
        with trio.move_on_after(0.05):
            while True:
                message = await anext(messages)
                seen.append(f"lost {message.count}" if isinstance(message, Lost) else message.data)
        totals = engine.hub.topic_statistics(topic)
        counters = f"delivered {totals.delivered}, dropped {sum(totals.dropped.values())}, conflated {totals.conflated}"
        print(f"{title}: {seen} - {counters}")


async def main():
    for policy in (Overflow.DROP_OLDEST, Overflow.DROP_NEWEST, Overflow.LATEST, Overflow.BLOCK):
        async with open_engine(Settings()) as engine:
            await too_much(engine, policy, overflow=policy)
    async with open_engine(Settings()) as engine:
        await too_much(engine, "mode latest", mode=Mode.LATEST)


if __name__ == "__main__":
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))  # nobody has to wait
