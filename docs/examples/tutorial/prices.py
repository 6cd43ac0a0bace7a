"""The price of one symbol, as it changes, until Ctrl-C."""

import trio

from realtime.client import connect


async def main():
    async with connect("http://127.0.0.1:8000") as client, client.subscribe("symbol:600519") as messages:
        async for item in messages:
            print(item, flush=True)


try:
    trio.run(main)
except* KeyboardInterrupt:
    pass
