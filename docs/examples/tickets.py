"""Tickets: a back end that knows its user lets the page in, without giving it a token."""

import json
import urllib.request

import httpx
import trio

from realtime.api_keys import new_key
from realtime.auth import Right
from realtime.server import open_server

KEY, LINE = new_key("website", [Right.TICKETS])


def new_ticket(url, user, **login):
    """What a view of Django, Flask or FastAPI does for its user; blocking."""
    request = urllib.request.Request(
        f"{url}/api/v1/tickets",
        data=json.dumps({"user": user, **login}).encode(),
        headers={"X-API-Key": KEY, "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=5) as response:
        return json.load(response)["ticket"]


async def show(client, what, ticket):
    """What a page does, here with a poll in place of an `EventSource`."""
    answer = await client.get("/poll", params={"ticket": ticket, "timeout": 0})
    body = answer.json()
    print(f"{what}:", answer.status_code, body.get("message") or [topic["topic"] for topic in body["topics"]])


async def main():
    async with open_server(port=0, api_keys=[LINE]) as server, httpx.AsyncClient(base_url=server.url) as client:
        ticket = await trio.to_thread.run_sync(lambda: new_ticket(server.url, "7", roles=["author"]))
        await show(client, "first", ticket)
        await show(client, "again", ticket)

        ticket = await trio.to_thread.run_sync(new_ticket, server.url, "7")
        server.revoke_user("7")  # or POST /api/v1/users/7/disconnect with {"revoke": true}
        await show(client, "of a user who was revoked", ticket)


if __name__ == "__main__":
    trio.run(main)
