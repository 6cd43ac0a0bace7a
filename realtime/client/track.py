"""One topic as this client follows it: where it is, what it has seen, who reads it. Nothing here waits.

::

    WANTED --command sent--> ASKED --subscribed--> LIVE
       ^                       |                     |
       '------- link lost, or refused for now -------'

The position is that of the newest message that came, and it outlives links: with it the topic is resumed. Whatever is
not behind it is a duplicate. What a link brings before the reply that tells where it begins is held back until then,
and handed on piece by piece: a reader that is quick enough for messages as they come is not told it was too slow.
"""

from __future__ import annotations

import math
from collections import deque
from enum import Enum, auto
from typing import Any

import trio

from realtime.client.inbox import EPOCH_CHANGED, Inbox, Unread
from realtime.client.words import Heard, Last, Presence, View
from realtime.errors import RealtimeError
from realtime.history import Position
from realtime.local import Lost

__all__ = ["PRESENCE", "State", "Track"]

#: What a server says of who comes and who goes.
PRESENCE = ("join", "leave", "presence")
#: What may be held; far more than there is time for.
MAX_HELD = 10_000


class State(Enum):
    """See the module."""

    WANTED = auto()
    ASKED = auto()
    LIVE = auto()


class Track:
    """See the module."""

    def __init__(self, topic: str, view: View, recover: Last | Position | None) -> None:
        self.topic = topic
        self.view = view
        #: Whether the server has placed us here on this link, by its own will; whether that is what we follow; and
        #: whether something else is wanted, for which it has to go first.
        self.brought = self.placed = self.in_the_way = False
        #: Who has been told of everything up to there, where the topic is begun anew for somebody else.
        self._told: tuple[list[Inbox], Position] | None = None
        self.state = State.WANTED
        self.inboxes: list[Inbox] = []
        #: The view that the server has on this link, as far as we know; None: we do not.
        self.given: View | None = None
        #: When it may be asked for, by trio's clock.
        self.due = -math.inf
        #: Where the next subscription begins. A `Last` stays until its first message has come.
        self._recover = recover
        #: What lies right before that message, once the server has told what there is: from there on nothing is lost.
        self._floor: Position | None = None
        #: Where it was when the server had told where it begins, and nothing had been handed on.
        self.began: Position | None = None
        self._held: deque[Heard] = deque()
        #: Whether more has come than could be held: that is to be had on another link, behind what is held.
        self.overflowed = False
        self._epoch = ""
        #: Set once the server has taken the first subscription, or it is over: then with a `refusal`.
        self.settled = trio.Event()
        self.refusal: RealtimeError | None = None
        self.received = 0
        self.duplicates = 0
        self.lost = 0

    @property
    def position(self) -> Position | None:
        """Where it is; None before it began."""
        return self._recover if isinstance(self._recover, Position) else None

    @property
    def held(self) -> int:
        """How much has come that is not handed on yet: ahead of the reply that tells where it begins, and behind it."""
        return len(self._held)

    @property
    def may_be_placed(self) -> bool:
        """Whether a subscription by the server's will is all that is wanted."""
        return self.view == View() and not isinstance(self._recover, Last)

    def want(self, view: View, recover: Last | Position | None) -> None:
        """Have it in another way than the server has placed us here."""
        self.in_the_way, self.placed = self.state is State.LIVE, False
        if self.position is not None:
            self._told = list(self.inboxes), self.position
        self.view, self._recover, self._floor = view, recover, None
        self.settled = trio.Event()
        self.drop()

    def members(self) -> dict[str, Any]:
        """The members of its ``subscribe``, from the place where it is."""
        recover: dict[str, Any] | None = None
        if isinstance(self._recover, Last):
            recover = {"last": self._recover.count}
        elif self._recover is not None:
            recover = {"epoch": self._recover.epoch, "offset": self._recover.offset}
        return {"topic": self.topic, **self.view.members(), "recover": recover}

    def begin(self, reply: Heard) -> None:
        """The server tells where it begins, and how the recovery went."""
        known, here = self.position, reply.position
        self.state, self._epoch = State.LIVE, here.epoch
        if reply.recovered in ("full", "latest"):
            if known is None and not reply.replayed:
                self._recover = here
            elif known is None:
                self._floor = Position(here.epoch, max(0, here.offset - reply.replayed))
        else:
            self._recover = here
            if known is not None:
                self._miss(known, here, reply.why)
        self.began = self.position
        self.settled.set()

    def hold(self, heard: Heard) -> None:
        """Keep something back that has come, in its place behind what is held already, while there is room for it."""
        self.overflowed = self.overflowed or len(self._held) >= MAX_HELD
        if not self.overflowed:
            self._held.append(heard)

    def release(self) -> Heard:
        """The oldest of what is held."""
        return self._held.popleft()

    def _miss(self, known: Position, here: Position, why: str | None) -> None:
        """What lies between the two is not to be had."""
        if known.epoch != here.epoch or known.offset > here.offset:
            # How much of the old life was missed nobody knows; of the new one, all that there is.
            self._lose(Lost(self.topic, 1, here.offset, here.offset, EPOCH_CHANGED))
        elif known.offset < here.offset:
            missed = here.offset - known.offset
            self._lose(Lost(self.topic, known.offset + 1, here.offset, missed, why or "no_history"))

    def hear(self, heard: Heard) -> None:
        """A message or a gap of this topic."""
        if heard.type in PRESENCE:
            self._tell(heard)
        elif heard.type == "gap":
            self._lose(Lost(self.topic, heard.first, heard.last, heard.count, heard.reason))
            self.move(Position(self._epoch, heard.last))
        elif (known := self.position) is not None and heard.offset <= known.offset:
            self.duplicates += 1
        else:
            self.received += 1
            self._recover = Position(self._epoch, heard.offset)
            item = Unread(self.topic, self._epoch, heard.offset, heard.time, heard.data, heard.event, heard.key)
            for inbox in self.inboxes:
                if self._told is None or not self._knows(inbox, self._recover):
                    inbox.put(item)

    def _knows(self, inbox: Inbox, place: Position) -> bool:
        assert self._told is not None
        readers, known = self._told
        return inbox in readers and place.epoch == known.epoch and place.offset <= known.offset

    def _tell(self, heard: Heard) -> None:
        """Who comes and who goes; that has no place among the messages."""
        if heard.type == "presence":
            news = Presence(self.topic, heard.joined, heard.left, count=heard.count)
        else:
            came = heard.type == "join"
            news = Presence(self.topic, int(came), int(not came), heard.member)
        for inbox in self.inboxes:
            if inbox.presence:
                inbox.put(news)

    def move(self, position: Position) -> None:
        """Everything up to there has been sent, as far as it is for us."""
        if self.state is not State.LIVE or self._held or position.epoch != self._epoch:
            return
        if (known := self.position) is None or known.offset < position.offset:
            self._recover = position

    def drop(self, due: float = -math.inf) -> None:
        """The link is lost, or the subscription ended for a while: it is to be resumed, not before ``due``."""
        self.state, self.due = State.WANTED, due
        if self.position is None and self._floor is not None:
            self._recover = self._floor  # the newest are others by then
        self._floor = None
        self._held.clear()
        self.overflowed = False

    def end(self, error: RealtimeError | None) -> None:
        """It is over: the readers are told."""
        self.refusal = error
        self.settled.set()
        for inbox in self.inboxes:
            inbox.end(error)

    def _lose(self, lost: Lost) -> None:
        self.lost += lost.count
        for inbox in self.inboxes:
            inbox.put(lost, self._epoch)
