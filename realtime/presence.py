"""Who is here: the members of each topic, and the news of who came and who went, told without storms.

::

    run
    '- one task for all topics: ends what has lingered, tells what was collected, sleeps until more is due

`Presence.enter` and `Presence.leave` change the list at once and never wait. The news is told later: the first change
in a topic opens a window, in which further changes are collected and a join and a leave of the same member cancel
out. When it closes, a few changes are told one by one; many changes, or any in a large topic, are told as one count,
which asks the listener to read the list again.

Whoever follows the news from a list that it has read ends up with the list as it is. So a change that
somebody may have seen in the list is told, even if it has been undone since.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from itertools import count, islice
from typing import Any, Generic, Protocol, TypeVar

import msgspec
import trio
from attrs import define, field, frozen

from realtime.errors import CommandError, ErrorCode
from realtime.topics import Kind, PresenceBy, PresenceMode

__all__ = ["Member", "MembersPage", "Presence", "PresenceStatistics", "Tell"]

#: Too short to be noticed, long enough for the members of a meeting to arrive in one push.
PRESENCE_WINDOW = 0.1
#: A count goes to many, and nobody reads it more than once a second.
COUNT_WINDOW = 1.0
#: Changes of one window that are told one by one.
MOST_SINGLES = 10
#: Members that stop lingering between two checkpoints: 64 are a tenth of a millisecond.
TURN_MEMBERS = 64


class Member(msgspec.Struct, frozen=True):
    """One who is here. ``user`` is None for an anonymous peer; ``info`` is any JSON object."""

    user: str | None
    connection: str
    info: dict[str, Any] = {}


class MembersPage(msgspec.Struct, frozen=True):
    """Members in the order in which they came."""

    members: list[Member]
    #: All members of the topic, not only those of this page.
    count: int
    #: Where the next page begins; None: this is the last.
    next: str | None = None


@frozen
class PresenceStatistics:
    """Members now, and the joins and leaves that were told, one by one or as counts.

    They need not add up at a moment: a change is told a little later, or never where it was undone by then; and one
    whose connection was lost is a member for as long as its kind has it linger.
    """

    topics: int
    members: int
    joins: int
    leaves: int


class Tell(Protocol):
    """How the news gets out."""

    def __call__(self, topic: str, kind: str, push: dict[str, Any], *, but: str | None = None) -> None:
        """Send a push to the subscribers of the topic on this node, except to connection ``but``. Never waits."""
        ...


#: A user, or a connection. The other is None, as a user may be called like a connection.
_Key = tuple[str | None, str | None]


@define(eq=False)
class _Room:
    """A topic that has members, or news of those who left."""

    topic: str
    kind: Kind
    #: In the order of their numbers.
    seats: dict[_Key, _Seat] = field(factory=dict)
    by_connection: dict[str, _Seat] = field(factory=dict)
    #: Whether a window is open.
    collecting: bool = False
    #: Changes that nobody knows of: the opposite one cancels them out.
    unseen: dict[_Key, _Change] = field(factory=dict)
    #: Changes that were in the list when somebody read it.
    seen: list[_Change] = field(factory=list)

    @property
    def counted(self) -> bool:
        """Whether only numbers are told."""
        return self.kind.presence is PresenceMode.COUNT or len(self.seats) > self.kind.presence_told_members


@define(eq=False)
class _Seat:
    """A member's place, which it keeps while its connections come and go."""

    room: _Room = field(repr=False)
    key: _Key
    number: int
    #: The member by the oldest connection that is still there; while it lingers, by the last one.
    shown: Member
    connections: dict[str, Member] = field(factory=dict)


@frozen
class _Change:
    seat: _Seat
    joined: bool


_T = TypeVar("_T")


class _Deadlines(Generic[_T]):
    """What is due when.

    Things that wait equally long stand in one line, so each line is in order without sorting, and there are few. What
    need not wait any more leaves its line at once; a heap would keep it until its time.
    """

    def __init__(self) -> None:
        self._lines: dict[float, OrderedDict[_T, float]] = {}

    def add(self, thing: _T, now: float, seconds: float) -> None:
        self._lines.setdefault(seconds, OrderedDict())[thing] = now + seconds

    def remove(self, thing: _T, seconds: float) -> None:
        del self._lines[seconds][thing]

    def next(self) -> float:
        return min((next(iter(line.values())) for line in self._lines.values() if line), default=math.inf)

    def take(self, now: float) -> _T | None:
        """One that is due."""
        for line in self._lines.values():
            if line and next(iter(line.values())) <= now:
                return line.popitem(last=False)[0]
        return None


