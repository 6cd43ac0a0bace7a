"""A server of one's own: it tells the time once a second, to everybody who wants to know."""

import sys
import time

import trio

from realtime import ConfigurationError, load_settings
from realtime.server import open_server, run_until_signalled


async def tell_time(server):
    while True:
        await server.publish("room:clock", {"now": time.strftime("%H:%M:%S")})
        await trio.sleep(1)


async def main():
    async with open_server(load_settings(dev=True)) as server, trio.open_nursery() as nursery:
        print(f"Try: curl -N '{server.url}/sse?topic=room:clock'", flush=True)
        nursery.start_soon(tell_time, server)
        await run_until_signalled(server)
        nursery.cancel_scope.cancel()


try:
    trio.run(main)
except ConfigurationError as error:  # as where the port is taken
    sys.exit(str(error))
