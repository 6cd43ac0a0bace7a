"""How deep a JSON text is nested, told before anything decodes it: a bomb of brackets is refused for what it is."""

from __future__ import annotations

from itertools import accumulate

__all__ = ["exceeds_depth"]

#: What each bracket adds to the depth, as a signed byte.
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_OTHERS = bytes(set(range(256)) - set(b"[{]}"))


def exceeds_depth(text: bytes | bytearray | memoryview, most: int) -> bool:
    """Whether arrays and objects stand more than ``most`` deep in each other; any answer for what is no JSON.

    A text with few brackets costs two counts; any other takes time in proportion to its length, whatever it holds.
    """
    text = bytes(text)
    if text.count(b"[") + text.count(b"{") <= most:
        return False
    # Pairs of backslashes first: what is left of a run escapes the character after it.
    unescaped = text.replace(rb"\\", b"").replace(rb"\"", b"")
    outside_of_strings = b"".join(unescaped.split(b'"')[::2])
    steps = memoryview(outside_of_strings.translate(_STEPS, _OTHERS)).cast("b")
    return max(accumulate(steps), default=0) > most
