"""What comes from a server, cut into messages."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.cli.bench.splitting import PING, TEXT, EventSplitter, FrameSplitter, pong


def frame(opcode: int, payload: bytes) -> bytes:
    """As a server writes it."""
    size = len(payload)
    if size < 126:
        length = bytes((size,))
    elif size < 1 << 16:
        length = b"\x7e" + size.to_bytes(2)
    else:
        length = b"\x7f" + size.to_bytes(8)
    return bytes((0x80 | opcode,)) + length + payload


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536])
def test_frame_of_any_size_comes_out_whole(size: int) -> None:
    """All three ways to write a length."""
    assert list(FrameSplitter().feed(frame(TEXT, b"x" * size))) == [(TEXT, b"x" * size)]


@given(st.lists(st.integers(0, 300), max_size=5), st.lists(st.integers(0, 900), max_size=6))
def test_frames_do_not_depend_on_how_they_were_cut(sizes: list[int], cuts: list[int]) -> None:
    """Bytes come in any pieces."""
    frames = [(PING if size % 2 else TEXT, bytes([size % 256]) * size) for size in sizes]
    data = b"".join(frame(*each) for each in frames)
    splitter = FrameSplitter()
    found = []
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for start, end in pairwise(edges):
        found += splitter.feed(data[start:end])
    assert found == frames


@given(st.integers(0, 40))
def test_events_do_not_depend_on_how_they_were_cut(cut: int) -> None:
    """An event ends with an empty line, which may be cut in two."""
    data = b"event: a\ndata: 1\n\nevent: b\ndata: 2\n\n: rest"
    splitter = EventSplitter(chunked=False)
    found = [*splitter.feed(data[:cut]), *splitter.feed(data[cut:])]
    assert found == [(TEXT, b"event: a\ndata: 1"), (TEXT, b"event: b\ndata: 2")]


@given(st.lists(st.integers(0, 120), max_size=6), st.lists(st.integers(0, 200), max_size=6))
def test_chunks_may_end_within_an_event(chunks: list[int], cuts: list[int]) -> None:
    """As a proxy cuts them; their heads are no part of the events, wherever they stand, and may come in pieces too."""
    events = [b"event: a\ndata: 0000000012", b"event: b\ndata: \r\n9\r\n."]
    body = b"".join(event + b"\n\n" for event in events)
    edges = sorted({0, *(min(chunk, len(body)) for chunk in chunks), len(body)})
    coded = b"".join(b"%X;a=b\r\n%s\r\n" % (end - start, body[start:end]) for start, end in pairwise(edges))
    splitter = EventSplitter(chunked=True)
    found = []
    marks = sorted({0, *(min(cut, len(coded)) for cut in cuts), len(coded)})
    for start, end in pairwise(marks):
        found += splitter.feed(coded[start:end])
    assert found == [(TEXT, event) for event in events]


@pytest.mark.parametrize("head", [b"event: a", b"", b"-5", b"1_0"])
def test_stream_that_is_not_in_chunks_though_it_says_so_is_no_connection(head: bytes) -> None:
    """It is counted as lost, and is not the end of the process."""
    with pytest.raises(ConnectionError, match="not in chunks"):
        list(EventSplitter(chunked=True).feed(head + b"\r\n0123456789\r\n"))


def test_pong_is_masked_and_says_what_the_ping_said() -> None:
    """RFC 6455, 5.3 and 5.5.3."""
    assert pong(b"ab") == b"\x8a\x82\x00\x00\x00\x00ab"
