"""From a token to an identity, whatever the token is and whichever way it came."""

from __future__ import annotations

from functools import partial

import pytest
import structlog
import trio

from realtime.api_keys import ApiKeys, new_key
from realtime.auth import Carrier, Identity, Right
from realtime.errors import CommandError, ErrorCode
from realtime.login import MAX_TOKEN_CHARACTERS, Login
from realtime.revocation import Revocations
from realtime.tickets import Tickets

SECRET = "token-that-nobody-may-see"
ANN = Identity("ann")


@pytest.fixture
def logged():
    """What is written to the log."""
    with structlog.testing.capture_logs() as entries:
        yield entries


def login(
    authenticate=None,
    *,
    tickets: Tickets | None = None,
    revocations: Revocations | None = None,
    keys: tuple[str, ...] = (),
) -> Login:
    """A login with this function."""
    return Login(
        authenticate,
        Tickets(now=trio.current_time) if tickets is None else tickets,
        Revocations() if revocations is None else revocations,
        find_key=ApiKeys(keys).find,
        timeout_seconds=5.0,
    )


async def refused(made: Login, token: str = SECRET) -> CommandError:
    """How the token is refused; by no word of its own."""
    with pytest.raises(CommandError) as caught:
        await made(token, Carrier.HEADER)
    error = caught.value
    assert not token or token not in repr(error) + str(error)
    assert error.__cause__ is None
    return error


# -- functions of the user's own ---------------------------------------------------------------------------------


class Keeper:
    """A function in the form of an object."""

    async def __call__(self, token: str, carrier: Carrier) -> Identity:
        return Identity(f"{token} by {carrier}")


def plain(token):
    return Identity(token)


async def later(token):
    await trio.sleep(1)
    return Identity(token)


def carried(token, carrier):
    return Identity(f"{token} by {carrier}")


def with_options(token, strict=False, *, clock=None, **more):
    return Identity(f"{token} {strict}")


@pytest.mark.parametrize(
    ("authenticate", "user"),
    [
        (plain, "t"),
        (later, "t"),
        (carried, "t by cookie"),
        (Keeper(), "t by cookie"),
        (partial(carried, carrier="nothing"), "t by nothing"),
        (with_options, "t False"),
        (lambda token, /: Identity(token), "t"),
    ],
)
async def test_function_is_asked_in_the_way_that_it_takes(authenticate, user, autojump_clock):
    """Plain or async; told how the token came if it must have two arguments, and not where it may."""
    assert (await login(authenticate)("t", Carrier.COOKIE)).user == user


@pytest.mark.parametrize(
    ("carrier", "said"),
    [
        (Carrier.HEADER, "this is no API key of this server, and it takes no tokens"),
        (Carrier.QUERY, "this server takes no tokens"),
    ],
)
async def test_server_without_a_function_knows_no_tokens(carrier, said):
    """What it might have been is said: an API key too, where one is taken."""
    with pytest.raises(CommandError) as caught:
        await login(keys=("right",))(SECRET, carrier)
    assert (caught.value.code, caught.value.message) == ("AUTH_FAILED", said)


@pytest.mark.parametrize("token", ["", "x" * (MAX_TOKEN_CHARACTERS + 1)])
async def test_text_that_cannot_be_a_token_is_refused_unread(token):
    """The function is not bothered with it."""
    asked = []
    made = login(asked.append)
    assert (await refused(made, token)).code == "AUTH_FAILED"
    assert asked == []
    assert (await login(plain)("x" * MAX_TOKEN_CHARACTERS, Carrier.MESSAGE)).user


async def test_function_that_refuses_is_repeated(logged):
    """It speaks to the peer, and is no fault."""

    async def authenticate(token):
        raise CommandError(ErrorCode.TOKEN_EXPIRED, "too late")

    error = await refused(login(authenticate))
    assert (error.code, error.message) == ("TOKEN_EXPIRED", "too late")
    assert logged == []


async def test_function_that_fails_lets_nobody_in_and_shows_no_token(logged):
    """The log has the kind of the error and its place, not its words: the token may be among them."""

    def authenticate(token):
        raise ValueError(f"cannot read {token}")

    assert (await refused(login(authenticate))).code == "INTERNAL_ERROR"
    (entry,) = logged
    assert (entry["event"], entry["log_level"], entry["error"]) == ("authenticate failed", "error", "ValueError")
    assert "test_login.py" in entry["where"]
    assert entry["trace_id"]
    assert SECRET not in str(logged)


