"""RFC 6455 at the byte level: what is sent, and what must come back. The cases are those of the Autobahn test suite.

They run against the echo server in `tests/echo.py`, which is our transport and nothing else.
"""

from __future__ import annotations

import struct
from contextlib import suppress

import pytest
import trio
from attrs import field, frozen
from trio.testing import wait_all_tasks_blocked

from tests.echo import serve_echo
from tests.peers import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    WebSocketPeer,
    close_payload,
    connect,
    frame,
    upgrade_bytes,
)


@frozen
class Case:
    """What a client sends after the handshake, and everything that it gets until the server ends the connection."""

    name: str
    sent: bytes
    #: Opcode and payload of each frame; of a close only the code.
    answers: list[tuple[int, bytes | int | None]] = field(factory=list)


def text(payload: bytes, **options: int) -> bytes:
    return frame(TEXT, payload, **options)


#: Ends a case that the server has no reason to end.
BYE = frame(CLOSE, close_payload(1000))
BYE_ANSWER = (CLOSE, 1000)


def echoed(name: str, sent: bytes, *answers: tuple[int, bytes]) -> Case:
    """A case in which all is well."""
    return Case(name, sent + BYE, [*answers, BYE_ANSWER])


def refused(name: str, sent: bytes, code: int, *answers: tuple[int, bytes]) -> Case:
    """A case that the server ends with a close ``code``; what comes behind the offence is not answered any more."""
    return Case(name, sent + text(b"too late") + BYE, [*answers, (CLOSE, code)])


UNICODE = "κόσμε, \U0001f600, 你好".encode()
#: What is not UTF-8: a lone continuation, an overlong form, a surrogate, beyond the last code point, a cut sequence.
NOT_UTF8 = {
    "lone_continuation": b"\x80",
    "impossible_byte": b"\xfe",
    "overlong_slash": b"\xc0\xaf",
    "surrogate": b"\xed\xa0\x80",
    "beyond_unicode": b"\xf4\x90\x80\x80",
    "truncated_at_end": "κόσμ".encode()[:-1],
    "bad_in_the_middle": b"Hello-\xce\xba\xed\xa0\x80edited",
}

LENGTHS = [0, 1, 125, 126, 127, 128, 65535, 65536, 1 << 20]
RESERVED_OPCODES = [3, 4, 5, 6, 7, 11, 12, 13, 14, 15]
GOOD_CODES = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999]
BAD_CODES = [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535]

