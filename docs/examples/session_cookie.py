"""The cookie with which a web application knows its users, known here too."""

import httpx
import trio

from realtime import CommandError, ErrorCode, Identity
from realtime.auth import Carrier
from realtime.server import open_server

SESSIONS = {"k3J9vT": {"user": "7", "staff": True, "seconds_left": 1200}}  # in real life, a table or a Redis


async def authenticate(token, carrier):
    if carrier is not Carrier.COOKIE:
        raise CommandError(ErrorCode.AUTH_FAILED, "only the cookie counts here")
    session = SESSIONS.get(token)  # here a real one waits for the store
    if session is None:
        raise CommandError(ErrorCode.AUTH_FAILED, "the session has ended")
    roles = frozenset({"staff"} if session["staff"] else ())
    return Identity(session["user"], roles=roles, expires_in=session["seconds_left"])


async def show(client, what, headers):
    answer = await client.get("/poll", params={"timeout": 0}, headers=headers)
    body = answer.json()
    print(f"{what}:", answer.status_code, body.get("code") or [topic["topic"] for topic in body["topics"]])


async def main():
    settings = {"cookie_name": "__Host-session", "origins": ["https://app.example.com"]}
    async with (
        open_server(port=0, authenticate=authenticate, **settings) as server,
        httpx.AsyncClient(base_url=server.url) as client,
    ):
        # What a browser sends along by itself, from pages here and there.
        cookie = {"Cookie": "theme=dark; __Host-session=k3J9vT"}
        await show(client, "our own page", {**cookie, "Sec-Fetch-Site": "same-origin"})
        await show(client, "the page of the application", {**cookie, "Origin": "https://app.example.com"})
        await show(client, "a page of somebody else", {**cookie, "Origin": "https://evil.example"})
        await show(client, "who does not say which page", cookie)
        await show(client, "a session that has ended", {"Cookie": "__Host-session=x", "Sec-Fetch-Site": "same-origin"})
        await show(client, "a token", {"Authorization": "Bearer k3J9vT"})


if __name__ == "__main__":
    trio.run(main)