async def test_function_that_takes_too_long_is_given_up(autojump_clock, logged):
    """The peer may try again: nothing is known of its token."""
    given_up = False

    async def authenticate(token):
        nonlocal given_up
        try:
            await trio.sleep_forever()
        finally:
            given_up = True

    began = trio.current_time()
    error = await refused(login(authenticate))
    assert (error.code, error.retry_after) == ("UNAVAILABLE", 1.0)
    assert trio.current_time() - began == 5
    assert given_up
    assert [entry["event"] for entry in logged] == ["authenticate took too long"]
    assert SECRET not in str(logged)


@pytest.mark.parametrize("answer", [None, True, "ann", {"user": "ann"}])
async def test_function_that_gives_no_identity_lets_nobody_in(answer, logged):
    """Also what is true is nobody."""
    assert (await refused(login(lambda token: answer))).code == "INTERNAL_ERROR"
    assert [entry["event"] for entry in logged] == ["authenticate gave no identity"]


async def test_login_that_is_cancelled_is_not_refused():
    """Cancellation goes its way."""
    with trio.CancelScope() as scope:
        scope.cancel()
        await login(later)(SECRET, Carrier.HEADER)
    assert scope.cancelled_caught


# -- tickets and revocation --------------------------------------------------------------------------------------


async def test_ticket_opens_once_and_asks_no_function(autojump_clock):
    """It never sees one, be it good or not."""
    tickets = Tickets(now=trio.current_time)
    asked = []
    made = login(asked.append, tickets=tickets)
    ticket = tickets.issue(ANN, seconds=30)
    assert await made(ticket, Carrier.QUERY) == ANN
    assert (await refused(made, ticket)).code == "AUTH_FAILED"
    assert asked == []


async def test_ticket_works_where_no_tokens_are_known(autojump_clock):
    tickets = Tickets(now=trio.current_time)
    assert await login(tickets=tickets)(tickets.issue(ANN, seconds=30), Carrier.QUERY) == ANN


async def test_ticket_that_came_late_is_refused(autojump_clock):
    tickets = Tickets(now=trio.current_time)
    ticket = tickets.issue(ANN, seconds=30)
    await trio.sleep(30)
    assert (await refused(login(tickets=tickets), ticket)).code == "AUTH_FAILED"


async def test_login_that_was_revoked_is_refused_whatever_it_came_by(autojump_clock):
    """Also a ticket for it."""
    revocations = Revocations()
    tickets = Tickets(now=trio.current_time)
    made = login(lambda token: Identity(token, token_id=token), tickets=tickets, revocations=revocations)
    ticket = tickets.issue(Identity("7", token_id="stolen"), seconds=30)
    revocations.revoke_token("stolen")
    assert (await refused(made, "stolen")).code == "AUTH_FAILED"
    assert (await refused(made, ticket)).code == "AUTH_FAILED"
    assert (await made("good", Carrier.HEADER)).user == "good"


async def test_login_that_is_revoked_while_the_function_looks_is_refused(autojump_clock):
    """What counts is the end of the wait."""
    revocations = Revocations()
    made = login(later, revocations=revocations)
    errors = []

    async def ask() -> None:
        errors.append(await refused(made))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.sleep(0.5)
        revocations.revoke_user(SECRET)
    assert [error.message for error in errors] == ["the login was revoked"]


@pytest.mark.parametrize("carrier", Carrier)
async def test_key_of_a_back_end_logs_in_where_no_page_is(carrier):
    """In a header or a message: from a cookie, a subprotocol or a URL it is not taken, whatever it opens."""
    key, line = new_key("billing", [Right.READ])
    made = login(keys=(line,))
    if carrier in (Carrier.HEADER, Carrier.MESSAGE):
        identity = await made(key, carrier)
        assert (identity.user, identity.key, identity.rights) == (None, "billing", {Right.READ})
    else:
        with pytest.raises(CommandError) as caught:
            await made(key, carrier)
        assert caught.value.code is ErrorCode.AUTH_FAILED


async def test_key_that_is_none_is_asked_about_like_any_token():
    """A function of one's own may know it."""
    _, line = new_key("billing", [Right.READ])
    assert await login(lambda _token: ANN, keys=(line,))("rtk_billing_made_up", Carrier.HEADER) == ANN
