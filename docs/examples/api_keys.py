"""Keys of back ends: each has a name and its own rights, and the server keeps only a hash of it."""

import httpx
import trio

from realtime.api_keys import new_key
from realtime.auth import Right
from realtime.server import open_server

# `realtime new-key billing --rights publish` prints the two: the key for the back end, the line for the server.
KEY, LINE = new_key("billing", [Right.PUBLISH])


async def show(client, what, key, path, body):
    answer = await client.post(path, json=body, headers={"X-API-Key": key})
    print(f"{what}:", answer.status_code, answer.json().get("message") or "published")


async def main():
    print(KEY[:12] + "...", LINE.partition("sha256:")[0] + "sha256:...")
    async with open_server(port=0, api_keys=[LINE]) as server, httpx.AsyncClient(base_url=server.url) as client:
        paid = {"topic": "project:12", "data": {"state": "paid"}}
        await show(client, "publish", KEY, "/api/v1/publish", paid)
        await show(client, "what it is not for", KEY, "/api/v1/users/7/disconnect", {})
        await show(client, "a guess", "rtk_billing_" + "0" * 64, "/api/v1/publish", paid)
        await show(client, "the line", LINE, "/api/v1/publish", paid)


if __name__ == "__main__":
    trio.run(main)
