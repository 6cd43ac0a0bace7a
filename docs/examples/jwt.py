"""Logins by JSON Web Tokens, which the server checks by itself."""

import time

import httpx
import trio
from joserfc import jwk
from joserfc.jwt import encode

from realtime.server import open_server

SECRET = "of-32-bytes-or-more-that-nobody-guesses"
SETTINGS = {
    "jwt_algorithms": ["HS256"],
    "jwt_secret": SECRET,
    "jwt_issuer": "https://app.example.com",
    "jwt_audience": "realtime",
}


def token(secret=SECRET, **claims):
    """What the application makes for a user who has logged in there."""
    usual = {
        "iss": "https://app.example.com",
        "aud": "realtime",
        "sub": "7",
        "roles": ["developer"],
        "exp": int(time.time()) + 900,
    }
    return encode({"alg": "HS256"}, {**usual, **claims}, jwk.import_key(secret, "oct"))


async def show(client, what, text):
    answer = await client.get("/poll", params={"timeout": 0}, headers={"Authorization": f"Bearer {text}"})
    body = answer.json()
    print(f"{what}:", answer.status_code, body.get("code") or [topic["topic"] for topic in body["topics"]])


async def main():
    async with open_server(port=0, **SETTINGS) as server, httpx.AsyncClient(base_url=server.url) as client:
        await show(client, "good", token())
        await show(client, "expired", token(exp=int(time.time()) - 60))
        await show(client, "for somebody else", token(aud="billing"))
        await show(client, "of another secret", token("a-secret-that-somebody-else-has-made-up"))
        await show(client, "no token", "guessed")


if __name__ == "__main__":
    trio.run(main)