CASES = [
    # 1: lengths
    *(echoed(f"text_of_{size}_bytes", text(b"*" * size), (TEXT, b"*" * size)) for size in LENGTHS),
    *(echoed(f"binary_of_{size}_bytes", frame(BINARY, b"\xfe" * size), (BINARY, b"\xfe" * size)) for size in LENGTHS),
    refused("length_below_126_in_16_bits", text(b"x" * 125, length_form=126), 1002),
    refused("length_below_65536_in_64_bits", text(b"x" * 200, length_form=127), 1002),
    refused("length_with_top_bit", b"\x81\xff" + struct.pack("!Q", 1 << 63) + b"mask", 1002),
    # 2: pings and pongs
    *(
        echoed(f"ping_of_{size}_bytes", frame(PING, b"\xff" * size), (PONG, b"\xff" * size))
        for size in (0, 1, 124, 125)
    ),
    refused("ping_of_126_bytes", frame(PING, b"x" * 126), 1002),
    echoed("unsolicited_pong", frame(PONG, b"so there") + text(b"a"), (TEXT, b"a")),
    echoed("unsolicited_pong_of_125_bytes", frame(PONG, b"x" * 125) + frame(PING, b"p"), (PONG, b"p")),
    refused("pong_of_126_bytes", frame(PONG, b"x" * 126), 1002),
    echoed("ten_pings", b"".join(frame(PING, b"%d" % i) for i in range(10)), *((PONG, b"%d" % i) for i in range(10))),
    # 3: reserved bits
    *(refused(f"reserved_bits_{bits:03b}", text(b"x", rsv=bits), 1002) for bits in range(1, 8)),
    refused("reserved_bit_on_ping", frame(PING, b"x", rsv=4), 1002),
    refused("reserved_bit_after_a_message", text(b"a") + text(b"x", rsv=2), 1002, (TEXT, b"a")),
    # 4: reserved opcodes
    *(refused(f"reserved_opcode_{opcode}", frame(opcode, b"x"), 1002) for opcode in RESERVED_OPCODES),
    refused("reserved_opcode_after_a_message", text(b"a") + frame(3), 1002, (TEXT, b"a")),
    # 5: fragments
    echoed("two_fragments", text(b"ab", fin=False) + frame(CONTINUATION, b"cd"), (TEXT, b"abcd")),
    echoed("binary_fragments", frame(BINARY, b"ab", fin=False) + frame(CONTINUATION, b"cd"), (BINARY, b"abcd")),
    echoed(
        "fragments_of_no_bytes",
        text(b"", fin=False) + frame(CONTINUATION, b"", fin=False) + frame(CONTINUATION, b""),
        (TEXT, b""),
    ),
    echoed(
        "empty_fragment_in_the_middle",
        text(b"a", fin=False) + frame(CONTINUATION, b"", fin=False) + frame(CONTINUATION, b"b"),
        (TEXT, b"ab"),
    ),
    echoed(
        "ping_between_fragments",
        text(b"ab", fin=False) + frame(PING, b"p") + frame(CONTINUATION, b"cd"),
        (PONG, b"p"),
        (TEXT, b"abcd"),
    ),
    echoed(
        "pong_between_fragments",
        text(b"ab", fin=False) + frame(PONG, b"p") + frame(CONTINUATION, b"cd"),
        (TEXT, b"abcd"),
    ),
    echoed(
        "messages_around_fragments",
        text(b"1") + text(b"2", fin=False) + frame(CONTINUATION, b"3") + text(b"4"),
        (TEXT, b"1"),
        (TEXT, b"23"),
        (TEXT, b"4"),
    ),
    refused("fragmented_ping", frame(PING, b"x", fin=False) + frame(CONTINUATION, b"y"), 1002),
    refused("fragmented_pong", frame(PONG, b"x", fin=False), 1002),
    refused("fragmented_close", frame(CLOSE, close_payload(1000), fin=False), 1002),
    refused("continuation_of_nothing", frame(CONTINUATION, b"x"), 1002),
    refused("open_continuation_of_nothing", frame(CONTINUATION, b"x", fin=False), 1002),
    refused("text_inside_a_fragmented_text", text(b"a", fin=False) + text(b"b"), 1002),
    refused("binary_inside_a_fragmented_text", text(b"a", fin=False) + frame(BINARY, b"b"), 1002),
    refused("text_inside_a_fragmented_binary", frame(BINARY, b"a", fin=False) + text(b"b"), 1002),
    refused(
        "continuation_after_the_end",
        text(b"a", fin=False) + frame(CONTINUATION, b"b") + frame(CONTINUATION, b"c"),
        1002,
        (TEXT, b"ab"),
    ),
    # 6: UTF-8
    echoed("unicode", text(UNICODE), (TEXT, UNICODE)),
    echoed(
        "unicode_cut_within_a_character",
        text(UNICODE[:1], fin=False)
        + b"".join(frame(CONTINUATION, UNICODE[i : i + 1], fin=False) for i in range(1, len(UNICODE)))
        + frame(CONTINUATION),
        (TEXT, UNICODE),
    ),
    echoed("binary_that_is_not_utf8", frame(BINARY, b"\xff\xfe"), (BINARY, b"\xff\xfe")),
    *(refused(f"not_utf8_{name}", text(bad), 1007) for name, bad in NOT_UTF8.items()),
    *(
        refused(f"not_utf8_{name}_in_fragments", text(bad[:1], fin=False) + frame(CONTINUATION, bad[1:]), 1007)
        for name, bad in NOT_UTF8.items()
    ),
    # 7: close
    *(Case(f"close_{code}", frame(CLOSE, close_payload(code)), [(CLOSE, code)]) for code in GOOD_CODES),
    *(
        Case(f"close_{code}_which_is_not_for_the_wire", frame(CLOSE, close_payload(code)), [(CLOSE, 1002)])
        for code in BAD_CODES
    ),
    Case("close_without_a_code", frame(CLOSE), [(CLOSE, None)]),
    Case("close_with_half_a_code", frame(CLOSE, b"\x03"), [(CLOSE, 1002)]),
    Case("close_with_a_reason_of_123_bytes", frame(CLOSE, close_payload(1000, b"*" * 123)), [(CLOSE, 1000)]),
    Case("close_with_a_reason_of_124_bytes", frame(CLOSE, close_payload(1000, b"*" * 124)), [(CLOSE, 1002)]),
    Case("close_with_a_reason_that_is_not_utf8", frame(CLOSE, close_payload(1000, b"\xff\xff")), [(CLOSE, 1007)]),
    Case("data_after_close", BYE + text(b"more"), [BYE_ANSWER]),
    Case("ping_after_close", BYE + frame(PING, b"p"), [BYE_ANSWER]),
    Case("two_closes", BYE + frame(CLOSE, close_payload(1001)), [BYE_ANSWER]),
    Case("close_between_fragments", text(b"a", fin=False) + BYE, [BYE_ANSWER]),
    # masks
    refused("text_without_a_mask", text(b"x", masked=False), 1002),
    refused("ping_without_a_mask", frame(PING, b"x", masked=False), 1002),
    refused("close_without_a_mask", frame(CLOSE, close_payload(1000), masked=False), 1002),
    # many in one segment
    echoed(
        "a_thousand_messages_in_one_segment",
        b"".join(text(b"%d" % i) for i in range(1000)),
        *((TEXT, b"%d" % i) for i in range(1000)),
    ),
    echoed(
        "messages_pings_and_fragments_in_one_segment",
        (text(b"t") + frame(PING, b"p") + text(b"a", fin=False) + frame(CONTINUATION, b"b") + frame(BINARY, b"c")) * 50,
        *([(TEXT, b"t"), (PONG, b"p"), (TEXT, b"ab"), (BINARY, b"c")] * 50),
    ),
]
#: Byte by byte, with the server run in between, the others take long and tell no more.
SHORT = [case for case in CASES if len(case.sent) < 400]


