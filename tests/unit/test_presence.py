"""Who is here, and what is told of it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import trio
import trio.testing
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from realtime.errors import CommandError, ErrorCode
from realtime.presence import COUNT_WINDOW, MOST_SINGLES, PRESENCE_WINDOW, TURN_MEMBERS, Member, Presence
from realtime.topics import Kind, PresenceBy, PresenceMode

TOPIC = "room:a"


class Node:
    """A presence whose clock is set by hand, and all that it has told."""

    def __init__(self, **options: Any) -> None:
        self.kind = Kind(**{"name": "room", "presence": PresenceMode.MEMBERS, **options})
        self.time = 0.0
        self.presence = Presence(self._tell, now=lambda: self.time)
        self.told: list[tuple[dict[str, Any], str | None]] = []

    def _tell(self, topic: str, kind: str, push: dict[str, Any], *, but: str | None = None) -> None:
        assert (push["topic"], push["type"]) == (topic, kind)
        self.told.append((push, but))

    def enter(self, connection: str, user: str | None = None, topic: str = TOPIC) -> None:
        self.presence.enter(topic, self.kind, Member(user, connection))

    def leave(self, connection: str, *, lost: bool = False) -> None:
        self.presence.leave(TOPIC, connection, lost=lost)

    def lose(self, connection: str) -> None:
        self.leave(connection, lost=True)

    def due(self) -> float:
        return min(self.presence._windows.next(), self.presence._lingering.next())

    def advance(self, seconds: float) -> None:
        """Do what becomes due, each thing in its time."""
        end = self.time + seconds
        while (due := self.due()) <= end:
            self.time = max(self.time, due)
            self.presence._turn()
        self.time = end

    def take(self) -> list[str]:
        """What was told since the last time, in short."""
        told, self.told = self.told, []
        words = []
        for push, _ in told:
            if push["type"] == "presence":
                words.append(f"{push['count']}: +{push['joined']} -{push['left']}")
            else:
                member = push["member"]
                words.append(f"{push['type']} {member.user or ''}@{member.connection}")
        return words

    def settle(self) -> list[str]:
        """What is told until nothing is under way."""
        self.advance(self.kind.presence_linger_seconds + 2 * COUNT_WINDOW)
        return self.take()

    def shown(self) -> list[str]:
        return [
            f"{member.user or ''}@{member.connection}" for member in self.presence.members(TOPIC, None, 1000).members
        ]


# -- one by one ----------------------------------------------------------------------------------------------


def test_join_and_leave_are_told_after_a_window():
    """Each with the member, and the join not to the member itself."""
    node = Node()
    node.presence.enter(TOPIC, node.kind, Member("7", "c1", {"name": "Ann"}))
    node.advance(PRESENCE_WINDOW / 2)
    assert node.told == []
    node.advance(PRESENCE_WINDOW / 2)
    member = Member("7", "c1", {"name": "Ann"})
    assert node.told == [({"type": "join", "topic": TOPIC, "member": member}, "c1")]
    node.leave("c1")
    node.advance(PRESENCE_WINDOW)
    assert node.told[1:] == [({"type": "leave", "topic": TOPIC, "member": member}, None)]


def test_member_on_the_wire_says_also_that_it_is_anonymous():
    """All three members of the object are always there."""
    assert msgspec.json.encode(Member(None, "c1")) == b'{"user":null,"connection":"c1","info":{}}'


def test_join_and_leave_within_a_window_cancel_out():
    """In either order nothing is told."""
    node = Node()
    node.enter("c1")
    node.leave("c1")
    assert node.settle() == []
    node.enter("c1")
    assert node.settle() == ["join @c1"]
    node.leave("c1")
    node.enter("c1")
    assert node.settle() == []
    assert node.presence.statistics().joins == 1


def test_news_of_one_window_is_told_in_order():
    """Of several members, as they came and went."""
    node = Node()
    node.enter("c1")
    node.settle()
    node.enter("c2", "7")
    node.leave("c1")
    node.enter("c3")
    assert node.settle() == ["join 7@c2", "leave @c1", "join @c3"]


def test_leave_of_a_stranger_is_nothing():
    """Neither in a topic without members nor in another."""
    node = Node()
    node.leave("c1")
    node.enter("c2")
    node.lose("c1")
    assert node.settle() == ["join @c2"]


def test_kind_without_presence_keeps_nothing():
    """Not even for a moment."""
    node = Node(presence=PresenceMode.NONE, max_members=1)
    node.enter("c1")
    node.enter("c2")
    assert node.due() == float("inf")
    assert node.presence.statistics().topics == node.presence.count(TOPIC) == 0
    node.leave("c1")


# -- users and connections -----------------------------------------------------------------------------------


def test_user_on_three_connections_is_one_member():
    """It joins with the first and leaves with the last; what is shown is the oldest connection that is there."""
    node = Node()
    for connection in ("c1", "c2", "c3"):
        node.enter(connection, "7")
    assert node.settle() == ["join 7@c1"]
    assert node.presence.count(TOPIC) == 1
    node.leave("c2")
    assert node.shown() == ["7@c1"]
    node.leave("c1")
    assert node.shown() == ["7@c3"]
    assert node.settle() == []
    node.leave("c3")
    assert node.settle() == ["leave 7@c3"]


def test_join_shows_a_connection_that_is_there_when_it_is_told():
    """The one that brought the user may have gone within the window."""
    node = Node()
    node.enter("c1", "7")
    node.enter("c2", "7")
    node.leave("c1")
    assert node.settle() == ["join 7@c2"]


def test_kind_by_connection_counts_each_connection():
    """Also those of one user."""
    node = Node(presence_by=PresenceBy.CONNECTION)
    node.enter("c1", "7")
    node.enter("c2", "7")
    assert node.settle() == ["join 7@c1", "join 7@c2"]
    node.leave("c1")
    assert node.settle() == ["leave 7@c1"]


def test_anonymous_peer_is_not_the_user_called_like_its_connection():
    """Names of users and of connections do not mix."""
    node = Node()
    node.enter("c1")
    node.enter("c2", "c1")
    assert node.presence.count(TOPIC) == 2
    node.leave("c1")
    assert node.shown() == ["c1@c2"]


# -- lingering -----------------------------------------------------------------------------------------------


def test_lost_member_lingers_before_its_leave_is_told():
    """It is listed and counted until then."""
    node = Node()
    node.enter("c1", "7")
    node.settle()
    node.lose("c1")
    node.advance(2.9)
    assert (node.shown(), node.presence.count(TOPIC)) == (["7@c1"], 1)
    node.advance(0.1)
    assert (node.shown(), node.take()) == ([], [])
    node.advance(PRESENCE_WINDOW)
    assert node.take() == ["leave 7@c1"]


def test_member_that_comes_back_while_it_lingers_is_not_told():
    """Only the list shows its new connection, and later losses linger anew."""
    node = Node()
    node.enter("c1", "7")
    node.settle()
    node.lose("c1")
    node.advance(2)
    node.enter("c2", "7")
    assert node.shown() == ["7@c2"]
    assert node.settle() == []
    node.lose("c2")
    node.advance(2.9)
    assert node.shown() == ["7@c2"]
    assert node.settle() == ["leave 7@c2"]


def test_last_connection_decides_whether_a_member_lingers():
    """Who says goodbye on one device is gone, though another was lost a moment before."""
    node = Node()
    node.enter("c1", "7")
    node.enter("c2", "7")
    node.settle()
    node.lose("c1")
    node.leave("c2")
    node.advance(PRESENCE_WINDOW)
    assert node.take() == ["leave 7@c2"]


def test_kind_without_linger_tells_a_loss_at_once():
    """After the window, that is."""
    node = Node(presence_linger_seconds=0)
    node.enter("c1")
    node.settle()
    node.lose("c1")
    assert node.presence.count(TOPIC) == 0
    node.advance(PRESENCE_WINDOW)
    assert node.take() == ["leave @c1"]


# -- storms --------------------------------------------------------------------------------------------------


def test_more_changes_than_a_few_are_told_as_a_count():
    """To everybody: those who came have to read the list, too."""
    node = Node()
    for number in range(MOST_SINGLES):
        node.enter(f"c{number}")
    assert len(node.settle()) == MOST_SINGLES
    for number in range(MOST_SINGLES):
        node.leave(f"c{number}")
    node.enter("last")
    node.advance(PRESENCE_WINDOW)
    push = {"type": "presence", "topic": TOPIC, "count": 1, "joined": 1, "left": MOST_SINGLES}
    assert node.told == [(push, None)]


def test_topic_with_many_members_is_told_by_counts_once_a_second():
    """And one by one again when there are few."""
    node = Node(presence_told_members=2)
    for connection in ("c1", "c2"):
        node.enter(connection)
    node.settle()
    node.enter("c3")
    node.advance(COUNT_WINDOW * 0.9)
    node.enter("c4")
    assert node.take() == []
    assert node.settle() == ["4: +2 -0"]
    node.leave("c4")
    assert node.settle() == ["3: +0 -1"]
    node.leave("c3")
    assert node.settle() == ["leave @c3"]


def test_kind_count_tells_numbers_only():
    """However few they are; nothing where nothing changed in the end."""
    node = Node(presence=PresenceMode.COUNT)
    node.enter("c1")
    node.advance(PRESENCE_WINDOW)
    assert node.take() == []
    assert node.settle() == ["1: +1 -0"]
    node.enter("c2")
    node.leave("c2")
    assert node.settle() == []
    node.leave("c1")
    assert node.settle() == ["0: +0 -1"]


def test_ten_thousand_that_come_and_are_lost_are_two_pushes():
    """And no task, no deadline, no state is left of them."""
    node = Node()
    for number in range(10_000):
        node.enter(f"c{number}", str(number))
    assert node.settle() == ["10000: +10000 -0"]
    for number in range(10_000):
        node.lose(f"c{number}")
    assert node.settle() == ["0: +0 -10000"]
    assert node.presence._rooms == {}


# -- the list ------------------------------------------------------------------------------------------------


def test_change_that_was_in_a_list_is_told_though_it_was_undone():
    """Whoever read the list within the window would keep a ghost, or miss a member, for ever."""
    node = Node()
    node.enter("c1", "7")
    assert node.shown() == ["7@c1"]
    node.leave("c1")
    assert node.settle() == ["0: +1 -1"]


def test_pages_list_every_member_once_in_order():
    """Members who come or go between two pages move nobody else."""
    node = Node()
    for number in range(5):
        node.enter(f"c{number}")
    first = node.presence.members(TOPIC, None, 2)
    node.leave("c0")
    node.leave("c3")
    node.enter("c5")
    second = node.presence.members(TOPIC, first.next, 2)
    third = node.presence.members(TOPIC, second.next, 2)
    assert [[member.connection for member in page.members] for page in (first, second, third)] == [
        ["c0", "c1"],
        ["c2", "c4"],
        ["c5"],
    ]
    assert [page.count for page in (first, second, third)] == [5, 4, 4]
    assert third.next is None


def test_page_that_just_fits_is_the_last():
    """No empty page follows."""
    node = Node()
    node.enter("c1")
    node.enter("c2")
    assert node.presence.members(TOPIC, None, 2).next is None


def test_key_of_a_forgotten_topic_hides_nobody_of_its_next_life():
    """Whose members have come after all that the reader has seen."""
    node = Node()
    for number in range(3):
        node.enter(f"c{number}")
    key = node.presence.members(TOPIC, None, 2).next
    for number in range(3):
        node.leave(f"c{number}")
    node.settle()
    node.enter("c9")
    assert [member.connection for member in node.presence.members(TOPIC, key, 2).members] == ["c9"]


@pytest.mark.parametrize("after", ["", "x", "9" * 5000])
def test_key_that_no_page_gave_is_refused(after):
    """Whether or not the topic has members."""
    with pytest.raises(CommandError) as caught:
        Node().presence.members(TOPIC, after, 10)
    assert caught.value.code is ErrorCode.BAD_REQUEST


def test_topic_without_members_has_an_empty_list():
    """Asking does not make it known."""
    presence = Node().presence
    assert presence.members(TOPIC, None, 10).members == []
    assert presence.statistics().topics == 0


# -- bounds --------------------------------------------------------------------------------------------------


def test_full_topic_refuses_new_members_only():
    """Not another connection of one who is here, nor one who comes back."""
    node = Node(max_members=2)
    node.enter("c1", "1")
    node.enter("c2", "2")
    node.enter("c3", "2")
    node.lose("c1")
    with pytest.raises(CommandError) as caught:
        node.enter("c4", "4")
    assert caught.value.code is ErrorCode.LIMIT_EXCEEDED
    node.leave("c4")
    node.enter("c5", "1")
    assert node.shown() == ["1@c5", "2@c2"]
    node.leave("c5")
    node.enter("c6", "4")
    assert node.shown() == ["2@c2", "4@c6"]


def test_member_that_comes_and_goes_leaves_no_deadlines_behind():
    """A long linger would keep them for an hour."""
    node = Node(presence_linger_seconds=3600)
    for _ in range(100):
        node.enter("c1", "7")
        node.lose("c1")
        node.enter("c2", "7")
        node.leave("c2")
    node.advance(COUNT_WINDOW)
    assert node.due() == float("inf")
    assert node.presence._rooms == {}


def test_many_who_stop_lingering_do_not_hold_up_others():
    """A turn ends some; the next goes on."""
    node = Node()
    for number in range(TURN_MEMBERS + 1):
        node.enter(f"c{number}")
    node.settle()
    for number in range(TURN_MEMBERS + 1):
        node.lose(f"c{number}")
    node.time = node.due()
    node.presence._turn()
    assert node.presence.count(TOPIC) == 1


def test_statistics_count_members_and_what_was_told():
    """Singles and counts alike; what lingers is still a member."""
    node = Node()
    node.enter("c1")
    node.enter("c2", topic="room:b")
    node.settle()
    node.lose("c1")
    statistics = node.presence.statistics()
    assert (statistics.topics, statistics.members, statistics.joins, statistics.leaves) == (2, 2, 2, 0)
    node.settle()
    statistics = node.presence.statistics()
    assert (statistics.topics, statistics.members, statistics.joins, statistics.leaves) == (1, 1, 2, 1)


# -- the task ------------------------------------------------------------------------------------------------


@pytest.fixture
async def live(nursery):
    """A presence that runs, and what it told when. A test has to name the clock itself for its time to be virtual."""
    told: list[tuple[float, str, str]] = []
    began = trio.current_time()

    def tell(topic: str, kind: str, push: dict[str, Any], *, but: str | None = None) -> None:
        told.append((round(trio.current_time() - began, 3), topic, kind))

    presence = Presence(tell)
    await nursery.start(presence.run)
    return presence, told


ROOM = Kind(name="room", presence=PresenceMode.MEMBERS)
CROWD = Kind(name="crowd", presence=PresenceMode.COUNT)


async def test_task_tells_each_thing_in_its_time(autojump_clock, live):
    """What comes later but is due earlier wakes it from its sleep."""
    presence, told = live
    presence.enter("crowd:a", CROWD, Member(None, "c1"))
    await trio.sleep(0.5)
    presence.enter(TOPIC, ROOM, Member(None, "c2"))
    await trio.sleep(1)
    presence.leave(TOPIC, "c2", lost=True)
    await trio.sleep(1)
    presence.enter("room:b", ROOM, Member(None, "c3"))
    await trio.sleep(10)
    assert told == [
        (0.6, TOPIC, "join"),
        (1.0, "crowd:a", "presence"),
        (2.6, "room:b", "join"),
        (4.6, TOPIC, "leave"),
    ]


async def test_loss_wakes_a_task_that_has_nothing_to_do(autojump_clock, live):
    """Nothing else happens that would."""
    presence, told = live
    presence.enter(TOPIC, ROOM, Member(None, "c1"))
    await trio.sleep(10)
    presence.leave(TOPIC, "c1", lost=True)
    await trio.sleep(10)
    assert told == [(0.1, TOPIC, "join"), (13.1, TOPIC, "leave")]


async def test_task_lets_others_run_between_two_topics(autojump_clock, live):
    """A thousand topics that are due at once do not stop the server."""
    presence, told = live
    for number in range(10):
        presence.enter(f"room:{number}", ROOM, Member(None, "c1"))
    await trio.sleep(PRESENCE_WINDOW)
    seen = []
    while len(told) < 10:
        seen.append(len(told))
        await trio.lowlevel.checkpoint()
    assert seen == sorted(seen)
    assert len(set(seen)) >= 4  # each number at most twice: which task goes first is left to chance


async def test_changes_made_before_the_task_runs_are_told_when_it_does(autojump_clock, nursery):
    """The order in which a server starts its parts does not matter."""
    told = []
    presence = Presence(lambda topic, kind, push, *, but=None: told.append(kind))
    presence.enter(TOPIC, ROOM, Member(None, "c1"))
    await trio.sleep(5)
    await nursery.start(presence.run)
    await trio.testing.wait_all_tasks_blocked()
    assert told == ["join"]


# -- all together --------------------------------------------------------------------------------------------

#: Strangers, and users with three devices each. More of them than are told one by one.
USERS = {
    **{f"s{number}": None for number in range(6)},
    **{f"d{number}": f"u{number // 3}" for number in range(12)},
}
#: Which of those whom a rule may choose from; unlike a name it always hits one.
PICK = st.integers(0, len(USERS) - 1)


class Machine(RuleBasedStateMachine):
    """Witnesses who follow the news, against a plain account of who is here."""

    @initialize(
        presence=st.sampled_from([PresenceMode.MEMBERS, PresenceMode.COUNT]),
        by=st.sampled_from(PresenceBy),
        linger=st.sampled_from([0.0, 0.05, 3.0]),
        told_members=st.sampled_from([0, 2, 100]),
        max_members=st.sampled_from([None, 4]),
    )
    def begin(self, presence, by, linger, told_members, max_members):
        self.node = Node(
            presence=presence,
            presence_by=by,
            presence_linger_seconds=linger,
            presence_told_members=told_members,
            max_members=max_members,
        )
        #: Of each member its connections, or when it stops lingering.
        self.here: dict[Any, set[str] | float] = {}
        #: The list as each connection that is here would show it, and an onlooker's (None).
        self.screens: dict[str | None, set[Any]] = {None: set()}
        #: Whom the onlooker was told of one by one, since it last had to read the list.
        self.joined: set[Any] = set()
        self.handled = 0

    def key(self, member: Member) -> Any:
        """How a client tells members apart."""
        if self.node.kind.presence_by is PresenceBy.USER and member.user is not None:
            return "user", member.user
        return "connection", member.connection

    def key_of(self, connection: str) -> Any:
        return self.key(Member(USERS[connection], connection))

    def read(self) -> set[Any]:
        keys, after = [], None
        while True:
            page = self.node.presence.members(TOPIC, after, 2)
            keys += map(self.key, page.members)
            after = page.next
            if after is None:
                break
        assert len(keys) == len(set(keys)) == page.count
        return set(keys)

    def connected(self) -> set[str]:
        return set().union(*(state for state in self.here.values() if isinstance(state, set)))

    def hear(self) -> None:
        """Every screen follows what was told to its connection."""
        news, self.handled = self.node.told[self.handled :], len(self.node.told)
        for push, but in news:
            kind = push["type"]
            if kind == "presence":
                assert push["count"] == self.node.presence.count(TOPIC)
                assert push["joined"] or push["left"]
                now = self.read()
                self.screens = dict.fromkeys(self.screens, now)
                self.joined = set(now)
                continue
            assert self.node.kind.presence is PresenceMode.MEMBERS
            key = self.key(push["member"])
            assert (key in self.joined) == (kind == "leave"), "told twice"
            self.joined ^= {key}
            for connection, screen in self.screens.items():
                if connection is None or connection != but:
                    self.screens[connection] = screen | {key} if kind == "join" else screen - {key}

    def step(self, seconds: float) -> None:
        node = self.node
        end = node.time + seconds
        while (due := node.due()) <= end:
            node.advance(max(0.0, due - node.time))
            self.hear()
        node.advance(end - node.time)
        self.here = {key: state for key, state in self.here.items() if isinstance(state, set) or state > node.time}

    def absent(self) -> list[str]:
        return sorted(USERS.keys() - self.connected())

    def enter(self, connection: str, *, reads: bool) -> None:
        key = self.key_of(connection)
        most = self.node.kind.max_members
        if key not in self.here and most is not None and len(self.here) >= most:
            with pytest.raises(CommandError):
                self.node.enter(connection, USERS[connection])
            return
        self.node.enter(connection, USERS[connection])
        state = self.here.get(key)
        self.here[key] = {connection} | (state if isinstance(state, set) else set())
        self.screens[connection] = self.read() if reads else self.screens[None] | {key}

    def leave(self, connection: str, *, lost: bool) -> None:
        self.node.leave(connection, lost=lost)
        key = self.key_of(connection)
        state = self.here[key]
        assert isinstance(state, set)
        del self.screens[connection]
        state.remove(connection)
        if not state:
            linger = self.node.kind.presence_linger_seconds
            if lost and linger:
                self.here[key] = self.node.time + linger
            else:
                del self.here[key]

    @precondition(lambda self: self.absent())
    @rule(pick=PICK, reads=st.booleans())
    def one_enters(self, pick, reads):
        """It reads the list at once, or goes on with one that it has, say from the server's page."""
        absent = self.absent()
        self.enter(absent[pick % len(absent)], reads=reads)

    @precondition(lambda self: self.connected())
    @rule(pick=PICK, lost=st.booleans())
    def one_leaves(self, pick, lost):
        connected = sorted(self.connected())
        self.leave(connected[pick % len(connected)], lost=lost)

    @rule()
    def all_enter(self):
        for connection in self.absent():
            self.enter(connection, reads=False)

    @rule(lost=st.booleans())
    def all_leave(self, lost):
        for connection in sorted(self.connected()):
            self.leave(connection, lost=lost)

    @rule(seconds=st.sampled_from([0.01, 0.05, 0.1, 0.5, 1.0, 2.9]))
    def wait(self, seconds):
        self.step(seconds)

    @precondition(lambda self: self.connected())
    @rule(pick=PICK)
    def one_looks(self, pick):
        """A peer reads the list in the middle of things."""
        connected = sorted(self.connected())
        self.screens[connected[pick % len(connected)]] = self.read()

    @rule()
    def fall_silent(self):
        self.step(10)
        assert self.node.due() == float("inf")
        for connection, screen in self.screens.items():
            assert screen == set(self.here), connection
        assert self.joined == set(self.here)

    def teardown(self):
        if hasattr(self, "node"):
            self.fall_silent()

    @invariant()
    def list_is_right_at_every_moment(self):
        assert self.node.presence.count(TOPIC) == len(self.here)
        room = self.node.presence._rooms.get(TOPIC)
        if room is None:
            assert not self.here
            return
        # `members` would do, but to read the list is to have seen its changes.
        connected = self.connected()
        assert room.by_connection.keys() == connected
        for seat in room.seats.values():
            assert self.key(seat.shown) in self.here
            assert not seat.connections or seat.shown.connection in connected

    @invariant()
    def topic_without_members_or_news_is_forgotten(self):
        room = self.node.presence._rooms.get(TOPIC)
        assert room is None or room.seats or room.collecting


TestMachine = Machine.TestCase
