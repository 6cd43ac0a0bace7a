"""This project's server, in a program that handles requests."""

import sys

import trio
from msgspec import Struct

from realtime import Actions
from realtime.server import open_server, run_until_signalled, tune_collector

actions = Actions()


class Work(Struct):
    n: int


@actions.handler("work")
async def work(payload: Work) -> dict[str, int]:
    await trio.sleep(0.01)
    return {"n": payload.n, "double": 2 * payload.n}


async def main() -> None:
    async with open_server(actions=actions, dev=True, host="127.0.0.1", port=int(sys.argv[1])) as server:
        await run_until_signalled(server)


if __name__ == "__main__":
    tune_collector()  # as `realtime serve` does, and as the guide to deployment says
    trio.run(main)
