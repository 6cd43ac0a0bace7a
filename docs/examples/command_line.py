"""A server, and the command line beside it, as another program uses that."""

import json
import os
import sys

import trio

from realtime.server import open_server

LINES = b'{"price": 10.5}\n{"price": 11}\n{"price": 9.75}\n'


# What the shell has exported is for other servers.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("REALTIME_")}


async def realtime(*arguments, url, stdin=b""):
    command = [sys.executable, "-m", "realtime", *arguments, "--url", url]
    options = {"stdin": stdin, "capture_stdout": True, "capture_stderr": True, "check": False}
    return await trio.run_process(command, env=ENVIRONMENT, **options)


async def main():
    async with open_server(dev=True, port=0) as server:
        published = await realtime("publish", "symbol:600519", "--lines", "--json", url=server.url, stdin=LINES)
        print("published", json.loads(published.stdout)["published"])

        tail = await realtime("tail", "symbol:600519", "--last", "2", "--count", "2", "--json", url=server.url)
        for line in tail.stdout.splitlines():
            message = json.loads(line)
            print(message["offset"], message["data"]["price"])

        refused = await realtime("tail", "user:7", url=server.url)
        print("exit code", refused.returncode)


trio.run(main)
