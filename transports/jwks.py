"""Fetches the keys that an identity provider publishes (a JSON Web Key Set), for `realtime.keyring.RemoteKeys`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from ipaddress import ip_address

import httpx
import trio

from realtime.errors import ConfigurationError
from realtime.keyring import KeysUnavailable

__all__ = ["fetcher", "printable"]


def fetcher(url: str, *, timeout_seconds: float = 5.0, max_bytes: int = 256 << 10) -> Callable[[], Awaitable[bytes]]:
    """Give a function that gets the document at ``url``, whole within the time and the size, or `KeysUnavailable`.

    Redirects are not followed. Raises `ConfigurationError` for an address that others could answer for.
    """
    _check(url)
    # Made once: it reads some hundred certificates.
    context = httpx.create_ssl_context()

    async def fetch() -> bytes:
        document = bytearray()
        try:
            # The deadline around all: httpx has one for each read only.
            with trio.move_on_after(timeout_seconds) as scope:
                async with (
                    httpx.AsyncClient(verify=context, timeout=timeout_seconds) as client,
                    # As it is: a few kilobytes of compressed text could become gigabytes.
                    client.stream("GET", url, headers={"accept-encoding": "identity"}) as response,
                ):
                    if response.status_code != httpx.codes.OK:
                        raise KeysUnavailable(f"they were answered with status {response.status_code}")
                    async for chunk in response.aiter_raw():
                        document += chunk
                        if len(document) > max_bytes:
                            # Ends the generators inside httpx; leaving the loop would leave them to the collector.
                            scope.cancel()
        except httpx.HTTPError as error:
            raise KeysUnavailable("they were not received") from error
        if len(document) > max_bytes:
            raise KeysUnavailable(f"they are of more than {max_bytes} bytes")
        if scope.cancelled_caught:
            raise KeysUnavailable("they were not received in time")
        return bytes(document)

    return fetch


def printable(url: str) -> str:
    """The address without what may be secret in it: whoever logs in there, and the query."""
    return str(_parsed(url).copy_with(userinfo=b"", query=None, fragment=None))


def _parsed(url: str) -> httpx.URL:
    try:
        return httpx.URL(url)
    except httpx.InvalidURL:
        return httpx.URL("")


def _check(url: str) -> None:
    parsed = _parsed(url)
    if not parsed.host or not (parsed.scheme == "https" or (parsed.scheme == "http" and _is_loopback(parsed.host))):
        shown = f" = {printable(url)!r}" if parsed.host else ""
        raise ConfigurationError(f"jwt_jwks_url{shown}: must be https://, or http:// on this computer itself")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