class Presence:
    """See the module. One for each node."""

    def __init__(self, tell: Tell, *, now: Callable[[], float] = trio.current_time) -> None:
        self._tell = tell
        self._now = now
        self._rooms: dict[str, _Room] = {}
        #: One count for all topics: a key to a page of a topic that was forgotten meanwhile hides nobody.
        self._numbers = count(1)
        self._lingering: _Deadlines[_Seat] = _Deadlines()
        self._windows: _Deadlines[_Room] = _Deadlines()
        self._wakeup = trio.Event()
        self._joins = 0
        self._leaves = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Tell the news until cancelled. What was not told by then is not told."""
        task_status.started()
        while True:
            self._wakeup = trio.Event()
            due = min(self._lingering.next(), self._windows.next())
            with trio.move_on_after(max(0.0, due - self._now())):
                await self._wakeup.wait()
            self._turn()

    def enter(self, topic: str, kind: Kind, member: Member) -> None:
        """A connection is here, until it leaves; once for each topic. Raises `CommandError` (``LIMIT_EXCEEDED``).

        A connection that logs in and so becomes another member leaves first.
        """
        if kind.presence is PresenceMode.NONE:
            return
        room = self._rooms.get(topic)
        if room is None:
            room = self._rooms[topic] = _Room(topic, kind)
        by_user = kind.presence_by is PresenceBy.USER and member.user is not None
        key = (member.user, None) if by_user else (None, member.connection)
        seat = room.seats.get(key)
        if seat is None:
            if kind.max_members is not None and len(room.seats) >= kind.max_members:
                raise CommandError(ErrorCode.LIMIT_EXCEEDED, "the topic has as many members as it may")
            seat = room.seats[key] = _Seat(room, key, next(self._numbers), member)
            self._collect(_Change(seat, joined=True))
        elif not seat.connections:
            self._lingering.remove(seat, kind.presence_linger_seconds)
            seat.shown = member
        seat.connections[member.connection] = member
        room.by_connection[member.connection] = seat

    def leave(self, topic: str, connection: str, *, lost: bool) -> None:
        """A connection is here no longer; nothing where it was not.

        A member leaves with its last connection: at once, or if that was ``lost``, after the kind's linger.
        """
        room = self._rooms.get(topic)
        seat = None if room is None else room.by_connection.pop(connection, None)
        if seat is None:
            return
        del seat.connections[connection]
        linger = seat.room.kind.presence_linger_seconds
        if seat.connections:
            seat.shown = next(iter(seat.connections.values()))
        elif lost and linger:
            self._lingering.add(seat, self._now(), linger)
            self._wakeup.set()
        else:
            self._free(seat)

    def members(self, topic: str, after: str | None, limit: int) -> MembersPage:
        """Up to ``limit`` (at least 1) members behind ``after``, the `MembersPage.next` of the page before.

        Those who linger are members. Raises `CommandError` (``BAD_REQUEST``).
        """
        try:
            number = 0 if after is None else int(after)
        except ValueError:
            raise CommandError(ErrorCode.BAD_REQUEST, "`after` is not the `next` of a page") from None
        room = self._rooms.get(topic)
        if room is None:
            return MembersPage([], 0)
        room.seen.extend(room.unseen.values())
        room.unseen.clear()
        seats = list(islice((seat for seat in room.seats.values() if seat.number > number), limit + 1))
        following = str(seats[limit - 1].number) if len(seats) > limit else None
        return MembersPage([seat.shown for seat in seats[:limit]], len(room.seats), following)

    def count(self, topic: str) -> int:
        """How many members there are at this moment. Who follows the news starts from `members` instead."""
        room = self._rooms.get(topic)
        return 0 if room is None else len(room.seats)

    def statistics(self) -> PresenceStatistics:
        """A snapshot."""
        members = sum(len(room.seats) for room in self._rooms.values())
        return PresenceStatistics(len(self._rooms), members, self._joins, self._leaves)

    # -- news ------------------------------------------------------------------------------------------------

    def _free(self, seat: _Seat) -> None:
        del seat.room.seats[seat.key]
        self._collect(_Change(seat, joined=False))

    def _collect(self, change: _Change) -> None:
        room, key = change.seat.room, change.seat.key
        if room.unseen.pop(key, None) is None:
            room.unseen[key] = change
        if not room.collecting:
            room.collecting = True
            self._windows.add(room, self._now(), COUNT_WINDOW if room.counted else PRESENCE_WINDOW)
            self._wakeup.set()

    def _turn(self) -> None:
        """As much of what is due as may be done between two checkpoints."""
        now = self._now()
        for _ in range(TURN_MEMBERS):
            seat = self._lingering.take(now)
            if seat is None:
                break
            self._free(seat)
        room = self._windows.take(now)
        if room is not None:
            self._close_window(room)

    def _close_window(self, room: _Room) -> None:
        changes = [*room.seen, *room.unseen.values()]
        room.seen, room.unseen, room.collecting = [], {}, False
        if not room.seats:
            del self._rooms[room.topic]
        joined = sum(change.joined for change in changes)
        left = len(changes) - joined
        self._joins += joined
        self._leaves += left
        # One who changed twice may hear of its own leave, but not of its own join.
        twice = len({change.seat.key for change in changes}) < len(changes)
        if not (room.counted or twice or len(changes) > MOST_SINGLES):
            for change in changes:
                self._tell_single(room.topic, change)
        elif changes:
            push = {"type": "presence", "topic": room.topic, "count": len(room.seats), "joined": joined, "left": left}
            self._tell(room.topic, "presence", push)

    def _tell_single(self, topic: str, change: _Change) -> None:
        kind = "join" if change.joined else "leave"
        member = change.seat.shown
        push = {"type": kind, "topic": topic, "member": member}
        self._tell(topic, kind, push, but=member.connection if change.joined else None)