async def answers_of(peer: WebSocketPeer) -> list[tuple[int, bytes | int | None]]:
    """Everything until the end of the connection, in the form of `Case.answers`."""
    answers: list[tuple[int, bytes | int | None]] = []
    try:
        while True:
            found = await peer.next_frame()
            if found.opcode == CLOSE:
                answers.append((CLOSE, struct.unpack("!H", found.payload[:2])[0] if found.payload else None))
                # A server waits a while for an answer that it understands, and after an offence it may not.
                with suppress(trio.BrokenResourceError):
                    await peer.raw.end_sending()
            else:
                answers.append((found.opcode, found.payload))
    except EOFError:
        return answers


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_frames_in_one_piece_are_answered_as_the_rfc_says(echo_port: int, case: Case) -> None:
    """What came in one segment is answered completely and in order, and the connection ends in order."""
    async with connect(echo_port) as raw:
        peer = WebSocketPeer(raw)
        await peer.upgrade(upgrade_bytes("/"))
        answers: list[tuple[int, bytes | int | None]] = []

        async def collect() -> None:
            answers.extend(await answers_of(peer))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(collect)
            await raw.send(case.sent)
        assert answers == case.answers
        assert not raw.was_reset


@pytest.mark.parametrize("case", SHORT, ids=lambda case: case.name)
async def test_frames_byte_by_byte_are_answered_as_the_rfc_says(echo_port: int, case: Case) -> None:
    """How bytes are cut into segments makes no difference."""
    async with connect(echo_port) as raw:
        peer = WebSocketPeer(raw)
        await peer.upgrade(upgrade_bytes("/"))
        for at in range(len(case.sent)):
            try:
                await raw.send(case.sent[at : at + 1])
            except trio.BrokenResourceError:
                break  # it has ended before we were through, as it may
            await wait_all_tasks_blocked()
        assert await answers_of(peer) == case.answers


async def test_message_at_the_limit_is_taken_one_byte_more_is_1009() -> None:
    """The limit is exact, for whole messages and for fragments that are too big only together."""
    async with trio.open_nursery() as nursery:
        port = await nursery.start(lambda task_status: serve_echo(max_message_bytes=1000, task_status=task_status))
        for sent, answers in (
            (text(b"x" * 1000) + BYE, [(TEXT, b"x" * 1000), BYE_ANSWER]),
            (text(b"x" * 1001), [(CLOSE, 1009)]),
            (frame(BINARY, b"x" * 1001), [(CLOSE, 1009)]),
            (text(b"x" * 600, fin=False) + frame(CONTINUATION, b"x" * 400) + BYE, [(TEXT, b"x" * 1000), BYE_ANSWER]),
            (text(b"x" * 600, fin=False) + frame(CONTINUATION, b"x" * 401), [(CLOSE, 1009)]),
            (text(b"x" * 600, fin=False) + frame(CONTINUATION, b"x" * 401, fin=False), [(CLOSE, 1009)]),
        ):
            async with connect(port) as raw:
                peer = WebSocketPeer(raw)
                await peer.upgrade(upgrade_bytes("/"))
                await raw.send(sent)
                if answers[-1] == (CLOSE, 1009):
                    await raw.end_sending()
                assert await answers_of(peer) == answers
        nursery.cancel_scope.cancel()


