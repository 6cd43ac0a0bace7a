"""Tokens of an identity provider, whose public keys are fetched from where it publishes them."""

import time

import httpx
import trio
from joserfc import jwk
from joserfc.jwt import encode
from quart_trio import QuartTrio

from realtime.server import open_server

provider = QuartTrio(__name__)  # in real life, somebody else's server
keys = [jwk.RSAKey.generate_key(2048, {"kid": "spring"})]


@provider.get("/.well-known/jwks.json")
async def published_keys():
    return {"keys": [key.as_dict(private=False) for key in keys]}


def token(key):
    """What the provider gives to a user's page."""
    claims = {
        "iss": "https://login.example.com/",
        "aud": "https://realtime.example.com",
        "sub": "auth0|7",
        "https://example.com/roles": ["editor"],
        "exp": int(time.time()) + 900,
    }
    return encode({"alg": "RS256", "kid": key.kid}, claims, key)


async def show(client, what, text):
    answer = await client.get("/poll", params={"timeout": 0}, headers={"Authorization": f"Bearer {text}"})
    body = answer.json()
    print(f"{what}:", answer.status_code, body.get("code") or [topic["topic"] for topic in body["topics"]])


async def main():
    async with open_server(port=0, app=provider) as login_server:
        settings = {
            "jwt_algorithms": ["RS256"],
            "jwt_jwks_url": f"{login_server.url}/.well-known/jwks.json",
            "jwt_issuer": "https://login.example.com/",
            "jwt_audience": "https://realtime.example.com",
            "jwt_roles_claim": "https://example.com/roles",
            "auto_subscribe": ["role:{role}"],
            "jwks_retry_seconds": 0.2,  # so short for this program only
        }
        async with open_server(port=0, **settings) as server, httpx.AsyncClient(base_url=server.url) as client:
            await show(client, "signed with the key of spring", token(keys[0]))
            summer = jwk.RSAKey.generate_key(2048, {"kid": "summer"})
            await show(client, "signed with a key that is not published", token(summer))
            keys.append(summer)
            await trio.sleep(0.2)
            await show(client, "signed with the key of summer", token(summer))


if __name__ == "__main__":
    trio.run(main)
