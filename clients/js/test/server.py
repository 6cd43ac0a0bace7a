"""The server of the client's tests: settings as JSON in the first argument, a login is a name and its seconds."""

import json
import sys
from typing import Any

import structlog
import trio

from realtime import CommandError, ErrorCode, Identity
from realtime.server import open_server, run_until_signalled


def authenticate(token: str) -> Identity:
    """``ada`` is Ada for ever, ``ada/2`` for two seconds, ``bad`` nobody."""
    name, _, seconds = token.partition("/")
    if name == "bad":
        raise CommandError(ErrorCode.AUTH_FAILED, "no such token")
    return Identity(name, expires_in=float(seconds) if seconds else None)


async def main() -> None:
    """Serve until the test has enough."""
    settings = {
        "port": 0,
        "allow_anonymous": True,
        "authenticate": authenticate,
        "publish_rate": None,
        "command_rate": None,
        "refusal_rate": None,
        "reconnect_spread_seconds": 0,
        "kinds": {
            "room": {"join": "anyone", "publish": "anyone", "history_messages": 5000, "presence_linger_seconds": 0},
            "short": {"join": "anyone", "publish": "anyone", "history_messages": 2},
        },
        **json.loads(sys.argv[1]),
    }
    async with open_server(**settings) as server:

        @server.handler("echo")
        async def echo(payload: Any) -> Any:
            return payload

        @server.handler("sleep")
        async def sleep(seconds: float) -> str:
            await trio.sleep(seconds)
            return "slept"

        @server.handler("tell")
        async def tell(text: str) -> None:
            await server.send_to_user("ada", {"text": text})

        print(server.url, flush=True)
        await run_until_signalled(server)


structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
trio.run(main)
