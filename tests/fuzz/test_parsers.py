"""Whatever comes from outside, only the errors that are meant for it come out."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.errors import CommandError, ProtocolViolation, RealtimeError
from realtime.history import decode_cursor, encode_cursor
from realtime.json_depth import exceeds_depth
from realtime.messages import Command, compact, decode_command, decode_wish, encode
from realtime.routes import Route, Routes, Transport
from realtime.topics import Kinds
from realtime.views import View
from realtime.wishes import Subscribe
from tests.tools import publication
from transports.frames import CLOSE, TEXT, close_frame, read_header, text_frame, unmask
from transports.head import BadHead, parse_head

CORPUS = Path(__file__).parent / "corpus"


def corpus(name: str) -> list[bytes]:
    """The samples of one kind."""
    samples = [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]
    assert samples
    return samples


def mutated(samples: list[bytes]) -> st.SearchStrategy[bytes]:
    """A sample, cut and changed in a place or two."""

    def change(sample: bytes, at: int, drop: int, insert: bytes) -> bytes:
        at %= len(sample) + 1
        return sample[:at] + insert + sample[at + drop :]

    once = st.builds(change, st.sampled_from(samples), st.integers(0, 2000), st.integers(0, 20), st.binary(max_size=8))
    return st.one_of(
        st.sampled_from(samples), once, st.builds(change, once, st.integers(0, 2000), st.just(1), st.just(b""))
    )


def depth(value: object) -> int:
    """How deep a value is nested, by walking it."""
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


def check_depth(text: bytes, most: int) -> None:
    """What is said of its depth before it is decoded is true, or it cannot be decoded."""
    exceeds = exceeds_depth(text, most)
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    assert exceeds is (depth(value) > most)


def check_command(text: bytes) -> None:
    """Decode, and use what was decoded as the server does."""
    try:
        command = decode_command(text)
    except RealtimeError as error:
        assert isinstance(error, CommandError | ProtocolViolation)
        if isinstance(error, CommandError):
            encode({"id": error.command_id, "message": error.message})
        return
    assert isinstance(command, Command)
    encode({"id": command.id})
    data = getattr(command, "data", None)
    if data is not None:
        found = publication(1, data=bytes(data))
        View.of(["a"]).text(found)
        try:
            assert b"\n" not in compact(found.data)
        except CommandError:
            pass


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
names = [
    "id",
    "topic",
    "fields",
    "mode",
    "recover",
    "data",
    "event",
    "key",
    "token",
    "limit",
    "after",
    "commands",
    "filter",
    "max_rate",
    "echo",
    "idempotency_key",
    "cursor",
    "action",
    "payload",
    "trace_id",
    "timeout",
]
kinds = [command.__struct_config__.tag for command in Command.__args__]
shaped = st.builds(
    lambda kind, members: msgspec.json.encode({"type": kind, **members}),
    st.sampled_from([*kinds, "teleport"]),
    st.dictionaries(
        st.sampled_from(names),
        json_like,
        max_size=6,
    ),
)


@pytest.mark.parametrize("text", corpus("commands"))
def test_command_of_the_corpus_is_decoded_or_refused(text):
    """Samples that were once trouble, and good ones."""
    check_command(text)
    check_depth(text, 64)


@given(
    st.one_of(
        mutated(corpus("commands")),
        st.text('[]{}"\\,:1a', max_size=40).map(str.encode),
        st.lists(st.recursive(st.text('[{"\\}]', max_size=4), st.lists, max_leaves=4)).map(msgspec.json.encode),
    ),
    st.integers(0, 4) | st.just(64),
)
def test_depth_of_any_bytes_is_told_or_they_are_no_json(text, most):
    """A bomb of brackets is never taken for something flat, nor a text that only speaks of brackets for a bomb."""
    check_depth(text, most)


@given(st.one_of(st.binary(max_size=100), mutated(corpus("commands")), shaped))
def test_any_bytes_for_a_command_are_decoded_or_refused(text):
    """Nothing but `CommandError` and `ProtocolViolation` comes out, and both can be told to the peer."""
    check_command(text)


@given(st.one_of(st.binary(max_size=60), mutated(corpus("commands"))))
def test_any_bytes_for_a_subscribe_object_are_decoded_or_refused(text):
    """A URL is as free as a message."""
    try:
        Subscribe.of(decode_wish(text))
    except CommandError as error:
        encode({"message": error.message})


ROUTES = Routes([Route(path="/a/{kind}/{name}", topic="{kind}:{name}", transport="sse")])


@given(st.one_of(st.text(max_size=40), st.builds("/a/{}/{}".format, st.sampled_from(["room", "x"]), st.text())))
def test_any_path_leads_to_a_topic_or_nowhere(path):
    """The topic is made of parts of the path, and its kind says whether there can be such a one."""
    binding = ROUTES.find(path, Transport.SSE)
    if binding is None:
        return
    assert binding.topic == ":".join(path.removeprefix("/a/").split("/"))
    try:
        Kinds().split(binding.topic)
    except CommandError as error:
        encode({"message": error.message})


def check_cursor(text: str) -> None:
    """Decode; what was decoded is written and read again."""
    try:
        positions = decode_cursor(text)
    except CommandError as error:
        encode({"message": error.message})
        return
    assert all(at.offset >= 0 and str(at.offset) in text for at in positions.values())
    assert decode_cursor(encode_cursor(positions)) == positions


@pytest.mark.parametrize("text", corpus("cursors"))
def test_cursor_of_the_corpus_is_decoded_or_refused(text):
    """Good ones, and some of which each is wrong in a way of its own."""
    check_cursor(text.decode("latin-1"))


@given(st.one_of(st.text(max_size=60), mutated(corpus("cursors")).map(lambda raw: raw.decode("latin-1"))))
def test_any_text_for_a_cursor_is_decoded_or_refused(text):
    """A header can hold anything."""
    check_cursor(text)


def check_head(head: bytes) -> None:
    """Parse, and see that there is one way only to read what was parsed."""
    head = head.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    try:
        request = parse_head(head)
        request.query()
    except BadHead as error:
        assert 400 <= error.status < 600
        return
    assert request.target.startswith("/")
    assert request.raw == head
    assert isinstance(request.wants_websocket, bool)
    assert request.header(b"no-such-header") is None or b"no-such-header" in head.lower()
    # Where the body ends, and whose it is, is what a proxy in front must see as we do.
    names = [name for name, _ in request.headers]
    assert b"\n" not in head.replace(b"\r\n", b"")
    assert not any(set(value) & set(b"\r\n\0") for _, value in request.headers)
    assert max(map(names.count, [b"host", b"content-length", b"transfer-encoding", b"authorization", b"origin"])) <= 1
    if b"transfer-encoding" in names:
        assert request.length is None
        assert b"content-length" not in names
        assert request.header(b"transfer-encoding").lower() == "chunked"
    else:
        assert str(request.length) == (request.header(b"content-length") or "0").lstrip("0") or request.length == 0


@pytest.mark.parametrize("head", corpus("heads"))
def test_head_of_the_corpus_is_parsed_or_refused(head):
    """The same as below."""
    check_head(head)


@pytest.mark.parametrize("path", sorted((CORPUS / "heads").glob("smuggle*")), ids=lambda path: path.name)
def test_head_that_two_readers_may_understand_differently_is_refused(path):
    """How requests are smuggled past a proxy."""
    with pytest.raises(BadHead):
        parse_head(path.read_bytes())


def test_old_request_with_a_chunked_body_is_the_last_of_its_connection():
    """Proxies that know no chunks see another end of it (RFC 9112, 6.1)."""
    assert not parse_head((CORPUS / "heads" / "old-chunked").read_bytes()).keep_alive


@given(st.one_of(st.binary(min_size=1, max_size=200), mutated(corpus("heads"))))
def test_any_bytes_for_a_request_head_are_parsed_or_refused(head):
    """Nothing but `BadHead` comes out, with a status of HTTP; what is parsed can be asked anything."""
    check_head(head)


@given(st.one_of(st.binary(max_size=40), mutated(corpus("frames"))), st.integers(0, 5))
def test_any_bytes_for_a_frame_header_are_understood_or_incomplete(data, at):
    """A header is told as soon as it is complete, and never reaches past what came."""
    header = read_header(data, at)
    if header is None:
        assert len(data) - at < 14
        return
    assert 2 <= header.size <= 14
    assert at + header.size <= len(data)
    assert 0 <= header.length < 1 << 64
    assert read_header(data[: at + header.size - 1], at) is None


@given(st.binary(max_size=70_000), st.binary(min_size=4, max_size=4))
def test_masked_payload_comes_back(payload, mask):
    """Masking and unmasking is the identity."""
    masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload[:300]))
    assert unmask(b"head" + mask + masked, 4, len(masked)) == payload[:300]


@given(st.integers(0, 70_000))
def test_text_frame_is_read_back(length):
    """Each of the three forms of length is the shortest."""
    frame = text_frame(b"x" * length)
    header = read_header(frame, 0)
    assert (header.opcode, header.fin, header.length, header.size + length) == (TEXT, True, length, len(frame))
    assert not header.control


@given(st.integers(1000, 4999), st.text(max_size=200))
def test_close_frame_fits_a_control_frame(code, text):
    """Whatever the reason says."""
    frame = close_frame(code, text)
    header = read_header(frame, 0)
    assert (header.opcode, header.control) == (CLOSE, True)
    assert header.length <= 125
    assert int.from_bytes(frame[2:4]) == code
