"""The topics that this client follows, by name: what is asked of each link, and whom it is for what a link brings.

On a link that is not in order, messages of a subscription that was left can come after the reply to the next one of the
same topic, and would pass for what that recovers. So a topic that was left is remembered until pings prove that nothing
of it is under way; taken again before, with ``recover``, it is asked for on another link.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice

import trio
from attrs import define
from msgspec import Raw

from realtime.client.conversation import Conversation, Ending, Line
from realtime.client.failures import PASSING, command_error
from realtime.client.inbox import Inbox
from realtime.client.track import PRESENCE, State, Track
from realtime.client.words import Heard, Last, View, encode_command
from realtime.errors import CommandError, ErrorCode, RealtimeError
from realtime.history import MAX_CURSOR_TOPICS, Position, decode_cursor, encode_cursor

__all__ = ["Topics"]

#: The most that the server takes in one message.
BATCH_COMMANDS = 1000
#: What a batch has around its commands.
BATCH_FRAME_BYTES = 100
#: Pings after which nothing is under way that was sent before a command was answered. The first may itself have been
#: sent before; the next is an interval younger, and no link lives that is late by so much.
PROVING_PINGS = 2

_OF_A_SUBSCRIPTION = ("message", "gap", "unsubscribed", *PRESENCE)


@define(eq=False)
class _Left:
    """A topic that was left on this link: the pings that have yet to come, none of which counts before the answer."""

    answered: bool = False
    pings: int = PROVING_PINGS


class Topics:
    """See the module. ``wait`` tells for how long to leave what was refused for now, given what the server says."""

    def __init__(self, next_id: Callable[[], int], wait: Callable[[float | None], float]) -> None:
        self._next_id = next_id
        self._wait = wait
        self._tracks: dict[str, Track] = {}
        #: Of those who read what the server places us in.
        self._placed: list[Inbox] = []
        self._conversation: Conversation | None = None
        #: What was left on this link, where its messages may still come.
        self._left: dict[str, _Left] = {}
        #: Of which something is held that can be handed on.
        self._behind: list[Track] = []
        #: Set when there is something to tend.
        self._stirred = trio.Event()

    def __iter__(self) -> Iterator[Track]:
        return iter(self._tracks.values())

    # -- readers ---------------------------------------------------------------------------------------------

    def follow(self, topic: str, view: View, recover: Last | Position | None, inbox: Inbox) -> Track:
        """Have the messages of a topic put into ``inbox``. Raises `CommandError`."""
        track = self._tracks.get(topic)
        if track is not None and track.view == view and recover is None:
            track.inboxes.append(inbox)
            return track
        if track is None:
            track = self._tracks[topic] = Track(topic, view, recover)
            again = topic in self._left
        elif track.placed and all(reader in self._placed for reader in track.inboxes):
            again = track.state is State.LIVE
            track.want(view, recover)
        else:
            message = "this client has the topic already, with other options or from another place"
            raise CommandError(ErrorCode.ALREADY_SUBSCRIBED, message)
        track.inboxes.append(inbox)
        if again and recover is not None and self._conversation is not None and not self._in_order:
            self._begin_anew(f"{topic} is taken again")
        self.resume()
        return track

    def leave(self, track: Track, inbox: Inbox) -> None:
        """Take the inbox away; the last one ends the subscription. Never waits: the server is told in due course."""
        track.inboxes.remove(inbox)
        if self._tracks.get(track.topic) is not track or track.placed or track.inboxes:
            return
        del self._tracks[track.topic]
        if track.state is not State.WANTED:
            left = _Left()
            self._unsubscribe(track, left)
            if not self._in_order:
                self._left[track.topic] = left

    def _unsubscribe(self, track: Track, left: _Left) -> None:
        def answer(_reply: Heard) -> None:
            left.answered = True  # whether it was still subscribed does not matter

        if self._conversation is not None:
            command_id = self._next_id()
            text = encode_command("unsubscribe", command_id, {"topic": track.topic})
            self._conversation.say(Line(command_id, text, answer))

    def _begin_anew(self, why: str) -> None:
        if self._conversation is not None:
            self._conversation.end(Ending(why, at_once=True))

    def agree(self, track: Track) -> None:
        """Have the server show a topic in the view that it is wanted in, where it may have another one."""
        if self._tracks.get(track.topic) is not track or track.state is State.WANTED or track.given == track.view:
            return
        if track.placed or not self._in_order:
            self._begin_anew(f"the view of {track.topic} is in doubt")
            return
        track.in_the_way = True
        track.drop()
        self.resume()

    def follow_placed(self, inbox: Inbox) -> None:
        """Have the messages of all topics put into ``inbox`` that the server places us in, now and later."""
        self._placed.append(inbox)
        for track in self._tracks.values():
            if track.brought:
                track.inboxes.append(inbox)

    def leave_placed(self, inbox: Inbox) -> None:
        """Take the inbox away."""
        self._placed.remove(inbox)
        for track in self._tracks.values():
            if inbox in track.inboxes:
                track.inboxes.remove(inbox)

    # -- links -----------------------------------------------------------------------------------------------

    def cursor(self) -> str:
        """Where the topics stand that a login brings."""
        placed = ((name, track.position) for name, track in self._tracks.items() if track.placed)
        known = ((name, position) for name, position in placed if position is not None)
        return encode_cursor(dict(islice(known, MAX_CURSOR_TOPICS)))

    def connected(self, conversation: Conversation, welcome: Heard) -> None:
        """There is a link: take up what it brings by itself, and ask for the rest."""
        self._conversation = conversation
        self.place(welcome.topics)
        for track in list(self._tracks.values()):
            if track.placed and track.state is State.WANTED:
                self._displace(track)
        self.resume()

    def lost(self) -> None:
        """The link is gone."""
        self._conversation = None
        self._left.clear()
        self._behind.clear()
        for track in list(self._tracks.values()):
            track.drop()
            if track.brought and all(reader in self._placed for reader in track.inboxes):
                track.placed, track.view = True, View()  # nobody wants it in another way any more
            elif not track.placed:
                self._without_placed(track)
            track.brought = False

    def close(self, error: RealtimeError) -> None:
        """There will be no other link."""
        for track in self._tracks.values():
            track.end(error)
        for inbox in self._placed:
            inbox.end(error)
        self._tracks.clear()

    async def tend(self) -> None:
        """As long as there is a link: hand on what was held, and ask again for what was refused, each in its time."""
        while True:
            self._stirred = trio.Event()
            while self._behind:
                for track in list(self._behind):
                    self._hand_on(track)
                await trio.lowlevel.checkpoint()  # the readers take it, while the link brings more
            self.resume()
            due = min((track.due for track in self._tracks.values() if track.state is State.WANTED), default=math.inf)
            with trio.move_on_at(due):
                await self._stirred.wait()

    def _hand_on(self, track: Track) -> None:
        if track.held and track.state is State.LIVE and self._tracks.get(track.topic) is track:
            self._take(track, track.release())
            if track.overflowed and not track.held and self._conversation is not None:
                self._conversation.end(Ending(f"more of {track.topic} has come than could be held"))
        else:
            self._behind.remove(track)

    def resume(self) -> None:
        """Ask for every topic that we want and do not have, and may ask for, in as few messages as there can be."""
        if self._conversation is None:
            return
        now = trio.current_time()
        most = self._conversation.most_bytes - BATCH_FRAME_BYTES
        batch: list[tuple[Track, int, bytes]] = []
        size = 0
        for track in list(self._tracks.values()):
            if track.state is State.WANTED and track.due <= now:
                if track.in_the_way:
                    self._unsubscribe(track, _Left())
                    track.in_the_way = False
                command_id = self._next_id()
                text = encode_command("subscribe", command_id, track.members())
                track.state, track.given = State.ASKED, track.view
                if batch and (size + len(text) >= most or len(batch) == BATCH_COMMANDS):
                    self._ask(self._conversation, batch)
                    batch, size = [], 0
                batch.append((track, command_id, text))
                size += len(text) + 1
        if batch:
            self._ask(self._conversation, batch)

    def _ask(self, conversation: Conversation, batch: list[tuple[Track, int, bytes]]) -> None:
        asked = {command_id: track for track, command_id, _ in batch}
        if len(batch) == 1:
            ((track, command_id, text),) = batch
            conversation.say(Line(command_id, text, lambda reply: self._answer(track, reply)))
            return

        def answer(reply: Heard) -> None:
            replies = {each.id: each for each in reply.replies}
            for number, track in asked.items():
                self._answer(track, replies.get(number, reply))

        batch_id = self._next_id()
        commands = [Raw(text) for _, _, text in batch]
        conversation.say(Line(batch_id, encode_command("batch", batch_id, {"commands": commands}), answer))

    def _answer(self, track: Track, reply: Heard) -> None:
        if self._tracks.get(track.topic) is not track or track.state is not State.ASKED:
            return  # it was left meanwhile
        if reply.type == "subscribed":
            self._begin(track, reply)
            return
        error = command_error(reply)
        if track.settled.is_set() and error.code in PASSING:
            self._postpone(track, error.retry_after)
        else:
            self._end(track, error)

    def _begin(self, track: Track, reply: Heard) -> None:
        track.begin(reply)
        if track.held and track not in self._behind:
            self._behind.append(track)
            self._stirred.set()

    def _postpone(self, track: Track, retry_after: float | None) -> None:
        track.drop(trio.current_time() + self._wait(retry_after))
        self._stirred.set()

    # -- what comes ------------------------------------------------------------------------------------------

    def heard(self, heard: Heard, cursor: str) -> None:
        """A push. What is not known, or for nobody any more, is ignored."""
        if heard.type == "ping":
            self._move(heard, cursor)
        elif heard.type == "subscribed":
            self.place([heard])
        elif (track := self._tracks.get(heard.topic)) is None:
            return
        # On a link in order, what comes before the reply is of a subscription that was left.
        elif (
            track.state is State.LIVE or (track.state is State.ASKED and not self._in_order)
        ) and heard.type in _OF_A_SUBSCRIPTION:
            self._deliver(track, heard)

    @property
    def _in_order(self) -> bool:
        return self._conversation is not None and self._conversation.link.ordered

    def _deliver(self, track: Track, heard: Heard) -> None:
        if heard.type == "unsubscribed" and track.topic in self._left:
            self._begin_anew(f"{track.topic} is taken again")  # which of the two is over nobody can tell
        elif track.state is State.LIVE and not track.held:
            self._take(track, heard)
        else:
            track.hold(heard)

    def _take(self, track: Track, heard: Heard) -> None:
        if heard.type == "unsubscribed":
            self._expel(track, heard)
        else:
            track.hear(heard)

    def place(self, topics: list[Heard]) -> None:
        """The server has placed us in these."""
        for told in topics:
            track = self._tracks.get(told.topic)
            if track is None:
                track = self._tracks[told.topic] = Track(told.topic, View(), None)
            elif not (track.placed or (track.state is State.WANTED and track.may_be_placed)):
                # What was asked for is something else.
                track.brought, track.in_the_way = True, track.state is State.WANTED
                self._with_placed(track)
                continue
            track.placed = track.brought = True
            self._with_placed(track)
            track.given = View()
            self._begin(track, told)

    def _displace(self, track: Track) -> None:
        """The server does not place us here any more: who reads it by name has to ask."""
        track.placed = track.brought = False
        self._without_placed(track)

    def _with_placed(self, track: Track) -> None:
        track.inboxes += [inbox for inbox in self._placed if inbox not in track.inboxes]

    def _without_placed(self, track: Track) -> None:
        track.inboxes = [inbox for inbox in track.inboxes if inbox not in self._placed]
        if not track.inboxes:
            del self._tracks[track.topic]

    def _expel(self, track: Track, heard: Heard) -> None:
        """The server has ended a subscription."""
        if heard.resubscribe:
            self._postpone(track, None)
            if track.placed:
                self._displace(track)
        else:
            error = None if heard.code is None else command_error(heard)
            if error is not None and not error.message:
                error = CommandError(error.code, "the server has ended the subscription")
            self._end(track, error)

    def _end(self, track: Track, error: CommandError | None) -> None:
        del self._tracks[track.topic]
        track.inboxes = [inbox for inbox in track.inboxes if inbox not in self._placed]
        track.end(error)

    def _move(self, heard: Heard, cursor: str) -> None:
        for topic, left in list(self._left.items()):
            left.pings -= left.answered
            if not left.pings:
                del self._left[topic]
        positions = {each.topic: each.position for each in heard.positions}
        with suppress(CommandError):  # then it is no place to go by
            positions |= decode_cursor(cursor)
        for topic, position in positions.items():
            if topic in self._tracks:
                self._tracks[topic].move(position)
