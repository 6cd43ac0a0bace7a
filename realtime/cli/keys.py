"""``token``, ``new-key``, ``check-config``, ``check-access``: credentials, and what the configuration comes to."""

from __future__ import annotations

import json
import re
import sys
import time
from typing import Any, ClassVar

import click
import trio
from attrs import evolve
from joserfc import jwt
from joserfc.jwk import OctKey

from realtime.api_keys import new_key
from realtime.auth import Identity, Right, Verb
from realtime.cli.ending import Failure, tell
from realtime.cli.given import UTF8
from realtime.cli.printing import put_json, say
from realtime.cli.review import review
from realtime.config import Settings, load_policy, load_settings
from realtime.errors import CommandError, ConfigurationError
from realtime.keyring import StaticKeys
from realtime.tokens import TokenVerifier, identity_of

__all__ = ["check_access", "check_config", "create_key", "create_token"]

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d)?")
_SECONDS = {None: 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_ROLES = click.option("--role", "roles", multiple=True, type=UTF8, help="May be given several times.")
_CLAIMS = click.option(
    "--claim", "claims", multiple=True, type=UTF8, metavar="NAME=JSON", help="May be given several times."
)


class _Duration(click.ParamType[float]):
    """Seconds, or 15m, 8h, 30d."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = _DURATION.fullmatch(str(value))
        if found is None or not (seconds := float(found[1]) * _SECONDS[found[2]]):
            self.fail(f"{value!r} is no time such as 90s, 15m, 8h or 30d", param, ctx)
        return seconds


@click.command("token")
@click.option("--user", required=True, type=UTF8, help="Who it is for.")
@_ROLES
@_CLAIMS
@click.option("--expires", type=_Duration(), default="15m", show_default=True, help="After which time: 90s, 15m, 8h.")
@click.option("--config", type=click.Path(dir_okay=False), help="TOML file with settings; the secret may stand there.")
def create_token(
    *, user: str, roles: tuple[str, ...], claims: tuple[str, ...], expires: float, config: str | None
) -> None:
    """Make a token (JWT) for development.

    It is printed alone, for a variable to take. It is signed with the server's own secret: the setting jwt_secret, from
    the file or from REALTIME_JWT_SECRET. In production tokens come from whoever knows your users: an application, an
    identity provider.

    \b
    Example:
      export REALTIME_TOKEN=$(realtime token --config realtime.toml --user 7 --role editor)
      realtime tail user:7
    """
    settings = load_settings(config)
    secret = _secret(settings)
    who = {settings.jwt_user_claim: user, settings.jwt_roles_claim: list(roles) or None}
    token = _signed(settings, secret, who | dict(map(_claim, claims)), expires)
    try:
        trio.run(TokenVerifier(settings.token_rules(), StaticKeys.of(secret=secret)), token)
    except CommandError as error:
        raise Failure(f"a server with these settings would not take it: {error.message}", code=error.code) from None
    tell("this token is for development: whoever can make one can be anybody")
    say(token)


def _secret(settings: Settings) -> str:
    if settings.jwt_secret is not None:
        return settings.jwt_secret
    if settings.jwt_algorithms:
        raise Failure(
            f"tokens are signed with {settings.jwt_algorithms[0]} here, whose private key a server does not have",
            hint="get one from whoever signs them, or have HS256 and a jwt_secret in development",
        )
    raise Failure("this server takes no tokens", hint='set jwt_algorithms = ["HS256"], and REALTIME_JWT_SECRET')


def _signed(settings: Settings, secret: str, claims: dict[str, Any], expires: float) -> str:
    now = int(time.time())
    every = {
        "iss": settings.jwt_issuer,
        "aud": settings.jwt_audience,
        "iat": now,
        "exp": now + expires,
        **claims,
    }
    given = {name: value for name, value in every.items() if value is not None}
    return jwt.encode({"alg": "HS256", "typ": "JWT"}, given, OctKey.import_key(secret), algorithms=["HS256"])


@click.command("new-key")
@click.argument("name")
@click.option(
    "--rights",
    default="publish",
    show_default=True,
    help=f"What it is for, with commas or plus signs: {', '.join(Right)}.",
)
def create_key(name: str, rights: str) -> None:
    """Make an API key called NAME for a back end.

    The key is shown once; the configuration gets a line that only tells it from others.

    \b
    Example:
      realtime new-key ticker --rights publish,read
    """
    try:
        wanted = [Right(right.strip()) for right in re.split("[,+]", rights)]
    except ValueError as error:
        raise click.BadParameter(f"{error}; there are {', '.join(Right)}", param_hint="--rights") from None
    try:
        key, line = new_key(name, wanted)
    except ConfigurationError as error:
        raise click.BadParameter(str(error), param_hint="NAME") from None
    click.echo("The key, for the back end. It is not shown again:", err=True)
    say(key)
    click.echo('The line for the configuration, in quotes: api_keys = ["..."], or as REALTIME_API_KEYS:', err=True)
    say(line)


@click.command("check-config")
@click.option("--config", type=click.Path(dir_okay=False), help="TOML file with settings.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead.")
def check_config(*, config: str | None, as_json: bool) -> None:
    """Check a configuration, and say what is noteworthy in it.

    Reads the file and the environment as the server does; secrets are not shown. Exits with 1 where something is wrong.

    \b
    Example:
      realtime check-config --config realtime.toml
    """
    try:
        found = review(load_settings(config))
    except ConfigurationError as error:
        if as_json:
            put_json({"ok": False, "error": str(error)})
            sys.exit(1)
        raise
    if as_json:
        put_json({"ok": True, "notes": found.notes, "differs": found.differs})
        return
    say("ok")
    for note in found.notes:
        say(f"note: {note}")
    for name, value in found.differs.items():
        say(f"{name} = {json.dumps(value)}")


class _CannotTell(Failure):
    """There is no answer, which is not the answer no."""

    exit_code: ClassVar[int] = click.UsageError.exit_code


@click.command("check-access")
@click.option("--config", type=click.Path(dir_okay=False), help="TOML file with settings; needs no secrets.")
@click.option("--user", type=UTF8, help="Left out: somebody who has not logged in.")
@_ROLES
@_CLAIMS
@click.option("--topic", type=UTF8, help="What is asked about.")
@click.option("--action", type=UTF8, help="The same for a request.")
@click.option("--verb", type=click.Choice([verb.value for verb in Verb]), help="Exit with 1 unless this is allowed.")
def check_access(
    *,
    config: str | None,
    user: str | None,
    roles: tuple[str, ...],
    claims: tuple[str, ...],
    topic: str | None,
    action: str | None,
    verb: str | None,
) -> None:
    """Say who may do what on a topic, and by which rule.

    A function of one's own (`authorize`) is not asked here. Exits with 2 where there is no answer.

    \b
    Example:
      realtime check-access --config realtime.toml --user 7 --role editor --topic doc:9
    """
    if (topic is None) == (action is None):
        raise click.UsageError("give either --topic or --action")
    try:
        policy = load_policy(config)
        identity = evolve(identity_of(user, list(roles)), claims=dict(map(_claim, claims))) if user else Identity()
        if topic is not None:
            decisions = policy.explain(identity, topic)
        else:
            decisions = [(Verb.REQUEST, policy.decide_action(identity, action or "", None))]
    except (ConfigurationError, CommandError) as error:
        raise _CannotTell(str(error)) from None
    for decided, decision in decisions:
        say(f"{decided.value:<9}{'yes' if decision.allowed else 'no':<5}{decision.because}")
    asked = [decision for decided, decision in decisions if verb in (None, decided.value)]
    if not asked:
        raise click.UsageError(f"--verb {verb} is not about what was asked")
    if verb is not None and not asked[0].allowed:
        sys.exit(1)


def _claim(text: str) -> tuple[str, Any]:
    """A claim as it is given: JSON, or else the text itself."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise click.BadParameter(f"{text!r}: must be NAME=JSON", param_hint="--claim")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
