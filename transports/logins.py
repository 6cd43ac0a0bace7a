"""Logins by token, as the settings say."""

from __future__ import annotations

from realtime.auth import Authenticate
from realtime.config import Settings, read_key_files
from realtime.keyring import KeySource, RemoteKeys, StaticKeys
from realtime.tokens import TokenVerifier
from transports.jwks import fetcher, printable

__all__ = ["make_authenticate"]


def make_authenticate(settings: Settings) -> Authenticate | None:
    """The function that checks tokens (JWT); None where the settings name no algorithm.

    Also for an engine of one's own: ``Engine(settings, authenticate=make_authenticate(settings))``. Raises
    `realtime.errors.ConfigurationError`.
    """
    if not settings.jwt_algorithms:
        return None
    keys: KeySource
    if settings.jwt_jwks_url is not None:
        keys = RemoteKeys(
            fetcher(settings.jwt_jwks_url, timeout_seconds=settings.jwks_timeout_seconds),
            url=printable(settings.jwt_jwks_url),
            refresh_seconds=settings.jwks_refresh_seconds,
            retry_seconds=settings.jwks_retry_seconds,
        )
    else:
        keys = StaticKeys.of(secret=settings.jwt_secret, files=read_key_files(settings))
    return TokenVerifier(settings.token_rules(), keys)
