"""What a person should know of a configuration before it serves others."""

from __future__ import annotations

from typing import Any

from attrs import fields, frozen

from realtime.api_keys import ApiKeys
from realtime.config import Settings, read_key_files
from realtime.server import tls_context

__all__ = ["Review", "review"]

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_SECRET = "***"


@frozen
class Review:
    """See the module."""

    notes: list[str]
    #: The settings that are not as they are by default; secrets are not shown.
    differs: dict[str, Any]


def review(settings: Settings) -> Review:
    """Look at settings. Raises `ConfigurationError` for files that they name and that are of no use."""
    read_key_files(settings)
    tls_context(settings)
    return Review([text for holds, text in _notes(settings) if holds], _differing(settings))


def _notes(settings: Settings) -> list[tuple[bool, str]]:
    keys = ApiKeys(settings.api_keys)
    logs_in = bool(settings.jwt_algorithms)
    return [
        (settings.dev, "dev is on: anonymous peers may use every room: and symbol: topic"),
        (settings.allow_anonymous, "allow_anonymous is on: who does not log in is served"),
        (not settings.rules, "there are no rules: the kinds' own options decide who may do what"),
        (not settings.origins, "there are no origins: web pages may connect from the server's own address alone"),
        ("*" in settings.origins, 'origins has "*": every web page may connect, without its cookies'),
        (not keys and not settings.dev, "there are no api_keys: nothing can be published over HTTP"),
        (keys.has_plain, "api_keys has a plain key, with all rights; `realtime new-key` makes hashed ones"),
        (not logs_in and not settings.anonymous, "no tokens and no anonymous peers: only tickets and API keys log in"),
        (
            logs_in and settings.jwt_audience is None and settings.jwt_secret is None,
            "jwt_audience is not set: tokens that the issuer makes for others are taken too",
        ),
        (not settings.jwt_require_expiry, "jwt_require_expiry is off: a token may be good for ever"),
        (settings.query_tokens, "query_tokens is on: tokens in URLs end in logs and histories"),
        (
            settings.tls_certificate is None and settings.host not in _LOOPBACK,
            "no TLS on an address of the network: have a proxy in front that speaks it",
        ),
    ]


def _differing(settings: Settings) -> dict[str, Any]:
    usual = Settings()
    return {
        attribute.name: getattr(settings, attribute.name) if attribute.repr else _SECRET
        for attribute in fields(Settings)
        if getattr(settings, attribute.name) != getattr(usual, attribute.name)
    }