async def test_oversize_length_is_refused_before_its_payload_came(echo_port: int) -> None:
    """A header that announces 1 TiB is answered at once: nothing waits for such a payload, or makes room for it."""
    async with connect(echo_port) as raw:
        peer = WebSocketPeer(raw)
        await peer.upgrade(upgrade_bytes("/"))
        await raw.send(b"\x81\xff" + struct.pack("!Q", 1 << 40) + b"mask")
        assert (await peer.next_frame()).payload[:2] == struct.pack("!H", 1009)


async def test_first_frame_in_the_segment_of_the_upgrade_is_answered(echo_port: int) -> None:
    """Bytes behind the upgrade request belong to the first frame."""
    async with connect(echo_port) as raw:
        peer = WebSocketPeer(raw)
        await peer.upgrade(upgrade_bytes("/"), trailing=text(b"early") + text(b"cut")[:5])
        assert (await peer.next_frame()).payload == b"early"
        await raw.send(text(b"cut")[5:])
        assert (await peer.next_frame()).payload == b"cut"


async def test_server_close_waits_for_the_answer_and_then_ends(echo_port: int) -> None:
    """After a violation the server's close frame is followed by the end of the stream and by no reset."""
    async with connect(echo_port) as raw:
        peer = WebSocketPeer(raw)
        await peer.upgrade(upgrade_bytes("/"))
        await raw.send(text(b"\xff") + text(b"x" * 5000))
        assert await answers_of(peer) == [(CLOSE, 1007)]
        assert not raw.was_reset


# -- the handshake, against the whole server -------------------------------------------------------------------


async def test_upgrade_is_answered_with_the_accept_key_of_the_rfc(port: int) -> None:
    """The example of RFC 6455, section 1.3."""
    async with connect(port) as raw:
        peer = WebSocketPeer(raw)
        await peer.upgrade(
            upgrade_bytes(headers=["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="], without=["Sec-WebSocket-Key"])
        )
        assert b"sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=" in peer.answer.lower()


@pytest.mark.parametrize(
    ("request_bytes", "statuses"),
    [
        pytest.param(upgrade_bytes(without=["Sec-WebSocket-Key"]), {400}, id="no_key"),
        pytest.param(upgrade_bytes(without=["Sec-WebSocket-Version"]), {400, 426}, id="no_version"),
        pytest.param(
            upgrade_bytes(without=["Sec-WebSocket-Version"], headers=["Sec-WebSocket-Version: 8"]),
            {400, 426},
            id="old_version",
        ),
        pytest.param(upgrade_bytes(without=["Upgrade"], headers=["Upgrade: websockets"]), {426}, id="bad_upgrade"),
        pytest.param(upgrade_bytes(without=["Connection"]), {426}, id="no_connection_header"),
        pytest.param(upgrade_bytes().replace(b"GET", b"POST", 1), {400, 405}, id="post"),
        pytest.param(upgrade_bytes().replace(b"HTTP/1.1", b"HTTP/1.0", 1), {400, 426, 505}, id="http_1_0"),
        pytest.param(upgrade_bytes(without=["Host"]), {400}, id="no_host"),
        pytest.param(upgrade_bytes("/other"), {403, 404}, id="other_path"),
    ],
)
async def test_faulty_upgrade_is_refused_by_http(port: int, request_bytes: bytes, statuses: set[int]) -> None:
    """An upgrade that is not in order gets an HTTP error, and the server goes on."""
    async with connect(port) as raw:
        await raw.send(request_bytes)
        assert (await raw.read_response()).status in statuses
    async with connect(port) as raw:
        await WebSocketPeer(raw).upgrade(upgrade_bytes())


async def test_key_that_is_not_16_bytes_is_refused_or_hashed_as_it_is(port: int) -> None:
    """A short key is no danger; whatever the answer, it is one HTTP response."""
    async with connect(port) as raw:
        await raw.send(upgrade_bytes(without=["Sec-WebSocket-Key"], headers=["Sec-WebSocket-Key: short"]))
        assert (await raw.read_until(b"\r\n")).startswith((b"HTTP/1.1 400", b"HTTP/1.1 101"))
