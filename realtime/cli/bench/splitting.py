"""What a server sends, cut into its messages; nothing is decoded. No I/O."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["CLOSE", "PING", "TEXT", "EventSplitter", "FrameSplitter", "pong"]

#: Opcodes of WebSocket (RFC 6455, 5.2).
TEXT, CLOSE, PING = 1, 8, 9
_PONG = 0x8A
_MASKED = 0x80
_HEAD_BYTES = 2
#: The length stands in so many bytes of its own.
_LENGTHS = {126: 2, 127: 8}
_LINE_END = b"\r\n"
_HEX_DIGITS = b"0123456789abcdefABCDEF"


class FrameSplitter:
    """Frames of WebSocket; those of a server have no mask."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """The opcode and the payload of each frame that is complete now."""
        if self._rest:
            data = self._rest + data
        at, end = 0, len(data)
        while end - at >= _HEAD_BYTES:
            start = at + _HEAD_BYTES
            length = data[at + 1]
            if length in _LENGTHS:
                start += _LENGTHS[length]
                # Short of bytes it comes out too small or too large; where it is too small `start` is beyond the end.
                length = int.from_bytes(data[at + _HEAD_BYTES : start])
            if start + length > end:
                break
            yield data[at] & 0x0F, data[start : start + length]
            at = start + length
        self._rest = data[at:]


class EventSplitter:
    """Events of an event stream, each as the text of a frame would be."""

    def __init__(self, *, chunked: bool) -> None:
        self._chunks = _Chunks() if chunked else None
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """The events that are complete now."""
        if self._chunks is not None:
            data = self._chunks.feed(data)
        *events, self._rest = (self._rest + data).split(b"\n\n")
        for event in events:
            yield TEXT, event


class _Chunks:
    """The chunk coding of a body (RFC 9112, 7.1), taken off: a proxy cuts where it likes, also within an event."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """What is in the chunks that are complete now. Raises ``ConnectionError`` for what is no chunk."""
        data = self._rest + data
        body, at = b"", 0
        while (end := data.find(_LINE_END, at)) >= 0:
            size = data[at:end].partition(b";")[0].strip()
            if not size or size.strip(_HEX_DIGITS):
                raise ConnectionError("what comes is not in chunks, as was said")
            start = end + len(_LINE_END)
            stop = start + int(size, 16)
            if stop + len(_LINE_END) > len(data):
                break
            body += data[start:stop]
            at = stop + len(_LINE_END)
        self._rest = data[at:]
        return body


def pong(payload: bytes) -> bytes:
    """The answer to a ping, masked as a client's frames must be: with zeros, which change nothing."""
    return bytes((_PONG, _MASKED | len(payload), 0, 0, 0, 0)) + payload
