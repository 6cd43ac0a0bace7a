"""Actions: a request that names one goes to its handler, and what the handler returns is the reply.

A handler is a function, sync or async, of a payload and its caller; it may leave out either. The annotation of
the payload is its contract: what a peer sends is decoded into that type, or refused, before the handler runs.

A sync handler is called in the task that reads the connection: nothing else of the whole server runs meanwhile, so
it is for what needs no waiting and microseconds. All others are async.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from typing import Any, TypedDict, TypeVar, Unpack, get_type_hints

import msgspec
import structlog
import trio
from attrs import define, field, frozen, validators
from attrs.converters import optional
from msgspec import Raw
from structlog.contextvars import bind_contextvars, reset_contextvars

from realtime.breaker import CircuitBreaker
from realtime.errors import CommandError, ErrorCode, lone
from realtime.messages import shortened
from realtime.topics import Access

__all__ = ["Action", "ActionDescription", "ActionOptions", "ActionStatistics", "Actions", "Caller"]

log = structlog.get_logger("realtime")

#: How soon a crowded action has room, nobody knows; a second spreads those who come back, and does not bore them.
CROWDED_RETRY_SECONDS = 1.0

_encode = msgspec.json.Encoder().encode
_Function = TypeVar("_Function", bound=Callable[..., Any])
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@frozen
class Caller:
    """Who asks, and by which way."""

    user: str | None
    roles: frozenset[str]
    connection: str
    trace_id: str
    transport: str


@frozen
class ActionDescription:
    """What documentation says of an action."""

    name: str
    #: The type of the payload; None where the handler takes none.
    payload: Any
    result: Any
    doc: str


@frozen
class ActionStatistics:
    """Counters of one action. Calls that are in none of the others were answered, or cancelled."""

    name: str
    calls: int
    in_flight: int
    #: Ended by a bug: the caller saw ``INTERNAL_ERROR``, the log has the rest.
    failed: int
    timed_out: int
    #: Answered with any other error, by the handler or before it.
    refused: int


class ActionOptions(TypedDict, total=False):
    """The options of `Actions.register`; see `Action` for what they mean."""

    timeout_seconds: float
    concurrency: int | None
    waiting: int
    breaker: CircuitBreaker | None
    allow: Access | None


@define(eq=False, kw_only=True)
class Action:
    """A handler and what is kept around it; made by `Actions.register`."""

    name: str
    _function: Callable[..., Any] = field(alias="function")
    #: Bounds the wait for a free slot and the handler together. No effect on a sync handler.
    timeout_seconds: float = field(default=10.0, validator=[validators.gt(0), validators.lt(math.inf)])
    #: How many calls run at once; None: as many as come.
    concurrency: int | None = field(default=None, validator=validators.optional(validators.ge(1)))
    #: How many more calls wait for a slot. The timeout ends those that come too late anyway; this bounds memory.
    waiting: int = field(default=1000, validator=validators.ge(0))
    breaker: CircuitBreaker | None = None
    #: Who may ask. None: whom the rules let, and where there are none everybody.
    allow: Access | None = field(default=None, converter=optional(Access))
    #: Whether the handler is a sync function, so that `call_now` serves it.
    inline: bool = field(init=False)
    description: ActionDescription = field(init=False)
    calls: int = field(default=0, init=False)
    in_flight: int = field(default=0, init=False)
    failed: int = field(default=0, init=False)
    timed_out: int = field(default=0, init=False)
    refused: int = field(default=0, init=False)
    _decoder: msgspec.json.Decoder[Any] | None = field(init=False)
    _takes_caller: bool = field(init=False)
    _guard: AbstractContextManager[None] = field(init=False)
    _slots: trio.Semaphore | None = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.inline = not inspect.iscoroutinefunction(self._function)
        if self.inline and self.concurrency is not None:
            raise ValueError(f"action {self.name!r}: a sync handler runs alone, concurrency means nothing to it")
        if self.allow is Access.OWNER:
            raise ValueError(f"action {self.name!r}: an action has no owner")
        self._guard = self.breaker or nullcontext()
        self._slots = None if self.concurrency is None else trio.Semaphore(self.concurrency)
        takes_payload, self._takes_caller, types = _read_signature(self.name, self._function)
        payload, result = types[0] if takes_payload else None, types[-1]
        try:
            for kind in (payload, result):  # a decoder takes any class, and fails when it meets one
                msgspec.json.schema(kind)
            self._decoder = msgspec.json.Decoder(payload) if takes_payload else None
        except (TypeError, NameError) as error:
            raise TypeError(f"action {self.name!r}: a type of it has no JSON form: {error}") from error
        self.description = ActionDescription(self.name, payload, result, inspect.getdoc(self._function) or "")

    def call_now(self, payload: bytes | Raw, caller: Caller) -> bytes:
        """Call a sync handler; the JSON text of its result. An empty payload is ``null``.

        Raises `CommandError`, and no other exception of the handler.
        """
        assert self.inline
        self.calls += 1
        try:
            arguments = self._arguments(payload, caller)
            # `bound_contextvars` would cost more than all the rest.
            bound = bind_contextvars(trace_id=caller.trace_id)
            try:
                with self._guard:
                    result = self._function(*arguments)
                return _encode(result)
            finally:
                reset_contextvars(**bound)
        except Exception as error:  # noqa: BLE001 - a bug in a handler: the log has it, the caller hears of it
            told = self._tell(error, caller)
            raise told from told.__cause__

    async def call(
        self,
        payload: bytes | Raw,
        caller: Caller,
        timeout: float | None = None,
        recheck: Callable[[], None] | None = None,
    ) -> bytes:
        """Call any handler; the JSON text of its result. Whether the caller may have it called, others have decided.

        ``timeout`` is the caller's own limit in seconds; a longer one than the action's changes nothing. ``recheck``
        looks again whether the caller may, after a wait for a slot. Raises `CommandError`, and no other exception of
        the handler. Cancelled, so is the handler.
        """
        if self.inline:
            await trio.lowlevel.checkpoint()
            return self.call_now(payload, caller)
        self.calls += 1
        self.in_flight += 1
        try:
            arguments = self._arguments(payload, caller)
            bound = bind_contextvars(trace_id=caller.trace_id)
            try:
                return _encode(await self._run(arguments, timeout, recheck))
            finally:
                reset_contextvars(**bound)
        except Exception as error:  # noqa: BLE001 - as above
            told = self._tell(error, caller)
            raise told from told.__cause__
        except BaseExceptionGroup as group:
            failed, rest = group.split(Exception)
            if failed is not None:
                self._tell(failed, caller)  # the caller is gone, the log is there
            assert rest is not None
            raise rest from None
        finally:
            self.in_flight -= 1

    async def _run(self, arguments: tuple[Any, ...], timeout: float | None, recheck: Callable[[], None] | None) -> Any:
        now = trio.current_time()
        deadline = now + self.timeout_seconds
        own = timeout is None or timeout >= self.timeout_seconds
        if own and self._slots is None and self.breaker is None:
            # Nothing to go through but the timeout: most actions, and a quarter of what a call costs.
            with trio.CancelScope(deadline=deadline) as scope:
                return await self._function(*arguments)
            assert scope.cancelled_caught
            raise _too_late()
        # The caller's own limit lies around the guard, which learns nothing from it: nobody shall open a breaker for
        # all by asking for too little time.
        with nullcontext() if own or timeout is None else _until(now + timeout):
            async with nullcontext() if self._slots is None else self._slot(self._slots, deadline):
                if recheck is not None:
                    recheck()
                with self._guard, _until(deadline):
                    return await self._function(*arguments)

    @asynccontextmanager
    async def _slot(self, slots: trio.Semaphore, deadline: float) -> AsyncIterator[None]:
        with _until(deadline):
            try:
                slots.acquire_nowait()
            except trio.WouldBlock:
                if slots.statistics().tasks_waiting >= self.waiting:
                    raise CommandError(
                        ErrorCode.UNAVAILABLE, "too many wait for this action", retry_after=CROWDED_RETRY_SECONDS
                    ) from None
                await slots.acquire()
        try:
            yield
        finally:
            slots.release()

    def _arguments(self, payload: bytes | Raw, caller: Caller) -> tuple[Any, ...]:
        """What the handler is called with. Raises `CommandError` where it is not to be called."""
        if self._decoder is None:
            return (caller,) if self._takes_caller else ()
        try:
            value = self._decoder.decode(payload or b"null")
        except msgspec.ValidationError as error:
            raise CommandError(ErrorCode.BAD_REQUEST, f"payload: {_fault(error)}") from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise CommandError(ErrorCode.BAD_REQUEST, "payload: not JSON, or nested too deeply") from None
        return (value, caller) if self._takes_caller else (value,)

    def _tell(self, error: Exception, caller: Caller) -> CommandError:
        """What the caller is told of an exception; counts it, and logs a bug."""
        cause = lone(error)
        if not isinstance(cause, CommandError):
            log.error(
                "action failed",
                action=self.name,
                connection=caller.connection,
                trace_id=caller.trace_id,
                exc_info=error,
            )
            cause = CommandError(ErrorCode.INTERNAL_ERROR, "the server failed to do this")
        if cause.code is ErrorCode.INTERNAL_ERROR:
            self.failed += 1
        elif cause.code is ErrorCode.TIMEOUT:
            self.timed_out += 1
        else:
            self.refused += 1
        return cause

    def statistics(self) -> ActionStatistics:
        """A snapshot."""
        return ActionStatistics(self.name, self.calls, self.in_flight, self.failed, self.timed_out, self.refused)


class Actions:
    """The actions of one engine, by name."""

    def __init__(self) -> None:
        self._actions: dict[str, Action] = {}

    def handler(self, name: str, **options: Unpack[ActionOptions]) -> Callable[[_Function], _Function]:
        """Register the decorated function, which stays as it is; see `register`."""

        def decorate(function: _Function) -> _Function:
            self.register(name, function, **options)
            return function

        return decorate

    def register(self, name: str, function: Callable[..., Any], **options: Unpack[ActionOptions]) -> Action:
        """Register a handler under a name of its own.

        Raises `TypeError` for a function that cannot be a handler, `ValueError` for a name that is taken or an option
        that makes no sense.
        """
        if name in self._actions:
            raise ValueError(f"action {name!r}: registered already")
        action = self._actions[name] = Action(name=name, function=function, **options)
        return action

    def find(self, name: str) -> Action:
        """The action of this name. Raises `CommandError` (``UNKNOWN_ACTION``)."""
        action = self._actions.get(name)
        if action is None:
            raise CommandError(ErrorCode.UNKNOWN_ACTION, "no such action")
        return action

    def describe(self) -> list[ActionDescription]:
        """What documentation says of each action, in the order of their registration."""
        return [action.description for action in self._actions.values()]

    def statistics(self) -> list[ActionStatistics]:
        """A snapshot of each action, in the order of their registration."""
        return [action.statistics() for action in self._actions.values()]


@contextmanager
def _until(deadline: float) -> Iterator[None]:
    """Raise `CommandError` (``TIMEOUT``) if the block is not done by then."""
    with trio.move_on_at(deadline) as scope:
        yield
    if scope.cancelled_caught:
        raise _too_late()


def _too_late() -> CommandError:
    return CommandError(ErrorCode.TIMEOUT, "not done in time")


def _read_signature(name: str, function: Callable[..., Any]) -> tuple[bool, bool, list[Any]]:
    """Whether a handler takes a payload, whether a caller, and the types of its parameters and its result."""
    if not (inspect.isfunction(function) or inspect.ismethod(function)):
        raise TypeError(f"action {name!r}: a handler is a function or a method")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"action {name!r}: a handler returns one result, it does not yield")
    try:
        hints = get_type_hints(function, include_extras=True)
    except (NameError, AttributeError) as error:
        raise TypeError(f"action {name!r}: an annotation has no meaning where it is: {error}") from error
    parameters = inspect.signature(function).parameters.values()
    types = [hints.get(parameter.name) for parameter in parameters]
    takes_caller = bool(types) and types[-1] is Caller
    takes_payload = len(types) > takes_caller
    if (
        len(types) > takes_payload + takes_caller
        or any(parameter.kind not in _POSITIONAL for parameter in parameters)
        or any(parameter.default is not parameter.empty for parameter in parameters)
        or any(parameter.name not in hints for parameter in parameters)
    ):
        raise TypeError(
            f"action {name!r}: a handler takes a payload, whose annotation says what it may be (Any: anything), "
            "then `caller: Caller`, or one of them, or none; neither has a default"
        )
    return takes_payload, takes_caller, [*types, hints.get("return", Any)]


def _fault(error: msgspec.ValidationError) -> str:
    """The words of a refusal, those of a class's own validators without the objects that came with them."""
    text, cause = str(error), error.__cause__
    if cause is not None and len(cause.args) > 1:  # attrs adds the attribute, the validator and the value
        text = f"{cause.args[0]}{text.removeprefix(str(cause))}"
    return shortened(text)
