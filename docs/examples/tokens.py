"""Who may come in: a function from a token to an identity."""

import json

import trio
import trio_websocket

from realtime import CommandError, ErrorCode, Identity
from realtime.server import open_server

TOKENS = {"token-of-ada": "7", "token-of-bob": "8"}


async def authenticate(token):
    # A real one checks a signature, or asks a session store.
    try:
        return Identity(user=TOKENS[token], expires_in=840)
    except KeyError:
        raise CommandError(ErrorCode.AUTH_FAILED, "no such token") from None


async def command(socket, **members):
    await socket.send_message(json.dumps({"id": 1, **members}))
    while True:
        push = json.loads(await socket.get_message())
        if push.get("id") == 1:
            return push["type"], push.get("code") or push.get("user") or push.get("topic")


async def main():
    async with open_server(port=0, authenticate=authenticate) as server:
        url = f"{server.url.replace('http', 'ws')}/ws"

        # A program sends the token in the request.
        headers = [("Authorization", "Bearer token-of-ada")]
        async with trio_websocket.open_websocket_url(url, extra_headers=headers) as socket:
            welcome = json.loads(await socket.get_message())
            print("welcome, user", welcome["user"], "in", [topic["topic"] for topic in welcome["topics"]])
            print(await command(socket, type="subscribe", topic="room:lobby"))
            print(await command(socket, type="subscribe", topic="user:8"))

        # A page sends it as its first message, within `auth_timeout_seconds`.
        async with trio_websocket.open_websocket_url(url) as socket:
            await socket.get_message()
            print(await command(socket, type="subscribe", topic="room:lobby"))
            print(await command(socket, type="auth", token="guessed"))
            print(await command(socket, type="auth", token="token-of-bob"))
            print(await command(socket, type="subscribe", topic="room:lobby"))


if __name__ == "__main__":
    trio.run(main)
